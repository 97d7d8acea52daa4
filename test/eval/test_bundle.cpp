// Reference bundles: their bounds contain the exact divergence on every row, and their reader
// refuses whatever is not one.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/eval/bundle.hpp"
#include "ptq/eval/bundle_file.hpp"
#include "ptq/eval/divergence.hpp"
#include "test/support/random_model.hpp"

namespace ptq::test {
namespace {

using namespace ptq::eval;

// Logits that fall as those of a language model do: a few likely tokens and a long tail.
std::vector<float> zipf_logits(size_t vocab, double steepness, std::mt19937& random) {
  std::vector<float> logits(vocab);
  std::normal_distribution<double> noise(0, 1);
  for (size_t v = 0; v < vocab; ++v)
    logits[v] = float(-steepness * std::log(double(v + 1)) + noise(random));
  std::shuffle(logits.begin(), logits.end(), random);
  return logits;
}

struct Check {
  double width = 0, tail = 0;  // of the interval, nats; mass of the tail
};

// Of the rows of one bundle: row(r) for each.
std::vector<BundleRow> rows_of(const Bundle& bundle) {
  std::vector<BundleRow> rows;
  bundle.for_each([&](size_t, const BundleRow& row) { rows.push_back(row); });
  return rows;
}

// Keeps one row and holds its bounds against the exact figures.
Check check_row(const std::vector<float>& p, const std::vector<float>& q, int32_t target) {
  const LogitRow reference = read_logits(p.data(), int64_t(p.size()), 0, "reference"),
                 method = read_logits(q.data(), int64_t(q.size()), 0, "method");
  BundleRows rows;
  rows.add(reference, target);
  Bundle bundle;
  rows.finish(bundle);
  const BundleRow row = rows_of(bundle)[0];
  CHECK(row.top.size() <= kBundleMean);
  CHECK(bundle_detail::row_problem(row, int64_t(p.size()), target) == "");
  const BundleScore score = score_against(row, method, target);
  const RowDivergence exact = row_divergence(reference, method);
  CHECK(score.kl.low <= exact.kl);
  CHECK(score.kl.high >= exact.kl);
  CHECK(score.overlap.low <= exact.overlap);
  CHECK(score.overlap.high >= exact.overlap);
  CHECK(score.flip == (reference.argmax != method.argmax));
  CHECK(score.nll == method.nll(target));
  CHECK(score.nll_reference == Approx(reference.nll(target)).epsilon(1e-6));
  return {score.kl.high - score.kl.low, double(row.head.tail_mass)};
}

Bundle small_bundle() {
  std::mt19937 random(3);
  Bundle bundle;
  bundle.about = {{"model", "tiny"}, {"note", "a \"quoted\" word"}};
  bundle.vocab = 200;
  bundle.window = 4;
  bundle.tokens = {5, 199, 0, 7, 7, 20, 31, 9, 100, 101};
  BundleRows rows;
  for (size_t r = 0; r < bundle_rows(bundle.tokens.size(), 4); ++r) {
    const std::vector<float> logits = zipf_logits(200, 1.5, random);
    const size_t at = r / 3 * 4 + r % 3;
    rows.add(read_logits(logits.data(), 200, 0, "x"), bundle.tokens[at + 1]);
  }
  rows.finish(bundle);
  return bundle;
}

std::string refusal(const std::string& bytes) {
  try {
    parse_bundle(bytes, "x.bundle");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::environment);
    return error.message();
  }
  return {};
}

}  // namespace

TEST_CASE("bounds of a bundle contain the exact divergence of any rows", "[bundle]") {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0, 1);
  for (const size_t vocab : {2u, 5u, 64u, 65u, 300u, 4000u}) {
    for (const double steepness : {0.0, 0.8, 1.5, 6.0}) {
      for (const float move : {0.0f, 1e-4f, 0.03f, 0.5f, 5.0f}) {
        CAPTURE(vocab, steepness, move);
        const std::vector<float> p = zipf_logits(vocab, steepness, random);
        std::vector<float> q = p;
        for (float& x : q) x += move * normal(random);
        check_row(p, q, int32_t(random() % vocab));
      }
    }
  }
  // Another order of the tail, certainty on either side, a tail of nothing.
  std::vector<float> p = zipf_logits(1000, 1.2, random), q = p;
  std::reverse(q.begin(), q.end());
  check_row(p, q, 3);
  std::fill(q.begin(), q.end(), -100.0f);
  q[7] = 100;
  check_row(p, q, 7);
  check_row(q, p, 7);
  check_row(q, q, 7);
}

TEST_CASE("bounds of a bundle are as narrow as its tail is small", "[bundle]") {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 1);
  for (const auto& [steepness, most] : {std::pair(1.2, 7), {1.5, 7}, {3.0, 15}}) {
    double tail = 0, width = 0;
    for (int i = 0; i < 20; ++i) {
      const std::vector<float> p = zipf_logits(5000, steepness, random);
      std::vector<float> q = p;
      for (float& x : q) x += 0.3f * normal(random);
      const Check row = check_row(p, q, 0);
      tail += row.tail;
      width += row.width;
    }
    // The tail may lie anywhere: so many nats of every part of it that is not known.
    CAPTURE(steepness, width / 20, tail / 20);
    CHECK(width < most * tail);
  }
}

TEST_CASE("bounds of a bundle contain the exact divergence of methods on every position",
          "[bundle]") {
  RandomModel shape;
  const std::string folder = write_random_model(shape, "bundle");
  Transformer<cpu::Device> engine(folder, cpu::Device(1));
  const int64_t vocab = engine.config().vocab_size;
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < 61; ++i) tokens.push_back(int32_t((i * i * 31 + 7 * i + 3) % vocab));

  struct Kivi final : KvMethod {
    explicit Kivi(int b) : bits(b) {}
    int bits;
    KvPolicy policy(KvSide) const override { return {0, 8, 8}; }
    void encode(KvSide side, int, int64_t, int64_t n, const float* x, RowSink& out) override {
      out.affine({bits, Grid::min, side == KvSide::keys ? 0 : 1, 8}, 2, n, 16, x);
    }
  };
  Bundle bundle;
  bundle.vocab = vocab;
  bundle.window = 40;
  bundle.tokens = tokens;
  BundleRows kept;
  std::vector<std::vector<float>> exact;
  run_bundle(engine, nullptr, tokens, 40, Regime::streaming,
             [&](size_t row, const LogitRow& logits, int32_t target) {
               CHECK(row == exact.size());
               kept.add(logits, target);
               exact.emplace_back(logits.logits, logits.logits + vocab);
             });
  kept.finish(bundle);
  REQUIRE(bundle.heads.size() == 39 + 20);
  const Bundle read = parse_bundle(bundle_bytes(bundle), "x");
  const std::vector<BundleRow> rows = rows_of(read);
  for (const int bits : {8, 4, 2, 1}) {
    Kivi kivi(bits);
    double kl = 0, width = 0;
    run_bundle(engine, &kivi, tokens, 40, Regime::streaming,
               [&](size_t row, const LogitRow& method, int32_t target) {
                 const LogitRow reference = read_logits(exact[row].data(), vocab, 0, "reference");
                 const double truth = kl_divergence(reference, method);
                 const BundleScore score = score_against(rows[row], method, target);
                 CHECK(score.kl.low <= truth);
                 CHECK(score.kl.high >= truth);
                 kl += truth;
                 width += score.kl.high - score.kl.low;
               });
    CAPTURE(bits, kl / 59, width / 59);
    CHECK(kl > 0);
    CHECK(width / 59 < 1);
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("a bundle comes back from its file", "[bundle]") {
  const Bundle bundle = small_bundle();
  const std::string bytes = bundle_bytes(bundle);
  const Bundle read = parse_bundle(bytes, "x");
  CHECK(read.about == bundle.about);
  CHECK(read.vocab == 200);
  CHECK(read.window == 4);
  CHECK(read.tokens == bundle.tokens);
  REQUIRE(read.heads.size() == 3 + 3 + 1);
  CHECK(bundle_bytes(read) == bytes);
  CHECK(sizeof(BundleHead) + sizeof(BundleEntry) * kBundleMean + sizeof(int32_t) <= 400);

  Bundle wrong = bundle;
  wrong.heads.pop_back();
  CHECK_THROWS_AS(bundle_bytes(wrong), Error);
  wrong = bundle;
  wrong.entries.pop_back();
  CHECK_THROWS_AS(bundle_bytes(wrong), Error);
}

TEST_CASE("rows of which little is open leave their room to the others", "[bundle]") {
  std::mt19937 random(9);
  BundleRows rows;
  Bundle bundle;
  std::vector<std::vector<float>> logits;
  for (int r = 0; r < 40; ++r) {
    logits.push_back(zipf_logits(3000, r % 4 == 0 ? 1.1 : 6, random));
    rows.add(read_logits(logits.back().data(), 3000, 0, "x"), 0);
  }
  rows.finish(bundle);
  const std::vector<BundleRow> kept = rows_of(bundle);
  CHECK(bundle.entries.size() <= 40 * kBundleMean);
  CHECK(bundle.entries.size() > 35 * kBundleMean);
  CHECK(kept[0].top.size() > 150);
  CHECK(kept[1].top.size() < 60);
  for (size_t r = 0; r < kept.size(); ++r) {
    CHECK(bundle_detail::row_problem(kept[r], 3000, 0) == "");
    std::vector<float> moved = logits[r];
    for (size_t v = 0; v < moved.size(); ++v) moved[v] += float(v % 7) / 50;
    const LogitRow p = read_logits(logits[r].data(), 3000, 0, "p"),
                   q = read_logits(moved.data(), 3000, 0, "q");
    const double exact = kl_divergence(p, q);
    const BundleScore score = score_against(kept[r], q, 0);
    CHECK(score.kl.low <= exact);
    CHECK(score.kl.high >= exact);
  }
}

TEST_CASE("what is no bundle is refused with its reason", "[bundle]") {
  const Bundle bundle = small_bundle();
  const std::string good = bundle_bytes(bundle);
  for (size_t length = 0; length < good.size(); length += length < 120 ? 1 : 37)
    CHECK_FALSE(refusal(good.substr(0, length)).empty());
  CHECK_FALSE(refusal(good + "x").empty());

  using Catch::Contains;
  const auto with = [&](size_t at, auto value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return refusal(bytes);
  };
  CHECK_THAT(with(0, 'x'), Contains("does not begin"));
  CHECK_THAT(with(8, uint32_t{2}), Contains("version"));
  CHECK_THAT(with(12, uint32_t{0}), Contains("vocabulary"));
  CHECK_THAT(with(12, uint32_t{60}), Contains("outside"));
  CHECK_THAT(with(16, uint32_t{0xFFFFFFFF}), Contains("description"));
  CHECK_THAT(with(24, uint64_t{0}), Contains("windows"));
  CHECK_THAT(with(24, uint64_t{1}), Contains("windows"));
  CHECK_THAT(with(24, uint64_t{1} << 63), Contains("windows"));
  for (const uint64_t n : {uint64_t{0}, uint64_t{11}, uint64_t{1} << 60, ~uint64_t{0}})
    CHECK_THAT(with(32, n), Contains("announces"));
  for (const uint64_t n : {uint64_t{0}, uint64_t{1} << 62, ~uint64_t{0}})
    CHECK_THAT(with(40, n), Contains("announces"));

  const auto edited = [&](auto edit) {
    Bundle copy = bundle;
    edit(copy);
    return refusal(bundle_bytes(copy));
  };
  CHECK_THAT(edited([](Bundle& b) { b.tokens[1] = 200; }), Contains("token 200"));
  CHECK_THAT(edited([](Bundle& b) { b.tokens[1] = -1; }), Contains("token -1"));
  CHECK_THAT(edited([](Bundle& b) { b.entries[4] = b.entries[3]; }),
             Contains("row 0: a token stands in it twice"));
  CHECK_THAT(edited([](Bundle& b) { b.entries[0] = BundleEntry::of(b.entries[0].id(), 1 << 23); }),
             Contains("do not fall"));
  CHECK_THAT(edited([](Bundle& b) { b.entries[3] = BundleEntry::of(200, b.entries[3].code()); }),
             Contains("token 200 is outside the vocabulary"));
  std::string bytes = good;  // one entry from row 0 to row 1: the sum is the same
  const size_t heads = 48 + json_text(bundle.about).size() + 4 * bundle.tokens.size();
  --bytes[heads + 12];
  ++bytes[heads + 16 + 12];
  CHECK_FALSE(refusal(bytes).empty());
  bytes[heads + 12] = 0;
  CHECK_THAT(refusal(bytes), Contains("do not hold its entries"));
  for (const float bad : {-0.5f, 2.0f, std::nanf(""), INFINITY}) {
    CHECK_THAT(edited([&](Bundle& b) { b.heads[0].tail_mass = bad; }), Contains("are not 1"));
    CHECK_FALSE(edited([&](Bundle& b) { b.heads[0].tail_entropy = bad; }).empty());
  }
  CHECK_THAT(edited([](Bundle& b) { b.heads[0].nll = -1; }), Contains("loss"));
  CHECK_THAT(edited([](Bundle& b) { b.about = Json::array(); }), Contains("no object"));
}

TEST_CASE("changed bytes of a bundle do no harm", "[bundle]") {
  std::mt19937 random(1);
  const std::string good = bundle_bytes(small_bundle());
  const std::vector<float> logits = zipf_logits(200, 1, random);
  const LogitRow method = read_logits(logits.data(), 200, 0, "x");
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good;
    for (int changes = 0; changes < 1 + i % 3; ++changes)
      bytes[random() % bytes.size()] = char(random() & 255);
    try {
      const Bundle read = parse_bundle(bytes, "x");
      ++accepted;
      for (const BundleRow& row : rows_of(read)) {  // no id leads outside, whatever is accepted
        const BundleScore score = score_against(row, method, 1);
        CHECK(score.kl.low >= 0);
        CHECK(score.kl.high >= score.kl.low);
      }
    } catch (const Error&) {
    }
  }
  CHECK(accepted < 1500);  // most changes are seen
}

}  // namespace ptq::test
