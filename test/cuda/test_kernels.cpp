// Every CUDA kernel against its plain reference. Without a GPU the kernels run on the host, threads
// as fibers (test/cuda/shim): small shapes, ragged edges, several orders of the threads.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "ptq/engine/cpu/device.hpp"
#include "ptq/engine/cuda/device.hpp"
#include "ptq/engine/cuda/kernels/log_softmax.cuh"
#include "ptq/eval/log_softmax.hpp"
#include "test/cuda/cuda_test.hpp"
#include "test/support/reference_attention.hpp"

using namespace ptq;
using namespace ptq::test;

namespace {

// The CPU's device in the number format of T.
template <class T>
cpu::Device reference_device() {
  return cpu::Device(1, std::is_same_v<T, float> ? Compute::fp32 : Compute::bf16);
}
// One step of bfloat16 at values below 4, or the rounding of float32 sums of some hundred terms.
template <class T>
constexpr double kStep = std::is_same_v<T, float> ? 2e-5 : 1.0 / 64;

}  // namespace

TEMPLATE_TEST_CASE("cuda: embedding, norm, rotary embedding, SwiGLU, residual", "[cuda]", float,
                   cuda::Bf16) {
  using T = TestType;
  cpu::Device cpu = reference_device<T>();
  for (const int64_t width : {8, 64, 100, 1030}) {
    const int64_t n = 5;
    const auto round = [&](std::vector<float> x) { return floats(as<T>(x)); };
    const auto x = round(random_floats(size_t(n * width), 1, 2)),
               w = round(random_floats(size_t(width), 2)),
               u = round(random_floats(size_t(n * width), 3));
    const OnDevice<T> dx(as<T>(x)), dw(as<T>(w)), du(as<T>(u)), dy(size_t(n * width));

    std::vector<float> want(size_t(n * width));
    cpu.rms_norm(x.data(), w.data(), 1e-5f, n, width, want.data());
    cuda::rms_norm(queue(), dx.data(), dw.data(), 1e-5f, n, width, dy.data());
    CHECK(difference(floats(dy.get()), want) <= kStep<T>);

    want = x;
    cpu.add(want.data(), u.data(), n, width);
    const OnDevice<T> sum(as<T>(x));
    cuda::add(queue(), sum.data(), du.data(), n * width);
    CHECK(floats(sum.get()) == want);

    want = x;
    const LayerNoise noise{kRoundingNoise, 5};
    cpu.disturb(want.data(), n, width, noise, 2, 100);
    const OnDevice<T> disturbed(as<T>(x));
    cuda::disturb(queue(), disturbed.data(), n, width, noise, 2, 100);
    CHECK(difference(floats(disturbed.get()), want) <= kStep<T>);
    CHECK(difference(want, x) > 0);

    want = x;
    cpu.swiglu(want.data(), u.data(), n, width);
    const OnDevice<T> gate(as<T>(x));
    cuda::swiglu(queue(), gate.data(), du.data(), n * width);
    CHECK(difference(floats(gate.get()), want) <= kStep<T>);

    const OnDevice<int32_t> ids(std::vector<int32_t>{4, 0, 3});
    const OnDevice<T> picked(size_t(3 * width));
    cuda::gather_rows(queue(), dx.data(), ids.data(), 3, width, picked.data());
    std::vector<float> rows;
    for (const int64_t r : {4, 0, 3})
      rows.insert(rows.end(), x.begin() + r * width, x.begin() + (r + 1) * width);
    CHECK(floats(picked.get()) == rows);
  }
  // Rotation: bit for bit, the angles come from the same table.
  const int64_t heads = 3, dim = 16, n = 4;
  Rope rope;
  for (int i = 0; i < 8; ++i) rope.inv_freq.push_back(std::pow(10000.0f, -float(i) / 8));
  const std::vector<int32_t> positions = {0, 1, 77, 4095};
  cpu.use_rope(rope);
  const auto batch = cpu.begin({1, 2, 3, 4}, positions, false);
  Rotary table(rope, std::is_same_v<T, cuda::Bf16>);
  table.extend(4096);
  auto x = floats(as<T>(random_floats(size_t(n * heads * dim), 5)));
  const OnDevice<T> dx(as<T>(x));
  const auto angles = [&](const float* x) { return std::vector<float>(x, x + 4096 * dim / 2); };
  const OnDevice<float> c(angles(table.cosine(0))), s(angles(table.sine(0)));
  const OnDevice<int32_t> rows(positions);
  cuda::rope(queue(), dx.data(), rows.data(), n, heads, dim, c.data(), s.data());
  cpu.rope(x.data(), batch, heads, dim);
  CHECK(difference(floats(dx.get()), x) <= (std::is_same_v<T, float> ? 2e-7 : 0.0));
}

namespace {

constexpr int kTileK = 32, kTileN = 48, kTileStride = 56;

// Tiles are read from shared memory.
template <class T, bool kTransposed>
__global__ void shared_tile_kernel(const T* a, const T* b, float* c) {
  T* ta = reinterpret_cast<T*>(cuda::dynamic_shared());
  T* tb = ta + 16 * kTileStride;
  for (int i = int(threadIdx.x); i < 16 * kTileStride; i += 32) ta[i] = a[i];
  for (int i = int(threadIdx.x); i < kTileN * kTileStride; i += 32) tb[i] = b[i];
  __syncwarp();
  float acc[kTileN / 8][4] = {};
  if (kTransposed)
    cuda::multiply_nn<kTileK, kTileN>(ta, kTileStride, tb, kTileStride, acc);
  else
    cuda::multiply_nt<kTileK, kTileN>(ta, kTileStride, tb, kTileStride, acc);
  for (int j = 0; j < kTileN / 8; ++j)
    for (int i = 0; i < 4; ++i)
      c[(cuda::fragment_row() + i / 2 * 8) * kTileN + j * 8 + cuda::fragment_column() + i % 2] =
          acc[j][i];
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: tile products of a warp", "[cuda]", float, cuda::Bf16) {
  using T = TestType;
  constexpr int K = kTileK, N = kTileN, kStride = kTileStride;
  const auto a = as<T>(random_floats(16 * kStride, 1)), b = as<T>(random_floats(N * kStride, 2));
  const OnDevice<T> da(a), db(b);
  for (const bool transposed : {false, true}) {
    const OnDevice<float> c(size_t(16 * N));
    queue().launch("tile", transposed ? shared_tile_kernel<T, true> : shared_tile_kernel<T, false>,
                   dim3(1), dim3(32), sizeof(T) * (16 + N) * kStride, da.data(), db.data(),
                   c.data());
    const auto got = c.get();
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < N; ++j) {
        double want = 0;
        for (int k = 0; k < K; ++k)
          want += double(cuda::to_float(a[size_t(i * kStride + k)])) *
                  double(cuda::to_float(b[size_t(transposed ? k * kStride + j : j * kStride + k)]));
        REQUIRE(std::abs(double(got[size_t(i * N + j)]) - want) < 1e-5);
      }
  }
}

namespace {

// Dense and packed rows of one side, on the host (for the reference) and on the device.
struct TestSide {
  int64_t heads, dim, rows;
  std::vector<float> dense;        // [rows, heads, dim], as stored in float16
  std::vector<AffineRows> packed;  // per head
  OnDevice<cuda::F16> dense_device;
  OnDevice<uint8_t> codes, scales, zeros;
  cuda::SideView view;

  static std::vector<uint8_t> joined(const std::vector<AffineRows>& packed, int part) {
    std::vector<uint8_t> all;
    for (const AffineRows& m : packed) {
      const AffineRows::Bytes b = m.stored();
      const auto* p = static_cast<const uint8_t*>(part == 0   ? b.codes
                                                  : part == 1 ? b.scales
                                                              : b.zeros);
      all.insert(all.end(), p,
                 p + (part == 0   ? b.codes_bytes
                      : part == 1 ? b.scales_bytes
                                  : b.zeros_bytes));
    }
    return all;
  }
  static std::vector<AffineRows> pack(const AffineFormat& f, int64_t rows, int64_t heads,
                                      int64_t dim, uint32_t seed) {
    std::vector<AffineRows> packed(size_t(heads), AffineRows(f, dim));
    for (int64_t h = 0; h < heads; ++h)
      packed[size_t(h)].append(random_floats(size_t(rows * dim), seed + uint32_t(h)).data(), rows);
    return packed;
  }

  TestSide(const AffineFormat& f, int64_t n, int64_t n_heads, int64_t columns, KvPolicy policy,
           uint32_t seed)
      : heads(n_heads),
        dim(columns),
        rows(n),
        dense(floats(as<cuda::F16>(random_floats(size_t(n * n_heads * columns), seed)))),
        packed(pack(f, n - policy.sink, n_heads, columns, seed + 7)),
        dense_device(as<cuda::F16>(dense)),
        codes(joined(packed, 0)),
        scales(joined(packed, 1)),
        zeros(joined(packed, 2)) {
    const cuda::DenseView all{dense_device.data(), DType::f16, 0, heads * dim, dim};
    view.sinks = view.tail = all;
    view.stored = cuda::Stored::affine;
    view.policy = policy;
    cuda::AffineView& v = view.affine;
    const auto per_head = [&](size_t bytes) { return int64_t(bytes) / heads; };
    v.codes = codes.data();
    v.scales = reinterpret_cast<const uint16_t*>(scales.data());
    v.zeros = zeros.data();
    v.bits = f.bits;
    v.axis = f.axis;
    v.grid = f.grid;
    v.first = policy.sink;
    v.columns = dim;
    v.set_group(f.axis == 1 ? std::min(f.group_size, dim) : f.group_size);
    v.groups = f.axis == 1 ? (dim + v.group - 1) / v.group : 0;
    v.row_bytes = packed_bytes(dim, f.bits);
    v.head_codes = per_head(codes.get().size());
    v.head_params = per_head(scales.get().size()) / 2;
    v.head_zeros = per_head(zeros.get().size());
  }
  // The row that a query with this boundary reads.
  std::vector<float> row(int64_t head, int64_t s, int64_t boundary) const {
    std::vector<float> x(static_cast<size_t>(dim));
    if (s >= view.policy.sink && s < boundary)
      packed[size_t(head)].decode(s - view.policy.sink, s - view.policy.sink + 1, x.data(), dim);
    else
      std::copy_n(dense.begin() + (s * heads + head) * dim, dim, x.begin());
    return x;
  }
};

struct AttentionCase {
  std::vector<std::pair<int64_t, int64_t>> segments;  // queries, position of the first
  int64_t heads, kv_heads, dim, window;
  KvPolicy keys, values;
  int bits;
  int processors;  // more of them: more splits
};

template <class T>
void check_attention(const AttentionCase& c) {
  std::vector<std::unique_ptr<TestSide>> sides;
  std::vector<cuda::SegmentView> segments;
  std::vector<cuda::AttentionItem> items;
  int64_t rows = 0, longest = 0;
  for (const auto& [queries, first] : c.segments) longest = std::max(longest, queries);
  const cuda::AttentionPlan plan =
      cuda::plan_attention(int64_t(c.segments.size()), longest, c.heads, c.kv_heads, c.processors);
  for (const auto& [queries, first] : c.segments) {
    const uint32_t seed = uint32_t(sides.size()) * 10;
    // Keys per channel in groups of the block, values per token.
    sides.push_back(std::make_unique<TestSide>(AffineFormat{c.bits, Grid::min, 0, c.keys.block},
                                               first + queries, c.kv_heads, c.dim, c.keys, seed));
    sides.push_back(std::make_unique<TestSide>(AffineFormat{c.bits, Grid::asym_gptq, 1, 16},
                                               first + queries, c.kv_heads, c.dim, c.values,
                                               seed + 1));
    for (int64_t at = 0; at < queries; at += plan.queries_per_block)
      items.push_back({int32_t(segments.size()), int32_t(at),
                       int32_t(std::min(plan.queries_per_block, queries - at))});
    segments.push_back({rows, queries, first, sides[sides.size() - 2]->view, sides.back()->view});
    rows += queries;
  }
  const int64_t width = c.heads * c.dim;
  const auto q = floats(as<T>(random_floats(size_t(rows * width), 99, 2)));
  const OnDevice<T> dq(as<T>(q)), out(size_t(rows * width));
  const OnDevice<cuda::SegmentView> ds(segments);
  const OnDevice<cuda::AttentionItem> di(items);
  const OnDevice<float> partial(size_t(plan.splits * rows * width)),
      lse(size_t(plan.splits * rows * c.heads));
  cuda::AttentionArguments<T> a{
      dq.data(),  out.data(), partial.data(), lse.data(),
      ds.data(),  di.data(),  rows,           c.heads,
      c.kv_heads, c.dim,      c.window,       1.4426950408889634f / std::sqrt(float(c.dim))};
  cuda::attention(queue(), a, int64_t(items.size()), plan, true);
  const auto got = floats(out.get());

  for (size_t s = 0; s < segments.size(); ++s)
    for (int64_t i = 0; i < segments[s].rows; ++i)
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t t = segments[s].position + i, kv = h / (c.heads / c.kv_heads);
        const auto pick = [&](const TestSide& side) {
          return [&side, kv, b = side.view.boundary(t)](int64_t r) { return side.row(kv, r, b); };
        };
        const int64_t at = ((segments[s].row + i) * c.heads + h) * c.dim;
        const auto want = ptq::test::reference_attention(
            q.data() + at, c.dim, t, c.window, pick(*sides[2 * s]), pick(*sides[2 * s + 1]));
        for (int64_t d = 0; d < c.dim; ++d) {
          INFO("segment " << s << " query " << i << " head " << h << " column " << d);
          // bfloat16: queries are exact, keys, values, probabilities and the output are rounded.
          REQUIRE(!(std::abs(double(got[size_t(at + d)]) - want[size_t(d)]) >
                    (std::is_same_v<T, float> ? 1e-5 : 3e-2)));
        }
      }
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: attention equals the float64 reference", "[cuda]", float, cuda::Bf16) {
  using T = TestType;
  const KvPolicy none{0, 1 << 20, 1}, kivi_k{0, 0, 32}, kivi_v{0, 32, 1};
  check_attention<T>({{{1, 0}}, 4, 2, 16, 0, none, none, 2, 1});         // nothing before it
  check_attention<T>({{{70, 0}}, 4, 2, 24, 0, none, none, 2, 1});        // dense, odd head_dim
  check_attention<T>({{{100, 0}}, 4, 2, 32, 0, kivi_k, kivi_v, 2, 1});   // KIVI's two policies
  check_attention<T>({{{40, 77}}, 7, 1, 64, 0, kivi_k, kivi_v, 4, 1});   // group of seven
  check_attention<T>({{{1, 300}}, 4, 2, 128, 0, kivi_k, kivi_v, 2, 1});  // decoding
  check_attention<T>({{{1, 300}}, 4, 2, 64, 0, kivi_k, kivi_v, 1, 12});  // split over blocks
  check_attention<T>({{{3, 200}}, 4, 4, 20, 0, {5, 3, 8}, {5, 10, 16}, 8, 9});   // sinks
  check_attention<T>({{{60, 50}}, 4, 2, 16, 40, {3, 8, 16}, {3, 12, 1}, 3, 1});  // sliding window
  // Several sequences side by side, of different lengths.
  in_several_orders([&] {
    check_attention<T>({{{1, 150}, {1, 0}, {1, 64}}, 4, 2, 32, 0, kivi_k, kivi_v, 4, 4});
  });
  check_attention<T>({{{20, 0}, {35, 40}, {1, 90}}, 4, 2, 16, 0, kivi_k, kivi_v, 2, 1});
}

TEST_CASE("cuda: encoders write the bits that the CPU writes", "[cuda]") {
  const int64_t heads = 2;
  for (const int64_t dim : {5, 16, 64, 80})
    for (const int bits : {1, 2, 3, 4, 8})
      for (const Grid grid : {Grid::min, Grid::sym_narrow, Grid::sym_full, Grid::sym_gptq,
                              Grid::asym_gptq, Grid::asym_awq})
        for (const int axis : {0, 1}) {
          if (bits == 1 && (grid == Grid::sym_narrow || grid == Grid::sym_full)) continue;
          const AffineFormat f{bits, grid, axis, axis == 0 ? 8 : 16};
          const int64_t n = 24, half = 16;
          auto x = random_floats(size_t(heads * n * dim), uint32_t(bits), 3);
          x[3] = 0.0f, x[4] = -0.0f;                                     // signs of zero
          for (int64_t c = 0; c < dim; ++c) x[size_t(dim + c)] = 0.25f;  // a constant row
          cuda::CacheHome home{arena(), queue(), {}, nullptr};
          cuda::EncodedRows rows(home, heads, dim, 8, 0, "test");
          std::vector<AffineRows> want(size_t(heads), AffineRows(f, dim));
          // Two calls: the second grows the buffers.
          for (const auto& [begin, end] : {std::pair{int64_t{0}, half}, std::pair{half, n}}) {
            std::vector<float> part;
            for (int64_t h = 0; h < heads; ++h) {
              part.insert(part.end(), x.begin() + (h * n + begin) * dim,
                          x.begin() + (h * n + end) * dim);
              want[size_t(h)].append(x.data() + (h * n + begin) * dim, end - begin);
            }
            rows.expect(end - begin, false);
            rows.affine(f, heads, end - begin, dim, part.data());
          }
          const cuda::AffineView v = rows.affine_view();
          uint64_t bytes = 0;
          for (int64_t h = 0; h < heads; ++h) {
            const AffineRows::Bytes b = want[size_t(h)].stored();
            bytes += want[size_t(h)].bytes();
            INFO("dim " << dim << ", bits " << bits << ", grid " << int(grid) << ", axis " << axis);
            CHECK(same_bytes(v.codes + h * v.head_codes, b.codes, size_t(n * v.row_bytes)));
            CHECK(same_bytes(v.scales + h * v.head_params, b.scales, b.scales_bytes));
            if (b.zeros_bytes)
              CHECK(same_bytes(static_cast<const uint8_t*>(v.zeros) +
                                   h * (grid == Grid::min ? 2 * v.head_params : v.head_zeros),
                               b.zeros, b.zeros_bytes));
          }
          CHECK(rows.bytes() == bytes);

          // The same from the method's own codes.
          if (dim == 16) {
            cuda::EncodedRows own(home, heads, dim, 8, 0, "test");
            std::vector<uint8_t> codes(size_t(heads * n * dim));
            const int64_t groups = axis == 0 ? n / 8 * dim : n;
            std::vector<float> scale(size_t(heads * groups), 0.5f), zero(scale.size(), 1.0f);
            for (size_t i = 0; i < codes.size(); ++i) codes[i] = uint8_t(i * 7 % (1u << bits));
            own.expect(n, false);
            own.affine_codes(f, heads, n, dim, codes.data(), scale.data(),
                             grid_has_zero(grid) ? zero.data() : nullptr);
            AffineRows plain(f, dim);
            plain.append_codes(codes.data() + n * dim, scale.data() + groups,
                               grid_has_zero(grid) ? zero.data() + groups : nullptr, n, "test");
            const cuda::AffineView w = own.affine_view();
            const AffineRows::Bytes b = plain.stored();
            CHECK(same_bytes(w.codes + w.head_codes, b.codes, size_t(n * w.row_bytes)));
            CHECK(same_bytes(w.scales + w.head_params, b.scales, b.scales_bytes));
          }
        }
}

TEMPLATE_TEST_CASE("cuda: linear layers, dense and packed", "[cuda]", float, cuda::Bf16) {
  using T = TestType;
  const auto check = [&](int64_t n, int64_t in, int64_t out, const AffineFormat* f, DType stored) {
    const auto w = random_floats(size_t(out * in), 1),
               b = floats(as<T>(random_floats(size_t(out), 3)));
    const auto x = floats(as<T>(random_floats(size_t(n * in), 2)));
    std::vector<uint8_t> file(size_t(out * in * dtype_bytes(stored)));
    from_float(stored, w.data(), out * in, file.data());
    TensorInfo info;
    info.dtype = stored;
    info.shape = {out, in};
    info.data = file.data();
    cuda::Device<T> device(0, 0);
    cuda::Linear linear = device.weight(LinearWeight("test", info));
    std::vector<float> decoded(w.size());
    if (f) {
      linear.host().affine(*f, 1, out, in, w.data());
      linear.host().decode(0, out, decoded.data());
      device.changed(linear);
    } else {
      linear.host().decode(0, out, decoded.data());
      decoded = floats(as<T>(decoded));  // plain weights are kept in the format of T
    }
    const bool rounds_weights =
        f && !(n <= cuda::kSmallRows && cuda::small_linear_reads(linear.affine));
    const OnDevice<T> dx(as<T>(x)), db(as<T>(b)), y(size_t(n * out));
    device.use_rope(Rope{{1.0f}, 1.0f});
    device.begin({0}, {0}, false);
    device.linear(linear, db.data(), dx.data(), n, y.data());
    const auto got = floats(y.get());
    for (int64_t i = 0; i < n; ++i)
      for (int64_t r = 0; r < out; ++r) {
        double want = b[size_t(r)], magnitude = std::abs(want), inputs = 0;
        for (int64_t c = 0; c < in; ++c) {
          const double term = double(x[size_t(i * in + c)]) * double(decoded[size_t(r * in + c)]);
          want += term;
          magnitude += std::abs(term);
          inputs += std::abs(double(x[size_t(i * in + c)]));
        }
        INFO("n " << n << " in " << in << " out " << out << " row " << i << " output " << r);
        // float32: packed codes are summed as (2^bits + q) s, up to twice the weights' range of 2,
        // in `in` roundings of 2^-24 that mostly cancel. bfloat16: weights rounded where tensor
        // cores multiply them, and the result.
        const double float_bound = std::sqrt(double(in)) * 4 * inputs / (1 << 24);
        const double bound =
            std::is_same_v<T, float>
                ? float_bound
                : float_bound + (std::abs(want) + (rounds_weights ? magnitude : 0)) / 256;
        REQUIRE(!(std::abs(double(got[size_t(i * out + r)]) - want) > bound));
      }
  };
  for (const DType stored : {DType::f32, DType::f16, DType::bf16})
    for (const int64_t n : {1, 3, 8, 9}) {
      check(n, 64, 20, nullptr, stored);
      check(n, 75, 19, nullptr, stored);  // rows that are not aligned
    }
  for (const int bits : {1, 2, 3, 4, 8})
    for (const int64_t n : {1, 2, 7, 70}) {
      const AffineFormat groups{bits, Grid::asym_gptq, 1, 32}, whole{bits, Grid::sym_gptq, 1, 0};
      check(n, 96, 21, &groups, DType::f32);
      check(n, 75, 10, &whole, DType::f32);
      check(n, 1120, 5, &groups, DType::f32);  // more than one step of a warp
    }
  // Groups that the small kernel does not read, groups along rows, and the way of long prefills.
  const AffineFormat odd{4, Grid::min, 1, 12}, rows{4, Grid::asym_awq, 0, 8},
      plain{4, Grid::asym_gptq, 1, 32};
  check(2, 48, 16, &odd, DType::f32);
  check(2, 48, 16, &rows, DType::f32);
  check(300, 32, 18, &plain, DType::f32);
}

TEMPLATE_TEST_CASE("cuda: scores of logits", "[cuda]", float, cuda::Bf16) {
  using T = TestType;
  const int64_t rows = 3, vocab = 1500;
  auto q = floats(as<T>(random_floats(size_t(rows * vocab), 1, 8))),
       p = floats(as<T>(random_floats(size_t(rows * vocab), 2, 8)));
  q[size_t(vocab + 70)] = q[size_t(vocab + 900)] = 9;  // the first of equal ones wins
  const std::vector<int32_t> targets = {5, 1499, 0};
  const OnDevice<T> dq(as<T>(q)), dp(as<T>(p));
  const OnDevice<int32_t> dt(targets);
  const OnDevice<RowScore> out(static_cast<size_t>(rows)), reference(static_cast<size_t>(rows));
  cuda::score_rows(queue(), dq.data(), static_cast<const T*>(dp.data()), dt.data(), rows, vocab,
                   out.data(), reference.data());
  const auto got = out.get(), got_reference = reference.get();
  for (int64_t i = 0; i < rows; ++i) {
    const auto want = eval::read_logits(q.data() + i * vocab, vocab, 0, "test"),
               r = eval::read_logits(p.data() + i * vocab, vocab, 0, "test");
    const RowScore& s = got[size_t(i)];
    CHECK(s.finite);
    CHECK(s.argmax == want.argmax);
    CHECK(s.log_sum_exp == Approx(want.log_sum_exp).epsilon(1e-7));
    CHECK(s.log_sum_exp - double(s.target) == Approx(want.nll(targets[size_t(i)])).epsilon(1e-6));
    CHECK(s.kl == Approx(eval::kl_divergence(r, want)).epsilon(1e-5));
    CHECK(got_reference[size_t(i)].log_sum_exp == Approx(r.log_sum_exp).epsilon(1e-7));
  }
  q[size_t(2 * vocab)] = std::numeric_limits<float>::infinity();
  const OnDevice<T> bad(as<T>(q));
  cuda::score_rows<T>(queue(), bad.data(), nullptr, dt.data(), rows, vocab, out.data(), nullptr);
  CHECK(out.get()[1].finite);
  CHECK_FALSE(out.get()[2].finite);
}
