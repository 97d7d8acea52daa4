// The cache on the device: every encoding and policy that the CPU's cache has, read by the kernels.
// References: ptq::EncodedRows, ptq::KvRows and attention in float64.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ptq/engine/cpu/kv_cache.hpp"
#include "ptq/engine/cuda/kernels/attention.cuh"
#include "ptq/engine/cuda/kv_cache.hpp"
#include "test/cuda/cuda_test.hpp"
#include "test/support/reference_attention.hpp"

using namespace ptq;
using namespace ptq::test;

namespace {

constexpr int64_t kHeads = 2;

// Answers of a method for n rows of every head; the same for the same rows.
using Fill = std::function<void(RowSink&, int64_t n, int64_t dim, uint32_t seed)>;

Fill affine(AffineFormat f) {
  return [f](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    out.affine(f, kHeads, n, dim, random_floats(size_t(kHeads * n * dim), seed, 3).data());
  };
}
Fill dense(DType dtype) {
  return [dtype](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    out.dense(dtype, kHeads, n, dim, random_floats(size_t(kHeads * n * dim), seed, 3).data());
  };
}
Fill codebook(CodebookFormat f) {
  return [f](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<uint8_t> codes(size_t(kHeads * n * dim));
    for (uint8_t& c : codes) c = uint8_t(random() % (1u << f.bits));
    const int64_t scales = f.scale == ScaleOf::row     ? kHeads * n
                           : f.scale == ScaleOf::token ? n
                                                       : kHeads * dim;
    const uint32_t shared = f.scale == ScaleOf::column ? 77 : seed;  // given once for all blocks
    const auto levels = random_floats(size_t{1} << f.bits, 5),
               scale = random_floats(size_t(scales), shared + 1, 2),
               offset = random_floats(size_t(scales), shared + 2);
    out.codebook(f, kHeads, n, dim, codes.data(), levels.data(), scale.data(),
                 f.has_offset ? offset.data() : nullptr);
  };
}
// Chunks of zeros, of rank one and of noise, which is kept as it is where the format says so.
Fill lowrank(LowRankFormat f) {
  return [f](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    auto x = random_floats(size_t(kHeads * n * dim), seed);
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < dim; ++c) {
          float& v = x[size_t((h * n + r) * dim + c)];
          const int64_t kind = (r / f.chunk + h) % 3;
          if (kind == 0) v = 0;
          if (kind == 1) v = 0.5f + 0.3f * float(r % f.chunk) + 0.01f * v + 0.1f * float(c % 5);
        }
    out.lowrank(f, kHeads, n, dim, x.data());
  };
}

enum class Outliers { none, fixed, sparse };

Fill with_outliers(Fill base, Outliers kind) {
  if (kind == Outliers::none) return base;
  return [base, kind](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    base(out, n, dim, seed);
    constexpr int64_t k = 3;
    std::vector<int32_t> index;
    for (int64_t r = 0; r < kHeads * n; ++r)
      for (int64_t i = 0; i < k; ++i) {  // the first and the last column, too
        const bool unused = kind == Outliers::sparse && (r + i) % 3 == 0;
        index.push_back(unused ? -1
                               : int32_t(i == 0 ? (r % 2) * (dim - 1) : (r * 5 + 3 * i) % dim));
      }
    const auto value = random_floats(index.size(), seed + 9, 20);
    out.outliers(kind == Outliers::fixed, kHeads, n, k, index.data(), value.data());
  };
}

// Rows [begin, begin + 64) of a head as attention reads them, to out [64, dim].
template <int D>
__global__ void read_tile_kernel(cuda::SideView side, int sink, int high, bool encoded, int head,
                                 int dim, int begin, int end, float* out) {
  float* tile = reinterpret_cast<float*>(cuda::dynamic_shared());
  constexpr int kStride = D + cuda::kTilePad<float>;
  cuda::attention_detail::load_tile<float, D, 1, false>(side, {sink, high, high}, encoded, head,
                                                        dim, begin, end, tile);
  __syncthreads();
  for (int i = int(threadIdx.x); i < cuda::kKeyTile * dim; i += int(blockDim.x))
    out[i] = tile[i / dim * kStride + i % dim];
}

std::vector<float> read_tile(const cuda::SideView& side, int64_t sink, int64_t high, bool encoded,
                             int64_t head, int64_t dim, int64_t begin, int64_t end) {
  const OnDevice<float> out(size_t(cuda::kKeyTile * dim));
  const auto launch = [&](auto width) {
    constexpr int D = decltype(width)::value;
    queue().launch("read_tile", read_tile_kernel<D>, dim3(1),
                   dim3(cuda::kAttentionWarps * cuda::kWarpLanes),
                   sizeof(float) * cuda::kKeyTile * (D + cuda::kTilePad<float>), side, int(sink),
                   int(high), encoded, int(head), int(dim), int(begin), int(end), out.data());
  };
  if (dim <= 32)
    launch(std::integral_constant<int, 32>{});
  else if (dim <= 64)
    launch(std::integral_constant<int, 64>{});
  else
    launch(std::integral_constant<int, 128>{});
  return out.get();
}

std::vector<float> frequencies(int64_t dim) {
  std::vector<float> f;
  for (int64_t i = 0; i < dim / 2; ++i)
    f.push_back(std::pow(10000.0f, -2.0f * float(i) / float(dim)));
  return f;
}

// The tables of the rotation in device memory.
struct Angles {
  std::vector<float> c, s;
  OnDevice<float> cosine, sine;
  Angles(int64_t dim, int64_t positions)
      : c(table(dim, positions, false)), s(table(dim, positions, true)), cosine(c), sine(s) {}
  static std::vector<float> table(int64_t dim, int64_t positions, bool sine) {
    std::vector<float> x;
    for (int64_t p = 0; p < positions; ++p)
      for (const float f : frequencies(dim))
        x.push_back(sine ? std::sin(float(p) * f) : std::cos(float(p) * f));
    return x;
  }
};

// Reads what `fill` answers in two calls through both caches.
void check_reading(const std::string& name, const Fill& fill, int64_t dim, bool hadamard,
                   bool pre_rope) {
  constexpr int64_t first = 5, half = 24, n = 40;
  Rotary rotary(Rope{frequencies(dim), 1.0f}, false);
  rotary.extend(first + n);
  const Angles angles(dim, first + n);
  cuda::CacheHome home{arena(), queue(), {}, nullptr};
  ptq::EncodedRows want(kHeads, dim, 8, first, "test", pre_rope ? &rotary : nullptr, hadamard);
  cuda::EncodedRows rows(home, kHeads, dim, 8, first, "test");
  for (const int64_t part : {half, n - half}) {
    want.expect(part);
    fill(want, part, dim, uint32_t(part));
    rows.expect(part, false);
    fill(rows, part, dim, uint32_t(part));
  }
  INFO(name << ", dim " << dim << (hadamard ? ", Hadamard" : "") << (pre_rope ? ", pre-RoPE" : ""));
  CHECK(rows.bytes() == want.bytes());
  cuda::SideView view;
  rows.describe(view);
  view.policy.hadamard = hadamard;
  if (pre_rope) {
    view.cosine = angles.cosine.data();
    view.sine = angles.sine.data();
  }
  CHECK(view.plain() ==
        (view.stored <= cuda::Stored::affine && !view.outliers.present && !hadamard && !pre_rope));
  for (int64_t h = 0; h < kHeads; ++h) {
    std::vector<float> expected(size_t(cuda::kKeyTile * dim));  // zeros where nothing is
    want.read(h, first, first + n, expected.data() + first * dim, dim);
    const auto got = read_tile(view, first, first + n, true, h, dim, 0, first + n);
    // The same operations, which compilers fuse differently.
    double largest = 1;
    for (const float x : expected) largest = std::max(largest, std::abs(double(x)));
    CHECK(difference(got, expected) <= 1e-6 * largest);
  }
}

}  // namespace

TEST_CASE("cuda: every encoding is read as the CPU reads it", "[cuda]") {
  std::vector<std::pair<std::string, Fill>> all = {
      {"affine, axis 0", affine({2, Grid::min, 0, 8})},
      {"affine, axis 1", affine({3, Grid::asym_gptq, 1, 16})},
      {"dense f16", dense(DType::f16)},
      {"dense bf16", dense(DType::bf16)},
  };
  for (const int bits : {1, 2, 3, 4, 8})
    for (const ScaleOf scale : {ScaleOf::row, ScaleOf::token, ScaleOf::column})
      all.emplace_back(
          "codebook, bits " + std::to_string(bits) + ", scale " + std::to_string(int(scale)),
          codebook({bits, scale, (bits + int(scale)) % 2 == 0}));
  for (const bool center : {false, true})
    for (const bool raw : {false, true})
      all.emplace_back(std::string("low-rank") + (center ? ", centred" : "") + (raw ? ", raw" : ""),
                       lowrank({8, 0, raw ? 0 : 3, 0.9, center, raw, raw}));
  for (const auto& [name, fill] : all)
    for (const int64_t dim : {16, 64, 128})
      for (const Outliers outliers : {Outliers::none, Outliers::fixed, Outliers::sparse}) {
        const Fill full = with_outliers(fill, outliers);
        const std::string what = name + (outliers == Outliers::none    ? ""
                                         : outliers == Outliers::fixed ? ", outliers"
                                                                       : ", sparse outliers");
        check_reading(what, full, dim, false, false);
        check_reading(what, full, dim, true, true);
      }
  check_reading("codebook", codebook({4, ScaleOf::row, true}), 32, true, false);
  check_reading("codebook", codebook({4, ScaleOf::row, true}), 32, false, true);
  // Rows that are not whole vectors; what cannot be rotated is read as it is.
  check_reading("codebook", codebook({3, ScaleOf::column, true}), 20, false, false);
  check_reading("low-rank", lowrank({8, 0, 0, 0.9, true, false, false}), 20, false, false);
  check_reading("affine", affine({2, Grid::min, 0, 8}), 4, true, false);
  check_reading("affine", affine({2, Grid::min, 0, 8}), 80, false, true);
}

TEST_CASE("cuda: more outliers than a byte counts, and wide indices", "[cuda]") {
  // 300 columns in all need two bytes of index only where the layout counts over all heads.
  const Fill fill = [](RowSink& out, int64_t n, int64_t dim, uint32_t seed) {
    affine({4, Grid::min, 1, 16})(out, n, dim, seed);
    std::vector<int32_t> index;
    for (int64_t r = 0; r < kHeads * n; ++r)
      for (int64_t c = 0; c < dim; ++c) index.push_back(c % 4 == 0 ? int32_t(c) : -1);
    out.outliers(false, kHeads, n, dim, index.data(), random_floats(index.size(), seed, 9).data());
  };
  check_reading("sparse", fill, 128, false, false);
}

TEST_CASE("cuda: what an encoder may not do is one sentence", "[cuda]") {
  cuda::CacheHome home{arena(), queue(), {}, nullptr};
  const auto rows = [&] { return cuda::EncodedRows(home, kHeads, 16, 8, 0, "layer 3, keys"); };
  const auto once = [](cuda::EncodedRows& r, const Fill& fill, uint32_t seed = 1,
                       bool on_device = false) {
    r.expect(8, on_device);
    fill(r, 8, 16, seed);
  };
  {
    auto r = rows();
    once(r, codebook({4, ScaleOf::row, false}));
    CHECK_THROWS_WITH(once(r, codebook({3, ScaleOf::row, false})),
                      Catch::Contains("different formats") && Catch::Contains("layer 3"));
    CHECK_THROWS_WITH(once(r, affine({4, Grid::min, 1, 16})), Catch::Contains("different formats"));
  }
  {  // levels of an earlier block are remembered
    auto r = rows();
    once(r, codebook({4, ScaleOf::row, false}));
    CHECK_THROWS_WITH(once(r,
                           [](RowSink& out, int64_t n, int64_t dim, uint32_t) {
                             const std::vector<uint8_t> codes(size_t(kHeads * n * dim));
                             const std::vector<float> levels(16, 2.0f), scale(size_t(kHeads * n));
                             out.codebook({4, ScaleOf::row, false}, kHeads, n, dim, codes.data(),
                                          levels.data(), scale.data(), nullptr);
                           }),
                      Catch::Contains("differ between blocks"));
  }
  {  // outliers on every block or on none
    auto r = rows();
    once(r, with_outliers(dense(DType::f16), Outliers::fixed));
    once(r, dense(DType::f16));
    CHECK_THROWS_WITH(once(r, dense(DType::f16)), Catch::Contains("different formats"));
  }
  {
    auto r = rows();
    CHECK_THROWS_WITH(once(r, codebook({4, ScaleOf::row, false}), 1, true),
                      Catch::Contains("codes in device memory"));
    auto q = rows();
    q.expect(16, false);
    CHECK_THROWS_WITH(q.lowrank({12, 0, 0, 0.9, false, false, false}, kHeads, 16, 16,
                                random_floats(512, 1).data()),
                      Catch::Contains("multiple of chunk"));
  }
  {  // rows on the device are factorised on the host
    const auto x = random_floats(size_t(kHeads * 8 * 16), 3);
    const OnDevice<float> dx(x);
    const LowRankFormat f{8, 0, 4, 0.9, true, false, false};
    auto a = rows(), b = rows();
    a.expect(8, true);
    a.lowrank(f, kHeads, 8, 16, dx.data());
    b.expect(8, false);
    b.lowrank(f, kHeads, 8, 16, x.data());
    cuda::SideView v, w;
    a.describe(v);
    b.describe(w);
    CHECK(a.bytes() == b.bytes());
    CHECK(read_tile(v, 0, 8, true, 1, 16, 0, 8) == read_tile(w, 0, 8, true, 1, 16, 0, 8));
  }
}

TEST_CASE("cuda: a refused answer leaves the rows as they were", "[cuda]") {
  cuda::CacheHome home{arena(), queue(), {}, nullptr};
  const auto wrong_codes = [](RowSink& out) {  // of the second head
    std::vector<uint8_t> codes(size_t(kHeads * 8 * 16), 3);
    codes.back() = 200;
    const std::vector<float> scale(size_t(kHeads * 8), 1.0f);
    out.affine_codes({2, Grid::sym_narrow, 1, 0}, kHeads, 8, 16, codes.data(), scale.data(),
                     nullptr);
  };
  for (const Fill& second :
       {affine({8, Grid::min, 1, 16}), dense(DType::bf16), codebook({4, ScaleOf::row, true}),
        lowrank({8, 0, 3, 0.9, false, false, false})}) {
    cuda::EncodedRows r(home, kHeads, 16, 8, 0, "test"), plain(home, kHeads, 16, 8, 0, "test");
    r.expect(8, false);
    CHECK_THROWS_WITH(affine({5, Grid::min, 1, 0})(r, 8, 16, 1), Catch::Contains("bits = 5"));
    CHECK_THROWS_WITH(wrong_codes(r), Catch::Contains("code 200"));
    CHECK(!r.filled());
    CHECK(r.rows() == 0);
    second(r, 8, 16, 1);
    plain.expect(8, false);
    second(plain, 8, 16, 1);
    CHECK(r.filled());
    CHECK(r.bytes() == plain.bytes());
    cuda::SideView v, w;
    r.describe(v);
    plain.describe(w);
    CHECK(read_tile(v, 0, 8, true, 1, 16, 0, 8) == read_tile(w, 0, 8, true, 1, 16, 0, 8));
  }
}

namespace {

// A policy for both sides, and what becomes of the rows.
struct TestMethod final : KvMethod {
  KvPolicy keys, values;
  std::function<void(RowSink&, KvSide, int64_t n, const float* x)> answer;
  bool device = false;

  KvPolicy policy(KvSide side) const override { return side == KvSide::keys ? keys : values; }
  void encode(KvSide side, int, int64_t, int64_t tokens, const float* x, RowSink& out) override {
    answer(out, side, tokens, x);
  }
  bool on_cuda() const override { return device; }
  void encode_on(const CudaPlace&, KvSide side, int, int64_t, int64_t tokens, const float* x,
                 RowSink& out) override {
    answer(out, side, tokens, x);
  }
};

// Rows go through both caches in the given pieces; every piece attends to all before it.
template <class T>
void check_cache(const std::string& name, TestMethod& method, int64_t dim,
                 const std::vector<int64_t>& pieces, bool bare_boundary = false) {
  constexpr int64_t group = 2, heads = group * kHeads;
  const int64_t width = kHeads * dim;
  int64_t total = 0;
  for (const int64_t n : pieces) total += n;
  Rotary rotary(Rope{frequencies(dim), 1.0f}, false);
  const Angles angles(dim, total);
  const OnDevice<int32_t> flags(std::vector<int32_t>(2));
  cuda::CacheHome home{arena(), queue(), {}, flags.data()};
  home.cosine = angles.cosine.data();
  home.sine = angles.sine.data();
  ptq::KvLayer want(kHeads, dim, 0, &method, DType::f32, &rotary);
  cuda::KvLayer cache(home, kHeads, dim, 0, &method, DType::f32);

  int64_t position = 0;
  for (const int64_t n : pieces) {
    INFO(name << ", dim " << dim << ", " << n << " rows behind " << position);
    const uint32_t seed = uint32_t(position) + 11;
    const auto k = random_floats(size_t(n * width), seed), v = random_floats(k.size(), seed + 1);
    const auto q = floats(as<T>(random_floats(size_t(n * heads * dim), seed + 2, 2)));
    const OnDevice<float> dk(k), dv(v);
    const OnDevice<T> dq(as<T>(q)), out(q.size());

    want.keys.append(k.data(), n);
    want.values.append(v.data(), n);
    cache.keys.reserve(n);
    cache.values.reserve(n);
    cache.keys.extend(n);
    cache.values.extend(n);
    const int64_t fixed = bare_boundary ? cache.keys.held(position) : -1;
    const auto segments = [&] {
      return std::vector<cuda::SegmentView>{
          {0, n, position, cache.keys.view(fixed),
           cache.values.view(bare_boundary ? cache.values.held(position) : -1)}};
    };
    {
      const OnDevice<cuda::SegmentView> ds(segments());
      const OnDevice<int32_t> of_row(std::vector<int32_t>(size_t(n), 0));
      cuda::append_rows(queue(), dk.data(), dv.data(), ds.data(), of_row.data(), n, width);
      cuda::append_unrotated(queue(), dk.data(), ds.data(), of_row.data(), n, width);
    }
    for (auto* rows : {&want.keys, &want.values}) rows->encode();
    for (auto* rows : {&cache.keys, &cache.values}) rows->encode();

    const auto views = segments();
    const cuda::AttentionPlan plan = cuda::plan_attention(1, n, heads, kHeads, n == 1 ? 4 : 1);
    std::vector<cuda::AttentionItem> items;
    for (int64_t at = 0; at < n; at += plan.queries_per_block)
      items.push_back({0, int32_t(at), int32_t(std::min(plan.queries_per_block, n - at))});
    const OnDevice<cuda::SegmentView> ds(views);
    const OnDevice<cuda::AttentionItem> di(items);
    const OnDevice<float> partial(size_t(plan.splits * n * heads * dim)),
        lse(size_t(plan.splits * n * heads));
    const cuda::AttentionArguments<T> a{
        dq.data(),  out.data(), partial.data(),
        lse.data(), ds.data(),  di.data(),
        n,          heads,      kHeads,
        dim,        0,          1.4426950408889634f / std::sqrt(float(dim))};
    cuda::attention(queue(), a, int64_t(items.size()), plan, false);
    const auto got = floats(out.get());

    for (int64_t i = 0; i < n; ++i)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t t = position + i;
        const auto boundary = [&](const ptq::KvRows& rows) {
          return bare_boundary ? rows.held(position) : rows.boundary(t);
        };
        std::vector<int64_t> visible;
        for (int64_t s = 0; s <= t; ++s)
          if (!method.keys.evicts || s < want.keys.sink() || s >= boundary(want.keys))
            visible.push_back(s);
        const auto pick = [&](const ptq::KvRows& rows) {
          return [&, b = boundary(rows)](int64_t j) {
            const int64_t s = visible[size_t(j)];
            std::vector<float> x(static_cast<size_t>(dim));
            if (s >= rows.sink() && s < b && !method.keys.evicts)
              rows.encoded().read(h / group, s, s + 1, x.data(), dim);
            else
              rows.read(h / group, s, s + 1, x.data(), dim);
            return x;
          };
        };
        const auto expected =
            reference_attention(q.data() + (i * heads + h) * dim, dim, int64_t(visible.size()) - 1,
                                0, pick(want.keys), pick(want.values));
        for (int64_t d = 0; d < dim; ++d) {
          INFO("query " << i << ", head " << h << ", column " << d);
          REQUIRE(!(std::abs(double(got[size_t((i * heads + h) * dim + d)]) - expected[size_t(d)]) >
                    (std::is_same_v<T, float> ? 2e-5 : 3e-2)));
        }
      }
    for (auto* rows : {&want.keys, &want.values}) rows->release();
    for (auto* rows : {&cache.keys, &cache.values}) rows->release();
    CacheBytes x, y;
    want.keys.add_bytes(x);
    want.values.add_bytes(x);
    cache.keys.add_bytes(y);
    cache.values.add_bytes(y);
    CHECK(x.encoded == y.encoded);
    CHECK(x.window == y.window);
    CHECK(x.sink == y.sink);
    CHECK(x.scalars == y.scalars);
    position += n;
  }
}

// Codes of the nearest of 8 levels, and the largest value of each row exact: after KVQuant.
void nearest_levels(RowSink& out, int64_t n, int64_t dim, const float* x) {
  std::vector<float> levels, scale(size_t(kHeads * n), 1.0f), value;
  for (int i = 0; i < 8; ++i) levels.push_back(float(i) * 0.25f - 0.875f);
  std::vector<uint8_t> codes;
  std::vector<int32_t> index;
  for (int64_t r = 0; r < kHeads * n; ++r) {
    int64_t largest = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const float v = x[r * dim + c];
      codes.push_back(uint8_t(std::clamp(std::lround((v + 0.875f) * 4), 0l, 7l)));
      if (std::abs(v) > std::abs(x[r * dim + largest])) largest = c;
    }
    index.push_back(int32_t(largest));
    value.push_back(x[r * dim + largest]);
  }
  out.codebook({3, ScaleOf::row, false}, kHeads, n, dim, codes.data(), levels.data(), scale.data(),
               nullptr);
  out.outliers(true, kHeads, n, 1, index.data(), value.data());
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: attention over every kind of cache", "[cuda]", float, cuda::Bf16) {
  using T = TestType;
  for (const int64_t dim : {16, 64}) {
    TestMethod kvquant;
    kvquant.keys = {3, 8, 1, true};
    kvquant.values = {3, 8, 1};
    kvquant.answer = [&](RowSink& out, KvSide, int64_t n, const float* x) {
      nearest_levels(out, n, dim, x);
    };
    in_several_orders([&] { check_cache<T>("codebook", kvquant, dim, {20, 1}); });
    check_cache<T>("codebook", kvquant, dim, {90, 1, 1, 30});
    check_cache<T>("codebook, exact prefill", kvquant, dim, {70, 40}, true);

    TestMethod forge;
    forge.keys = {0, 5, 16, true};
    forge.values = {0, 5, 16};
    forge.answer = [&](RowSink& out, KvSide, int64_t n, const float* x) {
      out.lowrank({16, 0, 6, 0.9, true, false, true}, kHeads, n, dim, x);
    };
    check_cache<T>("low-rank", forge, dim, {40, 1, 30, 1});
    forge.device = true;  // rows reach the method where they are
    check_cache<T>("low-rank", forge, dim, {40, 30});

    TestMethod rotated;
    rotated.keys = {0, 0, 16, false, false, true};
    rotated.values = {2, 0, 1, false, true, true};
    rotated.answer = [&](RowSink& out, KvSide side, int64_t n, const float* x) {
      out.affine({2, Grid::min, side == KvSide::keys ? 0 : 1, 8}, kHeads, n, dim, x);
    };
    check_cache<T>("Hadamard", rotated, dim, {75, 1, 20});
    rotated.device = true;
    check_cache<T>("Hadamard", rotated, dim, {40, 1});
  }
}

TEMPLATE_TEST_CASE("cuda: a cache that evicts", "[cuda]", float, cuda::Bf16) {
  using T = TestType;
  for (const bool pre_rope : {true, false}) {
    TestMethod streaming;
    streaming.keys = {4, 20, 1, pre_rope, false, false, true};
    streaming.values = {4, 20, 1, false, false, false, true};
    std::vector<int64_t> ones(200, 1);
    check_cache<T>("token by token", streaming, 32, ones);
    // Many at once: the rows of the call see each other; whole tiles lie between sinks and window.
    check_cache<T>("exact prefill", streaming, 32, {300, 70, 1, 1}, true);
    streaming.keys.current = streaming.values.current = true;
    streaming.keys.block = streaming.values.block = 8;
    check_cache<T>("in blocks", streaming, 16, ones);
  }
}
