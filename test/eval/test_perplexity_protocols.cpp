// The protocols that other programs run, against these programs (test/fixtures/perplexity/make.py).
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/eval/perplexity.hpp"
#include "ptq/tasks/wikitext.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using namespace ptq::eval;

namespace {

const std::string kPages = PTQ_SOURCE_DIR "/test/fixtures/perplexity/pages.txt";

Json expected() {
  const std::string file = PTQ_SOURCE_DIR "/test/fixtures/perplexity/expected.json";
  return parse_json(read_text_file(file, 1 << 20), file);
}

Outcome run(const PerplexitySettings& settings) {
  const std::string model = PTQ_SOURCE_DIR "/models/tiny-mistral";
  const Tokenizer tokenizer = Tokenizer::load(model);
  const auto engine = make_cpu_engine(model, 2);
  Subject subject{*engine, nullptr, nullptr, tokenizer};
  return perplexity(subject, settings, {});
}

}  // namespace

TEST_CASE("pages of WikiText are cut and put together as in the harness", "[eval]") {
  const Json right = expected()["pages"];
  const std::vector<std::string> pages = tasks::wikitext_pages(read_utf8_file(kPages));
  REQUIRE(pages.size() == right.size());
  for (size_t i = 0; i < pages.size(); ++i) {
    CHECK(pages[i] == right[i]["page"].get<std::string>());
    CHECK(tasks::wikitext_detokenized(pages[i]) == right[i]["scored"].get<std::string>());
    CHECK(tasks::split_words(pages[i]) == right[i]["words"].get<int64_t>());
  }
  CHECK(tasks::split_words("") == 1);
  CHECK(tasks::split_words(" a\xC2\xA0 b ") == 4);
}

TEST_CASE("perplexities per word and byte are the harness's", "[eval]") {
  const Json known = expected();
  for (const Json& right : known["rolling_words"]) {
    PerplexitySettings s;
    s.text = kPages;
    s.join = "pages";
    s.protocol = "rolling_words";
    s.window = right["window"];
    s.regime = Regime::independent;  // float32, as the harness computed
    INFO("window " << s.window);
    const Outcome outcome = run(s);
    const Json& m = outcome.metrics;
    for (const char* key : {"word_perplexity", "byte_perplexity", "bits_per_byte"})
      CHECK(m[key].get<double>() == Approx(right[key].get<double>()).epsilon(2e-5));
    std::vector<double> sums(right["loglikelihoods"].size());
    double tokens = 0;
    for (const Json& sample : outcome.samples) {
      const double targets = sample["targets"].get<double>();
      sums[sample["text"].get<size_t>()] -= targets * sample["nll"].get<double>();
      tokens += targets;
    }
    for (size_t i = 0; i < sums.size(); ++i)
      CHECK(sums[i] == Approx(right["loglikelihoods"][i].get<double>()).margin(1e-3));
    // A loss that is a mean over tokens.
    CHECK(m["nll"].get<double>() * tokens == Approx(-(sums[0] + sums[1] + sums[2])));
    CHECK(m["ppl"].get<double>() == Approx(m["ppl_tok"].get<double>()).epsilon(1e-12));
    CHECK(m["texts"] == 3);
    CHECK(m["tokens_left_out"] == 0);
    CHECK(m["stride"] == s.window);
  }
  PerplexitySettings s;
  s.text = kPages;
  s.join = "pages";
  s.protocol = "rolling_words";
  s.window = 16;
  s.max_windows = 2;  // ends inside the first page: its words are no denominator
  const Json m = run(s).metrics;
  CHECK(m["word_perplexity"].is_null());
  CHECK(m["word_perplexity_why"] == "no text was scored to its end");
}

TEST_CASE("a sliding window scores as the loop of transformers", "[eval]") {
  const Json known = expected();
  for (const Json& right : known["sliding"]) {
    PerplexitySettings s;
    s.text = kPages;
    s.protocol = "sliding";
    s.window = right["window"];
    s.stride = right["stride"];
    s.regime = Regime::independent;
    INFO("window " << s.window << ", stride " << s.stride);
    const Json m = run(s).metrics;
    CHECK(m["tokens_scored"] == right["tokens"]);
    CHECK(m["nll"].get<double>() == Approx(right["nll"].get<double>()).epsilon(1e-5));
    CHECK(m["stride"] == s.stride);
    CHECK(m["tokens_left_out"] == 0);
  }
}

TEST_CASE("settings that a protocol has not are mistakes", "[eval]") {
  const auto settings = [] {
    PerplexitySettings s;
    s.text = kPages;
    return s;
  };
  PerplexitySettings stride = settings();
  stride.stride = 16;
  CHECK_THROWS_WITH(check_settings(stride, "perplexity"), Catch::Contains("`stride` belongs to"));
  PerplexitySettings pages = settings();
  pages.join = "pages";
  CHECK_THROWS_WITH(check_settings(pages, "perplexity"), Catch::Contains("rolling_words"));
  PerplexitySettings decide = settings();
  decide.protocol = "sliding";
  decide.decide.metric = "nll";
  CHECK_THROWS_WITH(check_settings(decide, "perplexity"), Catch::Contains("one length"));
}

TEST_CASE("weighted means and their errors", "[stats]") {
  const std::vector<double> x = {1, 2, 4}, one = {3, 3, 3}, w = {1, 1, 2};
  CHECK(weighted_mean(x, one) == Approx(mean(x)));
  CHECK(weighted_error(x, one) == Approx(standard_error(x)));
  CHECK(weighted_mean(x, w) == 2.75);
  // sqrt(3/2 (1.75^2 + 0.75^2 + 2.5^2)) / 4
  CHECK(weighted_error(x, w) == Approx(std::sqrt(1.5 * (3.0625 + 0.5625 + 6.25)) / 4));
}
