// cached_decode perplexity: buckets and lengths against sums made by hand, and the validity checks
// of the protocol on a real model.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/eval/cached_decode.hpp"
#include "ptq/eval/exercised.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;
namespace fs = std::filesystem;

namespace {

struct TempTexts {
  explicit TempTexts(const std::vector<std::string>& texts) {
    path = (fs::temp_directory_path() / ("ptq-test-cached-" + std::to_string(::getpid()))).string();
    std::ofstream out(path, std::ios::binary);
    for (const std::string& text : texts) out << Json({{"text", text}}).dump() << "\n";
  }
  ~TempTexts() { fs::remove(path); }
  std::string path;
};

std::string some_text(size_t bytes, unsigned salt) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text += char('a' + (i * i + salt * i + i / 7) % 26);
  return text;
}

}  // namespace

TEST_CASE("losses by length and by distance", "[cached_decode]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 0.7);
  FakeKv kv(KvPolicy{4, 32, 16});
  const std::vector<std::string> texts = {some_text(3000, 1), some_text(3100, 5)};
  const TempTexts file(texts);
  CachedDecodeSettings settings;
  settings.texts = file.path;
  settings.lengths = {2600, 1000};

  // Loss and divergence of every token by the definition: the fake's logits at that place.
  struct Sum {
    double nll = 0, kl = 0, tokens = 0;
  };
  const auto by_hand = [&](int64_t first, int64_t last, const auto& encoded) {
    Sum sum;
    for (const std::string& text : texts) {
      std::vector<int32_t> history;
      for (int64_t t = 0; t + 1 <= last; ++t) {
        history.push_back(uint8_t(text[size_t(t)]));
        if (t + 1 < first) continue;
        const double share = double(encoded(t)) / double(t + 1);
        std::vector<float> own(256), reference(256);
        engine.logits(history, share, own.data());
        engine.logits(history, 0, reference.data());
        const LogitRow a = read_logits(own.data(), 256, t, "test");
        const LogitRow b = read_logits(reference.data(), 256, t, "test");
        sum.nll += a.nll(uint8_t(text[size_t(t + 1)]));
        sum.kl += kl_divergence(b, a);
        sum.tokens += 1;
      }
    }
    sum.nll /= sum.tokens;
    sum.kl /= sum.tokens;
    return sum;
  };

  Subject subject{engine, &kv, &engine, bytes};
  for (const Regime regime : {Regime::streaming, Regime::prefill_exact}) {
    settings.regime = regime;
    settings.chunk = 100;
    const auto encoded = [&](int64_t t) {
      return kv.policies[0].encoded(regime == Regime::streaming ? t : t / 100 * 100);
    };
    const Outcome outcome = cached_decode(subject, settings, {});
    const Json& m = outcome.metrics;
    CHECK(m["tokens_scored"] == 2 * 2599);
    const Sum all = by_hand(1, 2599, encoded);
    CHECK(m["nll"].get<double>() == Approx(all.nll).epsilon(1e-9));
    CHECK(m["kl_mean"].get<double>() == Approx(all.kl).epsilon(1e-9));
    REQUIRE(m["lengths"].size() == 2);
    CHECK(m["lengths"][0]["length"] == 1000);
    const Sum short_half = by_hand(500, 999, encoded), long_half = by_hand(1300, 2599, encoded);
    CHECK(m["lengths"][0]["tokens"] == 2 * 500);
    CHECK(m["lengths"][1]["tokens"] == 2 * 1300);
    CHECK(m["lengths"][0]["nll"].get<double>() == Approx(short_half.nll).epsilon(1e-9));
    CHECK(m["lengths"][1]["nll"].get<double>() == Approx(long_half.nll).epsilon(1e-9));
    CHECK(m["lengths"][1]["kl_mean"].get<double>() == Approx(long_half.kl).epsilon(1e-9));
    REQUIRE(m["buckets"].size() == 3);
    CHECK(m["buckets"][0]["last"] == 511);
    CHECK(m["buckets"][0]["tokens"] == 2 * 511);
    CHECK(m["buckets"][1]["tokens"] == 2 * 1536);
    CHECK(m["buckets"][2]["last"] == 2599);
    CHECK(m["buckets"][1]["nll"].get<double>() ==
          Approx(by_hand(512, 2047, encoded).nll).epsilon(1e-9));
    CHECK(m["lengths"][0]["bytes_per_token"].get<double>() >
          m["lengths"][1]["bytes_per_token"].get<double>());
    CHECK(outcome.samples[1]["lengths"][1]["tokens"] == 1300);
    CHECK(check_exercised(outcome, {.kv = true, .first_encoded_length = 52}).empty());
  }

  SECTION("settings") {
    settings.lengths = {4000};
    CHECK_THROWS_WITH(cached_decode(subject, settings, {}), Catch::Contains("4000 needed"));
    settings.lengths = {100};
    settings.samples = 3;
    CHECK_THROWS_WITH(cached_decode(subject, settings, {}), Catch::Contains("2 texts"));
    settings.samples = 1;
    settings.regime = Regime::independent;
    CHECK_THROWS_WITH(cached_decode(subject, settings, {}), Catch::Contains("a cache is read"));
  }
}

// With a full-precision cache the result equals the one-shot pass within 1e-3
// relative for chunks of 1 and 64. The cache's float16 numbers are all that differs.
TEST_CASE("a full-precision cache changes nothing, whatever the chunk", "[cached_decode]") {
  const fs::path root(PTQ_SOURCE_DIR);
  const fs::path folder = root / "models/tiny-mistral";
  const Tokenizer tokenizer = Tokenizer::load(folder);
  const auto engine = make_cpu_engine(folder.string(), 2);
  CachedDecodeSettings settings;
  settings.texts = (root / "datasets/embedded/books.jsonl").string();
  settings.samples = 1;
  settings.lengths = {512};

  const std::string text = read_jsonl_texts(settings.texts, 1)[0].text;
  std::vector<int32_t> ids = tokenizer.encode(text);
  ids.resize(512);
  double one_shot = 0;
  engine->forward(*engine->start(nullptr), ids, Regime::independent, 0,
                  [&](int64_t first, int64_t rows, const float* logits) {
                    for (int64_t r = 0; r < rows && first + r + 1 < 512; ++r) {
                      const int64_t vocab = engine->config().vocab_size;
                      one_shot += read_logits(logits + r * vocab, vocab, first + r, "test")
                                      .nll(ids[size_t(first + r + 1)]);
                    }
                  });
  one_shot /= 511;
  Subject subject{*engine, nullptr, nullptr, tokenizer};
  for (const int64_t chunk : {1, 64}) {
    settings.regime = Regime::prefill_exact;
    settings.chunk = chunk;
    CHECK(cached_decode(subject, settings, {}).metrics["nll"].get<double>() ==
          Approx(one_shot).epsilon(1e-3));
  }
  settings.regime = Regime::streaming;
  CHECK(cached_decode(subject, settings, {}).metrics["nll"].get<double>() ==
        Approx(one_shot).epsilon(1e-3));
}
