// The cache on the device: every encoding that the CPU's cache has, read by the kernels.
// References: ptq::EncodedRows, ptq::KvRows and attention in float64.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/engine/cpu/kv_cache.hpp"
#include "test/cuda/fills.hpp"
#include "test/support/difference.hpp"

using namespace ptq;
using namespace ptq::test;

namespace {

// Reads what `fill` answers in two calls through both caches.
void check_reading(const std::string& name, const Fill& fill, int64_t dim, bool hadamard,
                   bool pre_rope) {
  constexpr int64_t first = 5, half = 24, n = 40;
  const Angles angles(dim, first + n);
  cuda::CacheHome home{arena(), queue(), {}, nullptr};
  ptq::EncodedRows want(kHeads, dim, 8, first, "test", pre_rope ? &angles.table : nullptr,
                        hadamard);
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
    view.cosine = angles.cosine->data();
    view.sine = angles.sine->data();
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
