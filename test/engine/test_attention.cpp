// The CPU attention against a float64 reference: grouped heads, odd sizes, windows, sinks, and rows
// that change from dense to encoded between the queries of one call.
#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "ptq/engine/cpu/attention.hpp"
#include "test/support/reference_attention.hpp"

using namespace ptq;

namespace {

struct Rows final : RowSource {
  int64_t heads, dim;
  std::vector<float> x;  // [rows, heads, dim]
  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    for (int64_t r = begin; r < end; ++r, out += stride)
      for (int64_t d = 0; d < dim; ++d) out[d] = x[size_t((r * heads + head) * dim + d)];
  }
  void round() {
    for (float& v : x) v = bf16_to_float(float_to_bf16(v));
  }
  std::vector<float> row(int64_t head, int64_t r) const {
    std::vector<float> out(static_cast<size_t>(dim));
    read(head, r, r + 1, out.data(), dim);
    return out;
  }
};

Rows random_rows(int64_t rows, int64_t heads, int64_t dim, uint32_t seed) {
  std::mt19937 random(seed);
  Rows r;
  r.heads = heads;
  r.dim = dim;
  r.x.resize(size_t(rows * heads * dim));
  for (float& v : r.x) v = 2 * float(random() >> 8) / float(1 << 23) - 2.0f;
  return r;
}

struct Case {
  int64_t queries, first, heads, kv_heads, dim, window, sink, k_block, k_window, v_block, v_window;
};

void check(const Case& c, int threads, const cpu::Kernels& kernels, bool bf16) {
  INFO("kernels " << kernels.name << (bf16 ? ", bf16" : ""));
  const int64_t rows = c.first + c.queries;
  Rows k_dense = random_rows(rows, c.kv_heads, c.dim, 1),
       v_dense = random_rows(rows, c.kv_heads, c.dim, 2);
  Rows k_enc = random_rows(rows, c.kv_heads, c.dim, 3),
       v_enc = random_rows(rows, c.kv_heads, c.dim, 4);
  const KvPolicy kp{c.sink, c.k_window, c.k_block}, vp{c.sink, c.v_window, c.v_block};
  cpu::AttentionSide keys{&k_enc, &k_dense, c.sink, {}}, values{&v_enc, &v_dense, c.sink, {}};
  for (int64_t i = 0; i < c.queries; ++i) {
    keys.boundary.push_back(c.sink + kp.encoded(c.first + i));
    values.boundary.push_back(c.sink + vp.encoded(c.first + i));
  }
  Rows q = random_rows(c.queries, c.heads, c.dim, 5);
  if (bf16)
    for (Rows* r : {&q, &k_dense, &v_dense}) r->round();
  std::vector<float> out(size_t(c.queries * c.heads * c.dim));
  ThreadPool pool(threads);
  cpu::attention(pool, {c.queries, c.first, c.heads, c.kv_heads, c.dim, c.window, bf16}, q.x.data(),
                 keys, values, out.data(), kernels);
  if (bf16)
    for (Rows* r : {&k_enc, &v_enc}) r->round();
  // A few float32 roundings of numbers below 2, or probabilities of 8 bits.
  const double bound = bf16 ? 2.0 / 256 : 2e-6 * 4;
  for (int64_t i = 0; i < c.queries; ++i)
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t kvh = h / (c.heads / c.kv_heads);
      const auto pick = [&](const cpu::AttentionSide& side, const Rows& enc, const Rows& dense) {
        return [&, b = side.boundary[size_t(i)]](int64_t s) {
          return s >= c.sink && s < b ? enc.row(kvh, s) : dense.row(kvh, s);
        };
      };
      const auto want =
          ptq::test::reference_attention(q.row(h, i).data(), c.dim, c.first + i, c.window,
                                         pick(keys, k_enc, k_dense), pick(values, v_enc, v_dense));
      for (int64_t d = 0; d < c.dim; ++d)
        REQUIRE(!(std::abs(double(out[size_t((i * c.heads + h) * c.dim + d)]) - want[size_t(d)]) >
                  bound));
    }
}
void check(const Case& c, int threads) {
  for (const cpu::Kernels& kernels : cpu::runnable_kernels())
    for (const bool bf16 : {false, true}) check(c, threads, kernels, bf16);
}

}  // namespace

TEST_CASE("attention: equals the float64 reference") {
  //     queries first heads kv dim win sink kb kw vb vw
  check({1, 0, 4, 2, 16, 0, 0, 1, 1 << 20, 1, 1 << 20}, 1);      // one token, nothing before it
  check({200, 0, 6, 2, 24, 0, 0, 1, 1 << 20, 1, 1 << 20}, 2);    // all dense, odd head_dim
  check({200, 0, 8, 4, 8, 0, 0, 32, 0, 1, 32}, 2);               // KIVI's two policies
  check({150, 77, 7, 1, 64, 0, 0, 32, 0, 1, 32}, 2);             // group of seven, later pass
  check({130, 70, 4, 4, 16, 0, 5, 8, 3, 16, 10}, 2);             // sinks, no groups
  check({150, 50, 4, 2, 16, 40, 0, 1, 1 << 20, 1, 1 << 20}, 2);  // sliding window
  check({150, 50, 4, 2, 16, 40, 3, 16, 8, 1, 12}, 2);            // sliding window over encoded rows
  check({1, 300, 4, 2, 128, 0, 4, 32, 0, 1, 32}, 2);             // decoding
  check({70, 30, 2, 1, 9, 0, 0, 16, 8, 1, 12}, 2);               // no even number of dimensions
  check({65, 0, 2, 2, 80, 0, 0, 1, 0, 1, 0}, 2);  // all but the current token encoded
  // Few queries behind many keys, which are split: encoded, then dense, or only within a window.
  check({1, 1500, 4, 2, 24, 0, 4, 32, 0, 1, 32}, 2);
  check({3, 1531, 4, 2, 16, 0, 0, 16, 700, 1, 900}, 2);
  check({5, 2000, 6, 2, 8, 1100, 3, 16, 8, 1, 12}, 1);
}

TEST_CASE("attention: the exponential stays within 2e-7 of the exact one") {
  for (double x = 0; x > -87; x -= 0.00137) {
    const double want = std::exp(double(float(x)));
    REQUIRE(!(std::abs(double(cpu::exp_nonpositive(float(x))) / want - 1) > 2e-7));
  }
  CHECK(cpu::exp_nonpositive(0.0f) == 1.0f);
  CHECK(cpu::exp_nonpositive(-1000.0f) == 0.0f);
  CHECK(cpu::exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0f);
}
