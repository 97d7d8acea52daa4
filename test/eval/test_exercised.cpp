// What a result says of its cache, and how a method that did nothing is caught.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/eval/exercised.hpp"
#include "ptq/eval/measured.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;

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
