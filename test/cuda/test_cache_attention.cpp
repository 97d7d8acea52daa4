// Attention over the cache on the device, with every kind of encoding and policy. References:
// ptq::KvRows and attention in float64.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/engine/cpu/kv_cache.hpp"
#include "test/cuda/fills.hpp"
#include "test/support/reference_attention.hpp"

using namespace ptq;
using namespace ptq::test;

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

// Is `got` the attention of n queries q behind `position` in float64, each row read from the CPU's
// cache as its boundary says?
template <class T>
void check_rows(const ptq::KvLayer& want, const std::vector<float>& q,
                const std::vector<float>& got, int64_t dim, int64_t n, int64_t position,
                bool bare_boundary) {
  const bool evicts = want.keys.policy().evicts;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t h = 0; h < kQueryHeads; ++h) {
      const int64_t t = position + i, at = (i * kQueryHeads + h) * dim;
      const auto boundary = [&](const ptq::KvRows& rows) {
        return bare_boundary ? rows.held(position) : rows.boundary(t);
      };
      std::vector<int64_t> visible;
      for (int64_t s = 0; s <= t; ++s)
        if (!evicts || s < want.keys.sink() || s >= boundary(want.keys)) visible.push_back(s);
      const auto pick = [&](const ptq::KvRows& rows) {
        return [&, b = boundary(rows)](int64_t j) {
          const int64_t s = visible[size_t(j)];
          std::vector<float> x(static_cast<size_t>(dim));
          if (s >= rows.sink() && s < b && !evicts)
            rows.encoded().read(h / kGroup, s, s + 1, x.data(), dim);
          else
            rows.read(h / kGroup, s, s + 1, x.data(), dim);
          // Behind what eviction left the sinks stand next to the window.
          const int64_t moved = b - rows.sink();
          if (s < rows.sink() && rows.moves_sinks())
            rows.moves_sinks()->rotate(moved, moved + 1, x.data(), dim);
          return x;
        };
      };
      const auto expected = reference_attention(q.data() + at, dim, int64_t(visible.size()) - 1, 0,
                                                pick(want.keys), pick(want.values));
      for (int64_t d = 0; d < dim; ++d) {
        INFO("query " << i << ", head " << h << ", column " << d);
        REQUIRE(!(std::abs(double(got[size_t(at + d)]) - expected[size_t(d)]) >
                  (std::is_same_v<T, float> ? 2e-5 : 3e-2)));
      }
    }
}

// Rows go through both caches in the given pieces; every piece attends to all before it.
template <class T>
void check_cache(const std::string& name, TestMethod& method, int64_t dim,
                 const std::vector<int64_t>& pieces, bool bare_boundary = false) {
  constexpr int64_t heads = kQueryHeads;
  const int64_t width = kHeads * dim;
  int64_t total = 0;
  for (const int64_t n : pieces) total += n;
  Angles angles(dim, total);
  const OnDevice<int32_t> flags(std::vector<int32_t>(2));
  cuda::CacheHome home{arena(), queue(), {}, flags.data()};
  home.cosine = angles.cosine->data();
  home.sine = angles.sine->data();
  ptq::KvLayer want(kHeads, dim, 0, &method, DType::f32, &angles.table);
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
    check_rows<T>(want, q, floats(out.get()), dim, n, position, bare_boundary);
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
