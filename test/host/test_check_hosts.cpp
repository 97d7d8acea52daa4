// The host of `ptq-host check` against the real one: what a plugin hands over must decode to the
// same numbers and take the same bytes on both. The two share no code on purpose, so that neither
// hides a mistake of the other; this is where they are held against each other.
#include <catch2/catch.hpp>
#include <cfloat>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "host/check/host.hpp"
#include "ptq/core/error.hpp"
#include "ptq/engine/cpu/encoded_rows.hpp"
#include "ptq/plugin.hpp"
#include "ptq/run/host_services.hpp"
#include "test/support/plugin_method.hpp"

namespace ptq::test {
namespace {

using plugin::Call;
using plugin::tensor;

// What a plugin does in one call.
using Fill = std::function<void(const Call&, ptq_encoding*)>;

// Of the cache of one layer and side, [heads, rows, columns]; `block` of its policy.
struct Place {
  int64_t heads = 2, rows = 32, columns = 40, block = 16;
  int64_t count() const { return heads * rows * columns; }
};

// Both return whether the host took the answer.
bool on_the_check(const Fill& fill, check::Encoding& encoding) {
  check::Host host;
  const ptq_call* call = host.begin();
  const ptq_status status =
      plugin::guarded(call, [&] { fill(Call(call), reinterpret_cast<ptq_encoding*>(&encoding)); });
  host.end();
  return status == PTQ_OK;
}
bool on_the_real(const Fill& fill, EncodedRows& rows) {
  HostSide host("test", {}, 0);
  try {
    host.invoke("encode", [&](const ptq_call* call) {
      return plugin::guarded(call, [&] { fill(Call(call), handle(rows)); });
    });
    return true;
  } catch (const Error&) {
    return false;
  }
}

// The first place where two lists differ by more than `margin`, or "".
std::string first_difference(const std::vector<float>& check, const std::vector<float>& real,
                             double margin = 0) {
  if (check.size() != real.size()) return "another number of numbers";
  for (size_t i = 0; i < check.size(); ++i)
    if (check[i] != real[i] && !(std::abs(double(check[i]) - double(real[i])) <= margin))
      return "number " + std::to_string(i) + ": check " + std::to_string(check[i]) + ", real " +
             std::to_string(real[i]);
  return {};
}

// Number i of packed ones.
int packed_number(const void* packed, int64_t i, int bits) {
  int number = 0;
  for (int64_t bit = i * bits; bit < (i + 1) * bits; ++bit)
    number |= (static_cast<const uint8_t*>(packed)[bit / 8] >> bit % 8 & 1) << (bit - i * bits);
  return number;
}

// The codes, scales and zero points of one matrix, as the real host's bytes say.
void must_be_stored_alike(const check::Encoding& encoding, AffineRows& matrix, int64_t head) {
  const AffineRows::Bytes bytes = matrix.stored();
  const auto of_head = [&](const auto& list) {
    const auto size = int64_t(list.size()) / encoding.batch;
    return std::vector<float>(list.begin() + head * size, list.begin() + (head + 1) * size);
  };
  const auto halves = [](const void* from, size_t count) {
    std::vector<float> out(count);
    to_float(DType::f16, from, int64_t(count), out.data());
    return out;
  };
  const int bits = encoding.how.bits;
  std::vector<float> codes, zeros;
  for (int64_t r = 0; r < encoding.rows; ++r) {
    const auto* row = static_cast<const uint8_t*>(bytes.codes) +
                      r * int64_t(check::packed_bytes(encoding.columns, bits));
    for (int64_t c = 0; c < encoding.columns; ++c)
      codes.push_back(float(packed_number(row, c, bits)));
  }
  CHECK(first_difference(of_head(encoding.codes), codes) == "");
  CHECK(first_difference(of_head(encoding.scale), halves(bytes.scales, bytes.scales_bytes / 2)) ==
        "");
  const std::vector<float> want = of_head(encoding.zero);
  if (encoding.how.grid == PTQ_GRID_MIN) zeros = halves(bytes.zeros, bytes.zeros_bytes / 2);
  for (int64_t i = 0; encoding.how.grid != PTQ_GRID_MIN && i < int64_t(want.size()); ++i)
    zeros.push_back(float(packed_number(bytes.zeros, i, bits)));
  CHECK(first_difference(want, zeros) == "");
}

// once: bytes that the real cache stores once for all blocks and the check does not count.
void must_agree(const Place& place, const Fill& fill, uint64_t once = 0, double margin = 0) {
  check::Encoding encoding;
  encoding.block = place.block;
  EncodedRows rows(place.heads, place.columns, place.block, 0, "test");
  rows.expect(place.rows);
  REQUIRE(on_the_check(fill, encoding));
  REQUIRE(on_the_real(fill, rows));

  std::vector<float> numbers(size_t(place.count()));
  const int64_t matrix = place.rows * place.columns;
  for (int64_t h = 0; h < place.heads; ++h)
    rows.read(h, 0, place.rows, numbers.data() + h * matrix, place.columns);
  CHECK(first_difference(encoding.decode(), numbers, margin) == "");
  CHECK(encoding.stored_bytes() + once == rows.bytes());
  for (int64_t h = 0; !encoding.codes.empty() && h < place.heads; ++h)
    must_be_stored_alike(encoding, rows.affine_matrix(h), h);
}

// Numbers from ordinary to the limits of float16 and float32; every other group of 16 rows differs.
std::map<std::string, std::vector<float>> blocks_of_numbers(int64_t count) {
  const std::vector<float> u = noise(count, 21);
  std::map<std::string, std::vector<float>> all;
  const auto add = [&](const char* name, const std::function<float(size_t)>& at) {
    for (size_t i = 0; i < u.size(); ++i) all[name].push_back(at(i));
  };
  add("random", [&](size_t i) { return u[i]; });
  add("zeros", [&](size_t) { return 0.0f; });
  add("zeros of both signs", [&](size_t i) { return u[i] < 0 ? -0.0f : 0.0f; });
  add("some rows of zeros", [&](size_t i) { return i / 640 % 2 ? u[i] : 0.0f; });
  add("constant", [&](size_t) { return 3.1f; });
  add("negative constant", [&](size_t) { return -0.3f; });
  add("constant beyond float16", [&](size_t) { return -1e5f; });
  add("positive", [&](size_t i) { return 1 + std::abs(u[i]); });
  add("negative", [&](size_t i) { return -1 - std::abs(u[i]); });
  add("halves", [&](size_t i) { return std::rint(2 * u[i]) / 2; });
  add("tiny", [&](size_t i) { return 1e-7f * u[i]; });
  add("below float16", [&](size_t i) { return 1e-9f * u[i]; });
  add("below normal float32", [&](size_t i) { return 1e-42f * u[i]; });
  add("tiny spread", [&](size_t i) { return 1 + 1e-7f * u[i]; });
  add("at the limit of float16", [&](size_t i) { return 30000 * u[i]; });
  add("beyond float16", [&](size_t i) { return 1e6f * u[i]; });
  add("offset beyond float16", [&](size_t i) { return 1e5f + u[i]; });
  add("at the limit of float32", [&](size_t i) { return std::copysign(FLT_MAX, u[i]); });
  return all;
}

}  // namespace

TEST_CASE("check and real host round alike on every affine grid", "[check]") {
  Place place;
  place.columns = GENERATE(37, 40);
  const std::map<std::string, std::vector<float>> blocks = blocks_of_numbers(place.count());
  for (const auto& [name, x] : blocks)
    for (const int bits : {1, 2, 3, 4, 8})
      for (int grid = PTQ_GRID_MIN; grid <= PTQ_GRID_ASYM_AWQ; ++grid)
        for (const int axis : {0, 1})
          for (const int64_t group : {0, 1, 5, 8, 16, 100}) {
            const bool no_step =
                bits == 1 && (grid == PTQ_GRID_SYM_NARROW || grid == PTQ_GRID_SYM_FULL);
            if (no_step || (axis == 0 && group == 5)) continue;  // refused, see below
            INFO(name << ", " << bits << " bits, grid " << grid << ", axis " << axis << ", group "
                      << group << ", columns " << place.columns);
            must_agree(place, [&](const Call& call, ptq_encoding* out) {
              call.affine(tensor(x.data(), {place.heads, place.rows, place.columns}), bits, grid,
                          axis, group, out);
            });
          }
}

TEST_CASE("a group of zeros has scale 1 and the middle of the codes", "[check]") {
  const std::vector<float> zeros(16);
  for (int grid = PTQ_GRID_MIN; grid <= PTQ_GRID_ASYM_AWQ; ++grid) {
    INFO("grid " << grid);
    check::Encoding encoding;
    REQUIRE(on_the_check(
        [&](const Call& call, ptq_encoding* out) {
          call.affine(tensor(zeros.data(), {1, 1, 16}), 4, grid, 1, 0, out);
        },
        encoding));
    const bool minimum = grid == PTQ_GRID_MIN;  // as every constant group: scale 0 and code 0
    CHECK(encoding.scale == std::vector<float>{minimum ? 0.0f : 1.0f});
    CHECK(encoding.codes == std::vector<uint8_t>(16, minimum ? 0 : 8));
    CHECK(encoding.decode() == zeros);
  }
}

TEST_CASE("check and real host take a method's own codes alike", "[check]") {
  const Place place{2, 32, 37, 16};
  const std::vector<float> u = noise(place.count(), 5);
  for (const int bits : {1, 2, 3, 4, 8})
    for (int grid = PTQ_GRID_MIN; grid <= PTQ_GRID_ASYM_AWQ; ++grid)
      for (const int axis : {0, 1})
        for (const int64_t group : {0, 5, 8}) {
          const bool no_step =
              bits == 1 && (grid == PTQ_GRID_SYM_NARROW || grid == PTQ_GRID_SYM_FULL);
          if (no_step || (axis == 0 && group == 5)) continue;  // refused, see below
          INFO(bits << " bits, grid " << grid << ", axis " << axis << ", group " << group);
          const float n = float((1 << bits) - 1);
          std::vector<uint8_t> codes;
          for (const float v : u) codes.push_back(uint8_t((v + 3) / 6 * n));
          const auto groups = [&](int64_t length) {
            return group == 0 ? 1 : (length + group - 1) / group;
          };
          // Where the groups lie along the rows, a block of 16 is one group for group_size 0.
          const int64_t group_rows = axis == 1    ? place.rows
                                     : group == 0 ? place.rows / place.block
                                                  : groups(place.rows);
          const int64_t group_columns = axis == 1 ? groups(place.columns) : place.columns;
          std::vector<float> scale, zero;
          for (int64_t g = 0; g < place.heads * group_rows * group_columns; ++g) {
            const float v = u[size_t(g)];
            scale.push_back(g % 7 == 0 ? 0.0f : v);
            zero.push_back(grid == PTQ_GRID_MIN ? 100 * v : std::rint((v + 3) / 6 * n));
          }
          const bool symmetric = grid >= PTQ_GRID_SYM_NARROW && grid <= PTQ_GRID_SYM_GPTQ;
          must_agree(place, [&](const Call& call, ptq_encoding* out) {
            const ptq_affine how{
                sizeof how, bits, grid, axis, axis == 0 && group == 0 ? place.block : group,
                nullptr};
            const ptq_tensor zeros = tensor(zero.data(), {place.heads, group_rows, group_columns});
            call.affine_codes(tensor(codes.data(), {place.heads, place.rows, place.columns}),
                              tensor(scale.data(), {place.heads, group_rows, group_columns}),
                              symmetric ? nullptr : &zeros, how, out);
          });
        }
}

TEST_CASE("check and real host store 16-bit numbers alike", "[check]") {
  const Place place;
  for (const auto& [name, x] : blocks_of_numbers(place.count()))
    for (const ptq_dtype dtype : {ptq_dtype{PTQ_FLOAT, 16, 1}, ptq_dtype{PTQ_BFLOAT, 16, 1}}) {
      INFO(name << ", type " << int(dtype.code));
      must_agree(place, [&](const Call& call, ptq_encoding* out) {
        call.dense(tensor(x.data(), {place.heads, place.rows, place.columns}), dtype, out);
      });
    }
}

TEST_CASE("check and real host decode a codebook alike", "[check]") {
  const Place place{3, 16, 37, 1};
  const std::vector<float> u = noise(place.count(), 6);
  for (const int bits : {1, 2, 3, 4, 8})
    for (const int scaling : {PTQ_SCALE_PER_ROW, PTQ_SCALE_PER_TOKEN, PTQ_SCALE_PER_COLUMN})
      for (const bool has_offset : {false, true}) {
        INFO(bits << " bits, scaling " << scaling << ", offset " << has_offset);
        std::vector<uint8_t> codes;
        for (const float v : u) codes.push_back(uint8_t((v + 3) / 6 * float((1 << bits) - 1)));
        // Few bits each, so that level * scale is exact with and without a fused product.
        std::vector<float> levels;
        for (int i = 0; i < 1 << bits; ++i) levels.push_back(float(i * i % 251 - 100) / 64);
        const int64_t scales = scaling == PTQ_SCALE_PER_ROW     ? place.heads * place.rows
                               : scaling == PTQ_SCALE_PER_TOKEN ? place.rows
                                                                : place.heads * place.columns;
        const uint64_t once =
            4 * levels.size() +
            (scaling == PTQ_SCALE_PER_COLUMN ? uint64_t(2 * scales * (has_offset ? 2 : 1)) : 0);
        must_agree(
            place,
            [&](const Call& call, ptq_encoding* out) {
              const ptq_tensor offset = tensor(u.data() + 7, {scales});
              call.codebook(tensor(codes.data(), {place.heads, place.rows, place.columns}),
                            tensor(levels.data(), {int64_t(levels.size())}),
                            tensor(u.data(), {scales}), has_offset ? &offset : nullptr, bits,
                            scaling, out);
            },
            once);
      }
}

TEST_CASE("check and real host factorise alike", "[check]") {
  // The two decompositions are different algorithms and their factors are rounded to float16: the
  // numbers agree to a few of its steps, ranks and bytes exactly.
  const Place place{2, 32, 24, 16};
  const std::vector<float> u = noise(place.count(), 7);
  const auto smooth = [&](float share) {  // rows that are alike, but for a share of noise
    std::vector<float> x;
    for (size_t i = 0; i < u.size(); ++i) x.push_back(u[i % 24] + share * u[i]);
    return x;
  };
  std::map<std::string, std::vector<float>> blocks = {
      {"random", u}, {"alike", smooth(0.1f)}, {"nearly equal", smooth(1e-3f)}};
  const auto scaled = [&](float by) {
    std::vector<float> x = smooth(0.1f);
    for (float& v : x) v *= by;
    return x;
  };
  blocks["zeros"] = std::vector<float>(u.size());
  blocks["beyond float16"] = scaled(1e6f);
  blocks["limit of float32"] = std::vector<float>(u.size(), FLT_MAX);
  for (const auto& [name, x] : blocks) {
    float largest = 0;
    for (const float v : x) largest = std::max(largest, std::abs(v));
    for (const int64_t chunk : {4, 16, 32})
      for (const double energy : {0.5, 0.95})
        for (uint32_t flags = 0; flags < 8; ++flags)
          for (const int64_t least : {0, 3}) {
            INFO(name << ", chunk " << chunk << ", energy " << energy << ", flags " << flags
                      << ", min_rank " << least);
            const ptq_lowrank how{sizeof how, flags, chunk, least, least == 0 ? 0 : 8, energy};
            must_agree(
                place,
                [&](const Call& call, ptq_encoding* out) {
                  call.lowrank(tensor(x.data(), {place.heads, place.rows, place.columns}), how,
                               out);
                },
                0, double(largest) / 128);
          }
  }
}

TEST_CASE("check and real host lay exact values over an encoding alike", "[check]") {
  for (const int64_t columns : {40, 300, 40000})
    for (const bool fixed : {true, false})
      for (const int64_t k : {1, 3}) {
        const Place place{2, 4, columns, 1};
        INFO(columns << " columns, fixed " << fixed << ", " << k << " in a row");
        const std::vector<float> x = noise(place.count(), 8);
        std::vector<int32_t> index;
        std::vector<float> value;
        for (int64_t i = 0; i < place.heads * place.rows * k; ++i) {
          index.push_back(!fixed && i % 3 == 0 ? -1 : int32_t((i % k) * (columns / k) + i % 5));
          value.push_back(i % 4 == 0 ? -65519.0f : 10 * x[size_t(i)]);
        }
        must_agree(place, [&](const Call& call, ptq_encoding* out) {
          call.affine(tensor(x.data(), {place.heads, place.rows, columns}), 2, PTQ_GRID_MIN, 1, 0,
                      out);
          call.outliers(tensor(index.data(), {place.heads, place.rows, k}),
                        tensor(value.data(), {place.heads, place.rows, k}), fixed, out);
        });
      }
}

TEST_CASE("check and real host refuse the same answers", "[check]") {
  const Place place;
  const std::vector<float> x = noise(place.count(), 9);
  const ptq_tensor all = tensor(x.data(), {place.heads, place.rows, place.columns});
  const auto refuse = [&](const char* what, const Fill& fill) {
    INFO(what);
    check::Encoding encoding;
    encoding.block = place.block;
    CHECK_FALSE(on_the_check(fill, encoding));
    EncodedRows rows(place.heads, place.columns, place.block, 0, "test");
    rows.expect(place.rows);
    CHECK_FALSE(on_the_real(fill, rows));
  };
  const auto affine = [&](int bits, int grid, int axis, int64_t group) {
    return [=, &all](const Call& call, ptq_encoding* out) {
      call.affine(all, bits, grid, axis, group, out);
    };
  };
  refuse("5 bits", affine(5, PTQ_GRID_MIN, 1, 0));
  refuse("grid 7", affine(4, 7, 1, 0));
  refuse("a grid without a step", affine(1, PTQ_GRID_SYM_FULL, 1, 0));
  refuse("axis 2", affine(4, PTQ_GRID_MIN, 2, 0));
  refuse("a negative group", affine(4, PTQ_GRID_MIN, 1, -1));
  refuse("a group that does not divide the block", affine(4, PTQ_GRID_MIN, 0, 5));
  std::vector<float> infinite = x;
  infinite[100] = INFINITY;
  refuse("a number that is not finite", [&](const Call& call, ptq_encoding* out) {
    call.affine(tensor(infinite.data(), {place.heads, place.rows, place.columns}), 4, PTQ_GRID_MIN,
                1, 0, out);
  });
  refuse("outliers without an encoding", [&](const Call& call, ptq_encoding* out) {
    const std::vector<int32_t> index(size_t(place.heads * place.rows));
    call.outliers(tensor(index.data(), {place.heads, place.rows, 1}),
                  tensor(x.data(), {place.heads, place.rows, 1}), true, out);
  });
  refuse("an outlier beyond float16", [&](const Call& call, ptq_encoding* out) {
    call.affine(all, 4, PTQ_GRID_MIN, 1, 0, out);
    const std::vector<int32_t> index(size_t(place.heads * place.rows));
    const std::vector<float> value(index.size(), 65520.0f);
    call.outliers(tensor(index.data(), {place.heads, place.rows, 1}),
                  tensor(value.data(), {place.heads, place.rows, 1}), true, out);
  });
}

}  // namespace ptq::test
