// The result record: round trip, hostile JSON, the human page.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>

#include "ptq/results/record.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/results/record_page.hpp"

using namespace ptq;

namespace {

Record example() {
  Record r;
  r.experiment = "kv";
  r.track = "C";
  r.cell = "tiny--kivi--ppl";
  r.model = {"tiny", "models/tiny", "sha256:abc", 5'000'000'000};
  r.method = {"kivi 2 bit", false, {}};
  r.method.parts.push_back({"kivi.so", "ff00", "kivi", "1.0.0", {{"bits", 2}, {"name", "a|b"}}});
  r.evaluation = {"text", "perplexity", {{"window", 2048}, {"depths", {0.1, 0.25}}}};
  r.seed = 18446744073709551615u;
  r.code = {"0.1.0", "0123456789ab"};
  r.environment = {{"cpu", "x"}, {"threads", 2}};
  r.warnings = {"first", "second"};
  r.headline = {"ppl", "lower", "perplexity"};
  r.metrics = {{"ppl", 6.1600000000000001},
               {"nll", 0.1 + 0.2},
               {"cache", {{"bytes_total", 12}}},
               {"depths", {{{"depth", 0.1}, {"accuracy", 1.0}}, {{"depth", 0.5}}}}};
  r.started_at = "2026-01-02T03:04:05Z";
  r.seconds = 1.5;
  return r;
}

Record reread(const Record& r) {
  return record_from_json(Json::parse(json_text(to_json(r), 2)), "result.json");
}

}  // namespace

TEST_CASE("a record survives its JSON", "[record]") {
  Record r = example();
  const Json json = to_json(r);
  CHECK(json["schema_version"] == 2);
  CHECK(json["error"].is_null());
  CHECK(json.begin().key() == "schema_version");
  CHECK(to_json(reread(r)) == json);
  CHECK(reread(r).seed == r.seed);
  // Shortest round trip.
  CHECK(json_text(json).find("0.30000000000000004") != std::string::npos);
  CHECK(json_text(json).find("\"ppl\":6.16,") != std::string::npos);

  CHECK_FALSE(json.contains("samples_sha256"));  // as older versions write it
  r.samples_sha256 = "00ff";
  CHECK(reread(r).samples_sha256 == "00ff");
  CHECK_THROWS_AS(
      record_from_json(
          Json::parse(
              json_text(to_json(r)).replace(json_text(to_json(r)).find("\"00ff\""), 6, "5")),
          "result.json"),
      Error);

  r.status = "invalid";
  CHECK(reread(r).status == "invalid");
  r.status = "failed";
  r.error = Record::Failure{5, "out of memory", "line 1\nline 2"};
  const Record failed = reread(r);
  CHECK(to_json(failed) == to_json(r));
  CHECK(failed.error->log_tail == "line 1\nline 2");
}

TEST_CASE("what is not finite is null with a reason", "[record]") {
  Json object;
  put_number(object, "a", 0.5);
  put_number(object, "b", std::nan(""), "no windows");
  CHECK(json_text(object) == R"({"a":0.5,"b":null,"b_why":"no windows"})");

  Record r = example();
  r.metrics["cache"]["x"] = INFINITY;
  r.metrics["depths"][1]["accuracy"] = std::nan("");
  r.seconds = std::nan("");
  const Json json = to_json(r);
  CHECK(json["metrics"]["cache"]["x"].is_null());
  CHECK(json["metrics"]["cache"]["bytes_total"] == 12);
  REQUIRE(json["warnings"].size() == 5);
  CHECK(json["warnings"][2] == "metrics.cache.x is infinite and was written as null");
  CHECK(json["warnings"][3] ==
        "metrics.depths[1].accuracy is not a number and was written as null");
  CHECK(json["warnings"][4] == "seconds is not a number and was written as null");
  CHECK(std::isnan(reread(r).seconds));
  CHECK(json_text(Json("cut \xE4\xBD")) == "\"cut \xEF\xBF\xBD\"");
}

TEST_CASE("a damaged record names the place", "[record]") {
  const Json good = to_json(example());
  const auto refuses = [&](const char* pointer, const Json& value, const char* place) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = value;
    INFO(pointer << " = " << json_text(value));
    CHECK_THROWS_WITH(record_from_json(bad, "result.json"),
                      Catch::Contains(std::string("result.json: ") + place));
  };
  refuses("/experiment", 5, "experiment");
  refuses("/model", "x", "model");
  refuses("/model/parameters", 1.5, "model.parameters");
  refuses("/model/parameters", 9223372036854775808u, "model.parameters");
  refuses("/method/lossless", 0, "method.lossless");
  refuses("/method/parts", Json::object(), "method.parts");
  refuses("/method/parts/0", 3, "method.parts[0]");
  refuses("/method/parts/0/options", Json::array(), "method.parts[0].options");
  refuses("/seed", -1, "seed");
  refuses("/status", "fine", "status");
  refuses("/status", "failed", "error");
  refuses("/error", Json::object(), "error");
  refuses("/warnings", {1}, "warnings[0]");
  refuses("/headline", "ppl", "headline");
  refuses("/headline/key", 1, "headline.key");
  refuses("/headline/direction", "up", "headline.direction");
  refuses("/metrics", nullptr, "metrics");
  refuses("/seconds", "1", "seconds");

  for (const auto& [key, value] : good.items()) {
    if (key == "headline") continue;  // what is not measured has none
    Json bad = good;
    bad.erase(key);
    INFO(key);
    CHECK_THROWS_WITH(record_from_json(bad, "result.json"),
                      Catch::Contains("the key is missing") && Catch::Contains(key));
  }
  Json future = good;
  future["schema_version"] = 3;
  CHECK_THROWS_WITH(record_from_json(future, "result.json"), Catch::Contains("schema version 3"));
  CHECK_THROWS_AS(record_from_json(Json::array(), "result.json"), Error);
  Json more = good;
  more["added_later"] = 1;
  CHECK_NOTHROW(record_from_json(more, "result.json"));
}

TEST_CASE("JSON of unknown origin", "[record]") {
  CHECK(parse_json("\xEF\xBB\xBF{\"a\": \"[[\\\"[\"}", "f")["a"] == "[[\"[");
  CHECK(parse_json(std::string(128, '[') + std::string(128, ']'), "f").size() == 1);
  CHECK_THROWS_WITH(parse_json(std::string(1 << 20, '['), "f"), Catch::Contains("nested deeper"));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  CHECK_THROWS_WITH(parse_json(deep, "f"), Catch::Contains("nested deeper"));
  CHECK_THROWS_WITH(parse_json("{", "some file"), Catch::Contains("some file"));
}

TEST_CASE("the human page", "[record]") {
  Record r = example();
  r.warnings = {"exposure 0\nand | more"};
  std::string page = result_markdown(r);
  CHECK(page.find("# tiny / kivi 2 bit / text\n") == 0);
  CHECK(page.find("| ppl | 6.16 |\n| nll | 0.3 |\n| cache.bytes\\_total | 12 |") !=
        std::string::npos);
  CHECK(page.find("### depths\n\n| depth | accuracy |\n|---|---|\n| 0.1 | 1 |\n| 0.5 | - |\n") !=
        std::string::npos);
  CHECK(page.find("- exposure 0 and \\| more\n") != std::string::npos);
  CHECK(page.find("| name | a\\|b |") != std::string::npos);
  CHECK(page.find("sha256 ff00") != std::string::npos);
  CHECK(page.find("commit 0123456789ab") != std::string::npos);
  CHECK(page.find("## Error") == std::string::npos);

  r.status = "failed";
  r.error = Record::Failure{1, "it broke", "a\n```\nb"};
  r.metrics = Json::object();
  r.method.parts.clear();
  page = result_markdown(r);
  CHECK(page.find("it broke (exit code 1)") != std::string::npos);
  CHECK(page.find("\n    a\n    ```\n    b\n") != std::string::npos);
  CHECK(page.find("## Metrics\n\nnone\n") != std::string::npos);
}

TEST_CASE("a record says which of its figures ranks methods, one of version 1 does not",
          "[record]") {
  const Record r = reread(example());
  REQUIRE(r.headline);
  CHECK(r.headline->key == "ppl");
  CHECK(r.headline->direction == "lower");
  CHECK(r.headline->title == "perplexity");
  Json old = to_json(example());
  old["schema_version"] = 1;
  old.erase("headline");
  const Record before = record_from_json(old, "result.json");
  CHECK_FALSE(before.headline);
  CHECK(before.metrics == r.metrics);
}
