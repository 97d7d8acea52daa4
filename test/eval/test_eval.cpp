// Perplexity, generation and divergence against hand calculation in float64, and the readers and
// checks around them.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/exercised.hpp"
#include "ptq/eval/generation.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/perplexity.hpp"
#include "ptq/eval/statistics.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;

namespace {

// A file that disappears with the test.
struct TempFile {
  explicit TempFile(const std::string& content) {
    static int count = 0;
    path = (std::filesystem::temp_directory_path() /
            ("ptq-test-eval-" + std::to_string(::getpid()) + "-" + std::to_string(count++)))
               .string();
    std::ofstream(path, std::ios::binary) << content;
  }
  ~TempFile() { std::filesystem::remove(path); }
  std::string path;
};

// Log-probabilities the plain way, in extended precision.
std::vector<long double> log_probs(const std::vector<float>& logits) {
  long double sum = 0;
  for (const float x : logits) sum += std::exp((long double)(x));
  std::vector<long double> out;
  for (const float x : logits) out.push_back((long double)(x)-std::log(sum));
  return out;
}

long double plain_kl(const std::vector<float>& p, const std::vector<float>& q) {
  const auto log_p = log_probs(p), log_q = log_probs(q);
  long double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
  return sum;
}

// The logits of the fake engine that follow text[begin .. i], read with this share.
std::vector<float> fake_row(const std::string& text, int64_t begin, int64_t i, double share,
                            double noise) {
  std::vector<int32_t> history;
  for (int64_t k = begin; k <= i; ++k) history.push_back(uint8_t(text[size_t(k)]));
  std::vector<float> row;
  for (int v = 0; v < 256; ++v) row.push_back(FakeEngine::hash_logit(history, v, share, noise));
  return row;
}

std::string some_text(int length) {
  std::string text;
  for (int i = 0; i < length; ++i) text += char('a' + (i * i + i / 7) % 26);
  return text;
}

}  // namespace

TEST_CASE("log-softmax of a row", "[eval]") {
  for (double x = 0; x > -745; x -= 0.37) {
    const double want = std::exp(std::max(x, -700.0));
    CHECK(std::abs(exp_nonpositive(x) - want) <= 1e-15 * want);
  }
  CHECK(exp_nonpositive(0) == 1);

  const float three[] = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  LogitRow row = read_logits(three, 3, 0, "model");
  CHECK(row.argmax == 2);
  CHECK(row.nll(1) == Approx(std::log(4.0)).epsilon(1e-7));
  CHECK(row.log_sum_exp == Approx(std::log(8.0)).epsilon(1e-7));

  // Any length, also where vector lanes end; shifts of the logits change nothing.
  for (const int vocab : {1, 7, 16, 17, 333}) {
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (int v = 0; v < vocab; ++v) logits[size_t(v)] = float((v * 37 % 101) / 8.0 - 3);
    const auto want = log_probs(logits);
    row = read_logits(logits.data(), vocab, 0, "model");
    for (int v = 0; v < vocab; ++v) {
      CHECK(row.log_prob(v) == Approx(double(want[size_t(v)])).epsilon(1e-14).margin(1e-15));
    }
    const double nll = row.nll(0);
    for (float& x : logits) x += 1024;
    const LogitRow shifted = read_logits(logits.data(), vocab, 0, "model");
    CHECK(shifted.nll(0) == Approx(nll).epsilon(1e-12).margin(1e-12));
    CHECK(shifted.argmax == row.argmax);
  }

  SECTION("ties go to the lowest id") {
    const std::vector<float> tie = {0, 3, 1, 3, 3};
    CHECK(read_logits(tie.data(), 5, 0, "model").argmax == 1);
  }
  SECTION("extremes") {
    const float big = std::numeric_limits<float>::max();
    const float logits[] = {big, -big, 0};
    row = read_logits(logits, 3, 0, "model");
    CHECK(row.nll(0) == 0);
    CHECK(std::isfinite(row.nll(1)));
  }
  SECTION("what is not finite is an error with its place") {
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      for (const int at : {0, 5, 16, 18}) {
        std::vector<float> logits(19, 1.0f);
        logits[size_t(at)] = bad;
        CHECK_THROWS_WITH(read_logits(logits.data(), 19, 77, "model under test"),
                          Catch::Contains("model under test") &&
                              Catch::Contains("position 77, token id " + std::to_string(at)));
      }
    }
  }
}

TEST_CASE("divergence of two rows", "[eval]") {
  // p = (1/2, 1/2), q = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln (2/3).
  const std::vector<float> p = {0, 0}, q = {0, std::log(3.0f)};
  const LogitRow rp = read_logits(p.data(), 2, 0, "r"), rq = read_logits(q.data(), 2, 0, "m");
  CHECK(kl_divergence(rp, rq) == Approx(0.5 * std::log(4.0 / 3)).epsilon(1e-7));
  CHECK(kl_divergence(rp, rp) == 0);
  CHECK(kl_divergence(rq, rq) == 0);

  std::vector<float> a(1000), b(1000);
  for (int v = 0; v < 1000; ++v) {
    a[size_t(v)] = float(v * 7919 % 1000) / 100;
    b[size_t(v)] = a[size_t(v)] + float(v % 13) / 50;
  }
  const LogitRow ra = read_logits(a.data(), 1000, 0, "r"), rb = read_logits(b.data(), 1000, 0, "m");
  CHECK(kl_divergence(ra, rb) == Approx(double(plain_kl(a, b))).epsilon(1e-12));
  CHECK(kl_divergence(ra, ra) == 0);

  Divergence d;
  d.add(rp, rq, 1);  // p 1/2 -> 3/4; first maxima: 0 and 1
  d.add(rp, rp, 1);
  Json m;
  d.write(m);
  const double kl = 0.5 * std::log(4.0 / 3);
  CHECK(m["kl_tokens"] == 2);
  CHECK(m["kl_mean"].get<double>() == Approx(kl / 2).epsilon(1e-7));
  CHECK(m["kl_median"].get<double>() == Approx(kl / 2).epsilon(1e-7));
  CHECK(m["kl_p99"].get<double>() == Approx(kl * 0.99).epsilon(1e-7));
  CHECK(m["kl_max"].get<double>() == Approx(kl).epsilon(1e-7));
  CHECK(m["top1_agreement"] == 0.5);
  CHECK(m["delta_p_mean"].get<double>() == Approx(0.125).epsilon(1e-6));
  CHECK(m["delta_p_rms"].get<double>() == Approx(std::sqrt(0.0625 / 2)).epsilon(1e-6));
  Json none;
  Divergence().write(none);
  CHECK(none["kl_mean"].is_null());
  CHECK(none["kl_mean_why"] == "no position was compared with the reference");
}

TEST_CASE("statistics", "[eval]") {
  CHECK(clopper_pearson95(80, 80).low == Approx(0.9549).margin(5e-5));
  CHECK(clopper_pearson95(20, 20).low == Approx(0.8316).margin(5e-5));
  CHECK(clopper_pearson95(20, 20).high == 1);
  CHECK(clopper_pearson95(0, 20).high == Approx(1 - 0.8316).margin(5e-5));
  CHECK(clopper_pearson95(0, 20).low == 0);
  // 10 of 20: (0.2720, 0.7280) in every table.
  CHECK(clopper_pearson95(10, 20).low == Approx(0.2720).margin(5e-5));
  CHECK(clopper_pearson95(10, 20).high == Approx(0.7280).margin(5e-5));
  const std::vector<double> values = {4, 1, 3, 2};
  CHECK(mean(values) == 2.5);
  CHECK(standard_error(values) == Approx(std::sqrt(5.0 / 3 / 4)));
  CHECK(std::isnan(standard_error(std::vector<double>{1})));
  CHECK(std::isnan(mean({})));
  CHECK(quantile({4, 1, 3, 2}, 0.5) == 2.5);
  CHECK(quantile({4, 1, 3, 2}, 0) == 1);
  CHECK(quantile({4, 1, 3, 2}, 1) == 4);
  CHECK(quantile({7}, 0.99) == 7);
}

TEST_CASE("texts", "[eval]") {
  CHECK(join_wikitext2(" \n = A = \n \n b\n") == "\n\n = A = \n\n\n\n\n b\n");
  CHECK(join_wikitext2("a\nb") == "a\n\n\nb");
  CHECK(join_wikitext2("") == "");
  const auto raw = std::filesystem::path(PTQ_SHARED_DIR) / "data/wikitext2/wiki.test.raw";
  if (std::filesystem::exists(raw)) {
    const std::string joined = join_wikitext2(read_utf8_file(raw));
    CHECK(joined.size() == 1296370);
    CHECK(sha256_hex(joined) == "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83");
  } else {
    WARN("skipped: no " << raw);
  }

  const TempFile bad("good \xC3\xA4\xFF more"), empty("");
  CHECK_THROWS_WITH(read_utf8_file(bad.path), Catch::Contains("at byte 7"));
  CHECK_THROWS_WITH(read_utf8_file(empty.path), Catch::Contains("empty"));
  CHECK_THROWS_AS(read_utf8_file("/no/such/file"), Error);
  CHECK_THROWS_AS(read_utf8_file("/"), Error);

  const TempFile lines("{\"id\":1,\"text\":\"a\\nb\"}\r\n\n  \n{\"text\":\"\xC3\xA4\"}");
  const auto texts = read_jsonl_texts(lines.path, 0);
  REQUIRE(texts.size() == 2);
  CHECK(texts[0].text == "a\nb");
  CHECK(texts[1].text == "\xC3\xA4");
  CHECK(texts[1].line == 4);
  CHECK(read_jsonl_texts(lines.path, 1).size() == 1);
  const auto refuses = [](const std::string& content, const std::string& message) {
    const TempFile file(content);
    INFO(content);
    CHECK_THROWS_WITH(read_jsonl_texts(file.path, 0), Catch::Contains(message));
  };
  refuses("{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", ":2");
  refuses("{\"text\":\"a\"}\n{\"text\":3}\n", ":2: text");
  refuses("{\"text\":\"a\"}\n\n{\"text\":\"b\"", ":3");
  refuses("[1]", ":1");
  refuses("{\"text\":\"\xFF\"}", "UTF-8");
  refuses("\n\n", "no texts");
}

TEST_CASE("windows of both protocols", "[eval]") {
  // Counts of the published runs: W = ceil((T - L) / S).
  CHECK(perplexity_windows("half_overlap", 299009, 2048).size() == 291);
  CHECK(perplexity_windows("half_overlap", 300032, 2048).size() == 291);
  CHECK(perplexity_windows("half_overlap", 300033, 2048).size() == 292);
  CHECK(perplexity_windows("half_overlap", 2048, 2048).empty());
  CHECK(perplexity_windows("half_overlap", 2049, 2048).size() == 1);
  CHECK(perplexity_windows("disjoint", 2047, 2048).empty());
  CHECK(perplexity_windows("disjoint", 2048, 2048).size() == 1);
  const auto windows = perplexity_windows("half_overlap", 30, 8);
  REQUIRE(windows.size() == 6);
  CHECK(windows[0].first_target == 1);
  CHECK(windows[1].first_token == 4);
  CHECK(windows[1].first_target == 4);
}

TEST_CASE("perplexity by hand", "[eval]") {
  const std::string text = some_text(70);
  const TempFile file(text);
  const Tokenizer bytes = test::byte_tokenizer();
  const double noise = 0.8;
  FakeEngine engine(256, noise), reference(256);
  const KvPolicy policy{1, 4, 2};
  FakeKv kv(policy);
  PerplexitySettings settings;
  settings.text = file.path;
  settings.window = 16;
  settings.protocol = GENERATE(std::string("disjoint"), std::string("half_overlap"));
  const bool overlap = settings.protocol == "half_overlap";
  const bool with_cache = GENERATE(false, true);
  CAPTURE(settings.protocol, with_cache);

  // The same by definition: windows begin at 0, 8, 16, ... < 54 or at 0, 16, 32, 48.
  std::vector<int64_t> begins;
  if (overlap) {
    for (int64_t b = 0; b < 54; b += 8) begins.push_back(b);
  } else {
    begins = {0, 16, 32, 48};
  }
  long double sum_means = 0, sum_tokens = 0, sum_means_ref = 0, kl = 0, share_sum = 0;
  std::vector<double> differences;
  int64_t count = 0, agree = 0;
  for (const int64_t b : begins) {
    long double loss = 0, loss_ref = 0;
    const int64_t first = overlap && b > 0 ? 8 : 1;
    for (int64_t t = 0; t < 16; ++t) share_sum += (long double)(policy.encoded(t)) / (t + 1);
    for (int64_t i = b + first; i < b + 16; ++i) {
      const int64_t t = i - 1 - b;
      const double share = with_cache ? double(policy.encoded(t)) / double(t + 1) : 0;
      const auto row = fake_row(text, b, i - 1, share, noise);
      const auto row_ref = fake_row(text, b, i - 1, 0, 0);
      loss -= log_probs(row)[uint8_t(text[size_t(i)])];
      loss_ref -= log_probs(row_ref)[uint8_t(text[size_t(i)])];
      kl += plain_kl(row_ref, row);
      agree += std::max_element(row.begin(), row.end()) - row.begin() ==
               std::max_element(row_ref.begin(), row_ref.end()) - row_ref.begin();
      ++count;
    }
    sum_tokens += loss;
    sum_means += loss / (16 - first);
    sum_means_ref += loss_ref / (16 - first);
    differences.push_back(double((loss - loss_ref) / (16 - first)));
  }
  const double windows = double(begins.size());

  Subject subject{engine, with_cache ? &kv : nullptr, with_cache ? &reference : nullptr, bytes};
  double last = 0;
  const Outcome outcome =
      perplexity(subject, settings, [&](double fraction, const std::string&) { last = fraction; });
  const Json& m = outcome.metrics;
  CHECK(last == 1);
  CHECK(m["protocol"] == settings.protocol);
  CHECK(m["window"] == 16);
  CHECK(m["stride"] == (overlap ? 8 : 16));
  CHECK(m["windows"] == begins.size());
  CHECK(m["tokens_text"] == 70);
  CHECK(m["tokens_scored"] == count);
  CHECK(m["nll"].get<double>() == Approx(double(sum_means) / windows).epsilon(1e-12));
  CHECK(m["ppl"].get<double>() == Approx(std::exp(double(sum_means) / windows)).epsilon(1e-12));
  CHECK(m["ppl_tok"].get<double>() ==
        Approx(std::exp(double(sum_tokens) / double(count))).epsilon(1e-12));
  // One byte per token.
  CHECK(m["bits_per_byte"].get<double>() ==
        Approx(double(sum_tokens) / double(count) / std::numbers::ln2).epsilon(1e-12));
  CHECK(m["regime"] == "streaming");
  REQUIRE(outcome.samples.size() == begins.size());
  CHECK(outcome.samples[1]["first_token"] == begins[1]);
  CHECK(outcome.samples[1]["targets"] == (overlap ? 8 : 15));
  if (!with_cache) {
    CHECK_FALSE(m.contains("kl_mean"));
    CHECK(m["exposure"] == 0.0);
    CHECK(check_exercised(outcome, {.lossless = true}).empty());
    return;
  }
  CHECK(m["ppl_reference"].get<double>() ==
        Approx(std::exp(double(sum_means_ref) / windows)).epsilon(1e-12));
  CHECK(m["kl_mean"].get<double>() == Approx(double(kl) / double(count)).epsilon(1e-11));
  CHECK(m["top1_agreement"].get<double>() == Approx(double(agree) / double(count)));
  CHECK(m["delta_nll"].get<double>() == Approx(mean(differences)).epsilon(1e-10));
  CHECK(m["delta_nll_se"].get<double>() == Approx(standard_error(differences)).epsilon(1e-9));
  CHECK(m["exposure"].get<double>() == Approx(double(share_sum) / (16 * windows)).epsilon(1e-12));
  // 16 tokens: 1 in the sink, E(16) = 10 encoded (2 bytes a side), 5 dense (8 bytes a side).
  const Json& cache = m["cache"];
  CHECK(cache["tokens"] == 16);
  CHECK(cache["bytes_sink"] == 16);
  CHECK(cache["bytes_encoded"] == 40);
  CHECK(cache["bytes_window"] == 80);
  CHECK(cache["bytes_total"] == 136);
  CHECK(cache["bytes_per_token"] == 8.5);
  CHECK(cache["bytes_per_token_fp16"] == 16.0);
  CHECK(cache["effective_bits"] == 8.5);
  CHECK(cache["compression_ratio"].get<double>() == Approx(16 / 8.5));
  CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 7}).empty());
  // The reference never sees the method's cache and always streams.
  for (const auto& call : reference.calls) {
    CHECK(call.full_precision);
    CHECK(call.regime == Regime::streaming);
  }
}

TEST_CASE("perplexity: limits, regimes, hostile input", "[eval]") {
  const TempFile file(some_text(70));
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0);
  FakeKv kv(KvPolicy{0, 4, 4});
  Subject subject{engine, &kv, &engine, bytes};
  PerplexitySettings settings;
  settings.text = file.path;
  settings.window = 16;

  SECTION("max_windows, and one window has no spread") {
    settings.max_windows = 1;
    const Json m = perplexity(subject, settings, {}).metrics;
    CHECK(m["windows"] == 1);
    CHECK(m["windows_available"] == 4);
    CHECK(m["delta_nll_se"].is_null());
    CHECK(m["delta_nll_se_why"] == "one window has no spread");
  }
  SECTION("without a cache the result says so") {
    settings.regime = Regime::independent;
    const Outcome outcome = perplexity(subject, settings, {});
    CHECK(outcome.metrics["regime"] == "independent");
    CHECK(outcome.metrics["kl_max"] == 0.0);
    const auto findings = check_exercised(outcome, {.kv = true, .first_encoded_length = 8});
    REQUIRE(findings.size() == 1);
    CHECK(findings[0].severity == Severity::warning);
    CHECK(findings[0].sentence.find("cache not read") == 0);
  }
  SECTION("a join changes the text") {
    const TempFile rows("abcdefgh\nabcdefgh\n");  // 9 + 2 + 9 bytes
    settings.text = rows.path;
    settings.join = "wikitext2";
    CHECK(perplexity(subject, settings, {}).metrics["tokens_text"] == 20);
  }
  SECTION("too short") {
    settings.window = 71;
    CHECK_THROWS_WITH(perplexity(subject, settings, {}),
                      Catch::Contains("70 tokens found, 71 needed") && Catch::Contains("hint"));
    settings.protocol = "half_overlap";
    settings.window = 70;
    CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("71 needed"));
  }
  SECTION("settings") {
    settings.protocol = "disjont";
    CHECK_THROWS_WITH(perplexity(subject, settings, {}),
                      Catch::Contains("did you mean `disjoint`"));
    settings.protocol = "half_overlap";
    settings.window = 15;
    CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("even"));
    settings.window = 1;
    CHECK_THROWS_AS(perplexity(subject, settings, {}), Error);
    settings.window = 16;
    settings.join = "wikitext";
    CHECK_THROWS_WITH(perplexity(subject, settings, {}), Catch::Contains("wikitext2"));
    settings.join = "raw";
    settings.max_windows = -1;
    CHECK_THROWS_AS(perplexity(subject, settings, {}), Error);
  }
  SECTION("logits that are not finite") {
    engine.logits = [](std::span<const int32_t> history, double share, float* logits) {
      std::fill(logits, logits + 256, 0.0f);
      if (history.size() == 13 && share > 0) logits[200] = INFINITY;
    };
    CHECK_THROWS_WITH(
        perplexity(subject, settings, {}),
        Catch::Contains("model under test") && Catch::Contains("position 12, token id 200"));
  }
  SECTION("certain predictions of the wrong token") {
    engine.logits = [](std::span<const int32_t>, double, float* logits) {
      std::fill(logits, logits + 256, -3e38f);
      logits[0] = 3e38f;
    };
    const Outcome outcome = perplexity(subject, settings, {});
    CHECK(outcome.metrics["ppl"].is_null());
    CHECK(outcome.metrics["ppl_why"].is_string());
  }
}

TEST_CASE("the lock step cuts its buffer without changing a number", "[eval]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0), reference(256);
  FakeKv kv(KvPolicy{0, 4, 4});
  const Subject subject{engine, &kv, &reference, bytes};
  std::vector<int32_t> tokens;
  for (const char c : some_text(50)) tokens.push_back(c);
  const auto run = [&](int64_t rows, Regime regime, int64_t first_row) {
    engine.calls.clear();
    reference.calls.clear();
    std::vector<double> numbers;
    int64_t next = first_row;
    LockStep both(subject, rows * 256 * 4);
    both.forward(tokens, regime, first_row,
                 [&](int64_t row, const LogitRow& method, const LogitRow* ref) {
                   CHECK(row == next++);
                   numbers.push_back(method.log_sum_exp);
                   numbers.push_back(kl_divergence(*ref, method));
                 });
    CHECK(next == 50);
    return numbers;
  };
  const auto whole = run(1000, Regime::streaming, 10);
  CHECK(reference.calls.size() == 1);
  CHECK(run(7, Regime::streaming, 10) == whole);
  REQUIRE(reference.calls.size() == 6);  // 10 + 7 tokens, then 7 at a time
  CHECK(reference.calls[0].tokens == 17);
  CHECK(reference.calls[1].tokens == 7);
  CHECK(engine.calls.size() == 6);
  CHECK(run(1, Regime::streaming, 10) == whole);
  // A call that is a unit stays one.
  run(7, Regime::prefill_exact, 10);
  CHECK(engine.calls.size() == 1);
  run(7, Regime::streaming, 50);  // no rows at all

  engine.rows_per_piece = 1 << 20;
  CHECK(run(7, Regime::streaming, 10) == whole);
}

TEST_CASE("a batch decodes what single sequences decode", "[eval]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0), reference(256);
  FakeKv kv(KvPolicy{0, 4, 4});
  const Subject subject{engine, &kv, &reference, bytes};
  std::vector<std::vector<int32_t>> texts(3);
  for (size_t r = 0; r < texts.size(); ++r) {
    for (const char c : some_text(40 + 10 * r)) texts[r].push_back(c);  // prompts of 20, 30, 40
  }
  const auto run = [&](size_t first, size_t count, int64_t rows) {
    std::vector<LockStep> runs;
    std::vector<std::span<const int32_t>> tails;
    for (size_t r = first; r < first + count; ++r) {
      const auto ids = std::span(std::as_const(texts[r]));
      runs.emplace_back(subject, rows * 256 * 4);
      runs.back().forward(ids.first(ids.size() - 20), Regime::streaming, int64_t(ids.size()) - 20,
                          {});
      tails.push_back(ids.last(20));
    }
    engine.calls.clear();
    reference.calls.clear();
    std::vector<std::vector<double>> numbers(count);
    LockStep::decode(runs, tails, [&](size_t r, const LogitRow& method, const LogitRow* ref) {
      numbers[r].push_back(method.log_sum_exp);
      numbers[r].push_back(kl_divergence(*ref, method));
    });
    return numbers;
  };
  const auto together = run(0, 3, 1000);
  CHECK(engine.calls.size() == 60);
  CHECK(engine.calls[2].tokens == 1);
  CHECK(reference.calls.size() == 3);
  REQUIRE(together[0].size() == 40);
  for (size_t r = 0; r < 3; ++r) CHECK(run(r, 1, 1000)[0] == together[r]);
  CHECK(run(0, 3, 9) == together);  // a buffer of 3 rows each: 7 pieces
  CHECK(reference.calls.size() == 21);
}

TEST_CASE("generation by hand", "[eval]") {
  const std::string first = some_text(60), second = some_text(90).substr(20);
  const TempFile file("{\"text\":\"" + first + "\"}\n{\"text\":\"" + second + "\"}\n");
  const Tokenizer bytes = test::byte_tokenizer();
  const double noise = 0.5;
  FakeEngine engine(256, noise);
  const KvPolicy policy{0, 8, 4};
  FakeKv kv(policy);
  Subject subject{engine, &kv, &engine, bytes};
  GenerationSettings settings;
  settings.texts = file.path;
  settings.samples = 2;
  settings.prompt_tokens = 30;
  settings.continuation_tokens = 20;

  std::vector<double> means, reference_means, quarter_sums(4), kl_quarters(4);
  long double shares = 0;
  for (const std::string& text : {first, second}) {
    double loss = 0, loss_ref = 0;
    for (int64_t i = 30; i < 50; ++i) {
      // The first score comes from the prompt, which read itself densely.
      const int64_t t = i - 1;
      const double share = i == 30 ? 0 : double(policy.encoded(t)) / double(t + 1);
      shares += share;
      const auto row = fake_row(text, 0, t, share, noise), ref = fake_row(text, 0, t, 0, 0);
      const double nll = -double(log_probs(row)[uint8_t(text[size_t(i)])]);
      loss += nll / 20;
      loss_ref -= double(log_probs(ref)[uint8_t(text[size_t(i)])]) / 20;
      quarter_sums[size_t(i - 30) / 5] += nll / 10;
      kl_quarters[size_t(i - 30) / 5] += double(plain_kl(ref, row)) / 10;
    }
    means.push_back(loss);
    reference_means.push_back(loss_ref);
  }

  const Outcome outcome = generation(subject, settings, {});
  const Json& m = outcome.metrics;
  CHECK(m["tokens_scored"] == 40);
  CHECK(m["nll"].get<double>() == Approx(mean(means)).epsilon(1e-12));
  CHECK(m["ppl_pooled"].get<double>() == Approx(std::exp(mean(means))).epsilon(1e-12));
  CHECK(m["mean_ppl"].get<double>() ==
        Approx((std::exp(means[0]) + std::exp(means[1])) / 2).epsilon(1e-12));
  const double d0 = means[0] - reference_means[0], d1 = means[1] - reference_means[1];
  CHECK(m["delta_nll"].get<double>() == Approx((d0 + d1) / 2).epsilon(1e-10));
  CHECK(m["delta_nll_se"].get<double>() == Approx(std::abs(d0 - d1) / 2).epsilon(1e-9));
  CHECK(m["delta_nll_se_blocks"].get<double>() == Approx(std::abs(d0 - d1) / 2).epsilon(1e-9));
  CHECK(m["exposure"].get<double>() == Approx(double(shares) / 38).epsilon(1e-12));
  REQUIRE(m["quarters"].size() == 4);
  for (size_t q = 0; q < 4; ++q) {
    const Json& row = m["quarters"][q];
    CHECK(row["first"] == 5 * q);
    CHECK(row["last"] == 5 * q + 4);
    CHECK(row["nll"].get<double>() == Approx(quarter_sums[q]).epsilon(1e-12));
    CHECK(row["kl_mean"].get<double>() == Approx(kl_quarters[q]).epsilon(1e-10));
    CHECK(row["tokens"] == 10);
    CHECK(row["flips"].get<double>() == Approx(1 - row["top1_agreement"].get<double>()));
  }
  REQUIRE(outcome.samples.size() == 2);
  CHECK(outcome.samples[1]["nll"].get<double>() == Approx(means[1]).epsilon(1e-12));
  CHECK(outcome.samples[1]["line"] == 2);
  CHECK(outcome.samples[0]["quarters"][3]["tokens"] == 5);
  CHECK(outcome.samples[0]["quarters"][1]["nll"].get<double>() +
            outcome.samples[1]["quarters"][1]["nll"].get<double>() ==
        Approx(2 * m["quarters"][1]["nll"].get<double>()));

  // Side by side, the numbers are the same.
  settings.batch = 2;
  Json side_by_side = generation(subject, settings, {}).metrics;
  for (const char* same : {"nll", "mean_ppl", "delta_nll", "kl_mean", "quarters", "exposure"}) {
    CHECK(side_by_side[same] == m[same]);
  }
  settings.batch = 1;
  CHECK(m["cache"]["tokens"] == 49);  // the last token is scored, never fed
  CHECK(m["regime"] == "prefill-exact");
  CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 12}).empty());

  SECTION("fewer scores than quarters, one text, no reference") {
    settings.samples = 1;
    settings.continuation_tokens = 1;
    subject.reference = nullptr;
    const Json one = generation(subject, settings, {}).metrics;
    CHECK(one["quarters"].size() == 1);
    CHECK(one["quarters"][0]["first"] == 0);
    CHECK(one["quarters"][0]["last"] == 0);
    CHECK(one["tokens_scored"] == 1);
    CHECK_FALSE(one.contains("delta_nll"));
    CHECK(one["decode_tokens_per_second_why"] == "no token was fed back");
  }
  SECTION("hostile") {
    settings.samples = 3;
    CHECK_THROWS_WITH(generation(subject, settings, {}), Catch::Contains("holds 2 texts, 3"));
    settings.samples = 2;
    settings.continuation_tokens = 31;
    CHECK_THROWS_WITH(generation(subject, settings, {}),
                      Catch::Contains("60 tokens found, 61 needed") && Catch::Contains(":1"));
    settings.continuation_tokens = 0;
    CHECK_THROWS_AS(generation(subject, settings, {}), Error);
    settings.continuation_tokens = 5;
    settings.regime = Regime::independent;
    CHECK_THROWS_AS(generation(subject, settings, {}), Error);
  }
}

TEST_CASE("bytes of a cache are means over the sequences", "[eval]") {
  CacheMeans means;
  CHECK(means.json()["bytes_per_token"].is_null());
  CacheBytes bytes;
  bytes.encoded = 600, bytes.window = 300, bytes.sink = 100;
  bytes.tokens = 100, bytes.scalars = 1000;  // 10 bytes a token, 8 bits
  means.add(bytes);
  CHECK(uneven_cache_note({{"cache", means.json()}}) == "");
  bytes.encoded = 3600, bytes.tokens = 200, bytes.scalars = 2000;  // 20 bytes a token, 16 bits
  means.add(bytes);
  const Json json = means.json();
  CHECK(json["sequences"] == 2);
  CHECK(json["tokens"] == 150);
  CHECK(json["bytes_encoded"] == 2100);
  CHECK(json["bytes_total"] == 2500);
  CHECK(json["bytes_per_token"] == 15.0);
  CHECK(json["bytes_per_token_min"] == 10.0);
  CHECK(json["bytes_per_token_max"] == 20.0);
  CHECK(json["bytes_per_token_fp16"] == 20.0);
  CHECK(json["effective_bits"] == 12.0);
  CHECK(json["compression_ratio"].get<double>() == Approx(16.0 / 12));
  CHECK(uneven_cache_note({{"cache", json}}) ==
        "the sequences differ in KV bytes per token, 10 to 20; the figure is their mean");
  bytes.encoded = 3601;
  means.add(bytes);
  CHECK(means.json()["bytes_encoded"].get<double>() == Approx(7801 / 3.0));
}

TEST_CASE("methods that did nothing are caught", "[eval]") {
  const auto outcome = [](double kl_max, double agreement, double exposure, int64_t encoded,
                          int64_t total) {
    Outcome o;
    o.metrics = {{"regime", "streaming"},
                 {"kl_max", kl_max},
                 {"top1_agreement", agreement},
                 {"exposure", exposure},
                 {"cache",
                  {{"tokens", 100},
                   {"bytes_encoded", encoded},
                   {"bytes_total", total},
                   {"bytes_per_token_fp16", 16.0}}}};
    return o;
  };
  const MethodFacts kv{.kv = true, .first_encoded_length = 50};
  const MethodFacts long_window{.kv = true, .first_encoded_length = 101};
  const MethodFacts weights{.weights = true};
  using Expected = std::vector<std::pair<Severity, std::string>>;
  const auto check = [](const Outcome& o, const MethodFacts& facts, const Expected& expected) {
    const auto findings = check_exercised(o, facts);
    REQUIRE(findings.size() == expected.size());
    for (size_t i = 0; i < findings.size(); ++i) {
      CHECK(findings[i].severity == expected[i].first);
      INFO(findings[i].sentence);
      CHECK(findings[i].sentence.find(expected[i].second) == 0);
    }
  };
  const auto warning = Severity::warning, error = Severity::error;
  check(outcome(0.1, 0.9, 0.5, 300, 700), kv, {});
  check(outcome(0, 1, 0, 0, 1600), {.lossless = true, .kv = true}, {});
  check(outcome(0, 1, 0, 0, 1600), {}, {});
  check(outcome(0, 1, 0, 0, 1600), kv, {{error, "method inactive"}, {warning, "exposure 0"}});
  check(outcome(0, 1, 0, 0, 1600), long_window, {{warning, "exposure 0"}});
  check(outcome(0, 1, 0.5, 300, 700), kv, {{error, "identical to FP16"}});
  check(outcome(1e-10, 1, 0.5, 300, 700), kv, {{warning, "hardly distinguishable"}});
  check(outcome(0, 1, 0, 0, 1600), weights, {{error, "identical to FP16"}});
  check(outcome(0.1, 1, 0, 0, 1600), weights, {});
  check(outcome(0.1, 1, 0.5, 1600, 1600), kv, {{warning, "the cache is not smaller"}});
  // A weight method beside a silent cache method cannot excuse equal numbers.
  check(outcome(0, 1, 0, 0, 1600), {.weights = true, .kv = true, .first_encoded_length = 101},
        {{warning, "exposure 0"}, {error, "identical to FP16"}});
  CHECK(first_encoded_length(FakeKv(KvPolicy{4, 32, 16}, KvPolicy{4, 32, 1})) == 37);
}
