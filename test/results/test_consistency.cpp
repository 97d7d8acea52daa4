// Records whose figures do not agree with each other or with the samples beside them.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "ptq/results/consistency.hpp"

using namespace ptq;
namespace fs = std::filesystem;

namespace {

struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "ptq-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  void samples(const std::string& text) const { std::ofstream(path / "samples.jsonl") << text; }
  fs::path path;
};

const std::string kWindows =
    "{\"window\": 0, \"targets\": 100, \"nll\": 1.5, \"nll_reference\": 1.25, \"kl_mean\": 0.1, "
    "\"kl_max\": 0.5}\n"
    "{\"window\": 1, \"targets\": 50, \"nll\": 2.25, \"nll_reference\": 1.75, \"kl_mean\": 0.4, "
    "\"kl_max\": 0.45}\n";

Json cache() {
  return {{"sequences", 2},
          {"tokens", 100},
          {"bytes_encoded", 2000},
          {"bytes_window", 800},
          {"bytes_sink", 200},
          {"bytes_total", 3000},
          {"bytes_reserved", 0},
          {"bytes_per_token", 30.5},
          {"bytes_per_token_min", 29.0},
          {"bytes_per_token_max", 32.0},
          {"bytes_per_token_fp16", 122.0},
          {"effective_bits", 4.0},
          {"compression_ratio", 4.0}};
}

// A perplexity of the two windows.
Record perplexity() {
  Record r;
  r.evaluation = {"ppl", "perplexity", Json::object()};
  r.seconds = 1;
  r.metrics = {{"windows", 2},
               {"tokens_scored", 150},
               {"nll", 1.875},
               {"ppl", std::exp(1.875)},
               {"ppl_tok", std::exp(1.75)},
               {"nll_reference", 1.5},
               {"ppl_reference", std::exp(1.5)},
               {"delta_nll", 0.375},
               {"kl_mean", 0.2},
               {"kl_median", 0.05},
               {"kl_p99", 0.4},
               {"kl_max", 0.5},
               {"top1_agreement", 0.9},
               {"exposure", 0.75},
               {"exposure_keys", 0.5},
               {"exposure_values", 1.0},
               {"cache", cache()}};
  r.samples_sha256 = sha256_hex(kWindows);
  return r;
}

// 3 of 4 right, at two depths; full precision answers all.
Record passkey() {
  Record r;
  r.evaluation = {"passkey", "passkey", Json::object()};
  const auto row = [](int correct, int total) {
    return Json{{"correct", correct}, {"total", total}, {"accuracy", double(correct) / total}};
  };
  r.metrics = row(3, 4);
  r.metrics.update({{"ci95_low", 0.19},
                    {"ci95_high", 0.99},
                    {"accuracy_reference", 1.0},
                    {"lost", 1},
                    {"gained", 0},
                    {"flips", 0.25},
                    {"depths", {row(2, 2), row(1, 2)}}});
  return r;
}

std::string all(const std::vector<Violation>& found) {
  std::string text;
  for (const Violation& violation : found) text += violation.sentence() + "\n";
  return text;
}

}  // namespace

using Catch::Contains;

TEST_CASE("a record as it is written has no violation", "[consistency]") {
  const Folder folder;
  folder.samples(kWindows);
  CHECK(all(violations(perplexity(), folder.path)) == "");
  CHECK(all(figure_violations(passkey())) == "");
  Record like_llamacpp = perplexity();
  like_llamacpp.metrics["ppl_error"] = 0.03;  // behind its `+/-`
  CHECK(all(figure_violations(like_llamacpp)) == "");
  Record empty;
  CHECK(all(violations(empty, folder.path)) == "");
  empty.status = "failed";
  empty.samples_sha256 = "00";
  CHECK(all(violations(empty, folder.path)) == "");
}

TEST_CASE("every figure that cannot be true is named", "[consistency]") {
  const auto says = [](Record record, const char* pointer, const Json& value, const char* words) {
    record.metrics[Json::json_pointer(pointer)] = value;
    INFO(pointer << " = " << json_text(value));
    CHECK_THAT(all(figure_violations(record)), Contains(words));
  };
  const Record p = perplexity(), k = passkey();
  says(p, "/ppl", std::exp(1.875) * 0.8, "metrics.ppl is 5.21");
  says(p, "/ppl", -3, "metrics.ppl is -3, but no perplexity is below 1");
  says(p, "/ppl_error", -0.5, "metrics.ppl_error is -0.5, below 0");
  says(p, "/nll", -0.5, "metrics.nll is -0.5, below 0");
  says(p, "/ppl_reference", 3.0, "but exp(nll_reference) is");
  says(p, "/delta_nll", 0.1, "but nll - nll_reference is 0.375");
  says(p, "/kl_mean", -0.1, "metrics.kl_mean is -0.1, below 0");
  says(p, "/kl_mean", 0.6, "above kl_max");
  says(p, "/kl_median", 0.45, "above kl_p99");
  says(p, "/top1_agreement", 1.5, "outside 0 to 1");
  says(p, "/exposure", 55, "metrics.exposure is 55, outside 0 to 1");
  says(p, "/exposure", 0.8, "the mean of keys and values is 0.75");
  says(p, "/cache/bytes_total", 2900, "metrics.cache.bytes_total is 2900");
  says(p, "/cache/bytes_per_token", 25.0, "metrics.cache.bytes_per_token is 25");
  says(p, "/cache/bytes_window", -1, "below 0");
  says(p, "/cache/effective_bits", 2.0, "16 / effective_bits");
  says(p, "/cache/tokens", 50, "bytes_total / tokens is 60");
  says(p, "/weights", {{"bytes", 5}, {"bytes_encoded", 3}, {"bytes_dense", 3}},
       "metrics.weights.bytes is 5");
  says(p, "/buckets", {{{"tokens", 10}, {"nll", 1.875}}}, "metrics.tokens_scored is 150");
  says(p, "/buckets", {{{"tokens", 150}, {"nll", 1.0}}}, "the mean over buckets is 1");
  says(p, "/quarters", {{{"tokens", 150}, {"nll", 1.875}, {"ppl", 2.0}}},
       "metrics.quarters[0].ppl is 2");
  says(k, "/correct", 7, "metrics.correct is 7, of a total of 4");
  says(k, "/accuracy", 1.0, "but correct / total is 0.75");
  says(k, "/ci95_low", 0.8, "above the share 0.75");
  says(k, "/lost", 3, "metrics.lost is 3, more than total - correct");
  says(k, "/accuracy_reference", 0.75, "metrics.accuracy_reference is 0.75");
  says(k, "/depths/1/correct", 0, "the sum over depths is 2");

  Record without = p;
  without.metrics.erase("nll");
  CHECK_THAT(all(figure_violations(without)), Contains("metrics.nll is missing"));
  without.metrics["nll_why"] = "not a finite number";
  CHECK(all(figure_violations(without)) == "");
  Record late = p;
  late.seconds = -1;
  CHECK_THAT(all(figure_violations(late)), Contains("seconds is -1"));
}

TEST_CASE("figures are held against the samples", "[consistency]") {
  const Folder folder;
  const auto says = [&](const Record& record, const char* words) {
    CHECK_THAT(all(sample_violations(record, folder.path)), Contains(words));
  };
  const Record p = perplexity();
  says(p, "samples.jsonl is missing");
  folder.samples("");
  says(p, "is not the file whose hash");
  says(p, "metrics.windows is 2");
  folder.samples(kWindows.substr(0, kWindows.find('\n') + 1));
  says(p, "the number of lines of samples.jsonl is 1");
  folder.samples(kWindows + "{\n");
  says(p, "damaged lines, the first is line 3");

  // Edited with all that follows from it, and only the samples tell.
  folder.samples(kWindows);
  Record edited = p;
  edited.metrics["nll"] = 1.775;
  edited.metrics["ppl"] = std::exp(1.775);
  edited.metrics["delta_nll"] = 0.275;
  CHECK(all(figure_violations(edited)) == "");
  says(edited, "metrics.nll is 1.775, but that of the samples is 1.875");

  edited = p;
  edited.metrics["kl_mean"] = 0.16;
  says(edited, "metrics.kl_mean is 0.16, but the mean of the samples is 0.2");
  edited = p;
  edited.metrics["cache"]["sequences"] = 3;
  says(edited, "metrics.cache.sequences is 3, but there are 2 samples");
  edited.metrics["nll"] = 1.775;

  // A record of a version that kept no hash: the samples may be gone, but not differ.
  Record old = edited;
  old.samples_sha256.clear();
  says(old, "that of the samples is 1.875");
  fs::remove(folder.path / "samples.jsonl");
  CHECK(all(sample_violations(old, folder.path)) == "");

  Record k = passkey();
  folder.samples(
      "{\"correct\": true, \"correct_reference\": true}\n"
      "{\"correct\": true, \"correct_reference\": true}\n"
      "{\"correct\": false, \"correct_reference\": true}\n"
      "{\"correct\": true, \"correct_reference\": true}\n");
  CHECK(all(sample_violations(k, folder.path)) == "");
  k.metrics["correct"] = 4;
  says(k, "the number of right samples is 3");
}

TEST_CASE("figures are held against the scores of the tokens", "[consistency]") {
  const Folder folder;
  TokenFile file;
  file.runs = {{0, 1, 2}, {1, 1, 1}, {1, 2, 1}};
  file.tokens = {{1.0f, 0.5f, 0.25f, 0.5f, 65535, 9, 0},
                 {2.0f, 1.0f, 0.5f, 0.25f, 65535, 9, TokenScore::kFlip},
                 {3.0f, 2.0f, 0.0f, 0.0f, 65535, 9, 0},
                 {std::nanf(""), 9.0f, std::nanf(""), std::nanf(""), 0, 9, TokenScore::kNotFinite}};
  const auto write = [&](const std::string& bytes) {
    std::ofstream(folder.path / kTokenFileName, std::ios::binary) << bytes;
  };
  const std::string bytes = token_file_bytes(file);
  Record record;
  record.evaluation.kind = "perplexity";
  record.tokens_sha256 = sha256_hex(bytes);
  record.metrics = {{"windows", 2},           {"tokens_scored", 3},
                    {"nonfinite_tokens", 1},  {"nll", 2.25},
                    {"nll_reference", 1.375}, {"kl_mean", 0.25},
                    {"kl_max", 0.5},          {"kl_reverse_mean", 0.25},
                    {"ear_mean", 1.0},        {"top1_agreement", 2.0 / 3}};
  const auto says = [&](const Record& r) { return all(token_violations(r, folder.path)); };
  CHECK_THAT(says(record), Contains("tokens.bin is missing"));
  write(bytes);
  CHECK(says(record) == "");
  for (const auto& [key, value] : record.metrics.items()) {
    if (key == "windows") continue;
    Record edited = record;
    edited.metrics[key] = value.get<double>() + 0.125;
    CHECK_THAT(says(edited), Contains("metrics." + key + " is "));
  }
  Record texts = record;  // of texts a token is a token
  texts.evaluation.kind = "generation";
  texts.metrics.erase("windows");
  texts.metrics["samples"] = 2;
  CHECK_THAT(says(texts), Contains("metrics.nll is 2.25, but that of tokens.bin is 2"));
  Record one = record;
  one.metrics["windows"] = 1;
  CHECK_THAT(says(one), Contains("a run of line 1"));
  write(bytes.substr(0, bytes.size() - 1));
  CHECK_THAT(says(record), Contains("is not the file whose hash") && Contains("cannot be read"));
  // Records of versions before the file was kept.
  Record old = record;
  old.tokens_sha256.clear();
  CHECK(says(old) == "");
}

TEST_CASE("figures of parts are held against the samples of the parts", "[consistency]") {
  const Folder folder;
  folder.samples(
      R"({"depth":0.1,"task":"single","correct":true,"correct_reference":true,"partial":1.0})"
      "\n"
      R"({"depth":0.5,"task":"single","correct":false,"correct_reference":true,"partial":0.5})"
      "\n"
      R"({"depth":0.5,"task":"multi","correct":true,"correct_reference":false,"partial":1.0})"
      "\n");
  Record r;
  r.evaluation = {"retrieval", "retrieval", Json::object()};
  const auto row = [](int correct, int total, double partial, int lost, int gained) {
    return Json{{"correct", correct},
                {"total", total},
                {"accuracy", double(correct) / total},
                {"partial", partial},
                {"lost", lost},
                {"gained", gained},
                {"accuracy_reference", double(correct + lost - gained) / total}};
  };
  r.metrics = row(2, 3, 2.5 / 3, 1, 1);
  Json first = row(1, 1, 1.0, 0, 0), second = row(1, 2, 0.75, 1, 1), cell = row(0, 1, 0.5, 1, 0);
  first["depth"] = 0.1;
  second["depth"] = 0.5;
  cell.update({{"depth", 0.5}, {"task", "single"}});
  r.metrics["depths"] = {first, second};
  r.metrics["cells"] = {cell};
  CHECK(all(sample_violations(r, folder.path)) == "");
  for (const char* key : {"correct", "total", "partial", "lost", "gained", "accuracy_reference"}) {
    Record edited = r;
    Json& value = edited.metrics["depths"][1][key];
    value = value.get<double>() + 1;
    CHECK_THAT(all(sample_violations(edited, folder.path)),
               Contains("metrics.depths[1]." + std::string(key) + " is ") &&
                   Contains("but that of its samples is "));
    edited = r;
    edited.metrics["cells"][0][key] = 7;
    CHECK_THAT(all(sample_violations(edited, folder.path)),
               Contains("metrics.cells[0]." + std::string(key) + " is 7"));
  }
  // Of what samples do not say they are of, nothing is known.
  r.metrics["depths"][0].erase("depth");
  r.metrics["depths"][0]["length"] = 512;
  r.metrics["depths"][0]["partial"] = 0.5;
  CHECK(all(sample_violations(r, folder.path)) == "");
  r.metrics["cache"] = Json::array();
  CHECK_THAT(all(figure_violations(r)), Contains("metrics.cache is no object"));
}

TEST_CASE("figures of parts are held against the scores of their tokens", "[consistency]") {
  const Folder folder;
  TokenFile file;
  file.runs = {{0, 1, 3}};  // positions 1, 2, 3
  file.tokens = {{1.0f, 0.5f, 0.25f, 0.5f, 65535, 9, 0},
                 {2.0f, 1.0f, 0.5f, 0.25f, 65535, 9, TokenScore::kFlip},
                 {6.0f, 3.0f, 0.0f, 0.0f, 65535, 9, 0}};
  const std::string bytes = token_file_bytes(file);
  std::ofstream(folder.path / kTokenFileName, std::ios::binary) << bytes;
  Record record;
  record.evaluation.kind = "cached-decode";
  record.tokens_sha256 = sha256_hex(bytes);
  const auto row = [](int tokens, double nll, double reference, double kl, double most,
                      double top1) {
    return Json{{"tokens", tokens}, {"nll", nll},     {"nll_reference", reference},
                {"kl_mean", kl},    {"kl_max", most}, {"top1_agreement", top1}};
  };
  record.metrics = {{"samples", 1}};
  Json two = row(1, 1, 0.5, 0.25, 0.25, 1), four = row(2, 4, 2, 0.25, 0.5, 0.5);
  two["length"] = 2;   // looks back on 1
  four["length"] = 4;  // on 2 and 3
  Json bucket = row(2, 1.5, 0.75, 0.375, 0.5, 0.5);
  bucket.update({{"first", 0}, {"last", 2}});
  record.metrics["lengths"] = {two, four};
  record.metrics["buckets"] = {bucket};
  CHECK(all(token_violations(record, folder.path)) == "");
  for (const std::string key :
       {"tokens", "nll", "nll_reference", "kl_mean", "kl_max", "top1_agreement"}) {
    Record edited = record;
    edited.metrics["lengths"][1][key] = 9;
    edited.metrics["buckets"][0][key] = 9;
    CHECK_THAT(all(token_violations(edited, folder.path)),
               Contains("metrics.lengths[1]." + key + " is 9") &&
                   Contains("metrics.buckets[0]." + key + " is 9"));
  }
  // Quarters count from where the continuation begins.
  record.evaluation.kind = "generation";
  record.metrics = {{"samples", 1}};
  Json quarter = row(1, 2, 1, 0.5, 0.5, 0);
  quarter.update({{"first", 1}, {"last", 1}});
  record.metrics["quarters"] = {quarter};
  CHECK(all(token_violations(record, folder.path)) == "");
  record.metrics["quarters"][0]["nll"] = 3;
  CHECK_THAT(all(token_violations(record, folder.path)),
             Contains("metrics.quarters[0].nll is 3, but that of tokens.bin is 2"));
}

TEST_CASE("a headline names a figure of the metrics", "[consistency]") {
  Record r = perplexity();
  r.headline = {"ppl", "lower", "perplexity"};
  const auto keys = [&] {
    std::vector<std::string> out;
    for (const Violation& violation : figure_violations(r)) out.push_back(violation.key);
    return out;
  };
  CHECK(keys().empty());
  r.headline->key = "cache.bytes_per_token";
  CHECK(keys().empty());
  r.headline->key = "cache.bytes_per_tokens";
  CHECK(keys() == std::vector<std::string>{"headline.key"});
  r.headline->key = "cache";
  CHECK(keys() == std::vector<std::string>{"headline.key"});
}

TEST_CASE("answers to multiple choice that do not follow from their scores are found",
          "[consistency]") {
  const Folder folder;
  const std::string good =
      R"({"doc_id":0,"gold":1,"loglikelihoods":[-2.5,-2.0],"lengths":[10,2],"acc":1,"acc_norm":0,"correct":true})"
      "\n"
      R"({"doc_id":1,"gold":0,"loglikelihoods":[-1.0,-1.0],"lengths":[3,3],"acc":1,"acc_norm":1,"correct":true})"
      "\n";
  folder.samples(good);
  Record r;
  r.evaluation = {"task", "choices", Json::object()};
  r.metrics = {{"correct", 2},    {"total", 2},
               {"accuracy", 1.0}, {"acc", 1.0},
               {"acc_norm", 0.5}, {"scores_sha256", sha256_hex("0 [-2.5,-2.0]\n1 [-1.0,-1.0]\n")}};
  CHECK(sample_violations(r, folder.path).empty());
  Record edited = r;
  edited.metrics["acc_norm"] = 1.0;
  CHECK(sample_violations(edited, folder.path).size() == 1);
  edited = r;
  edited.metrics["scores_sha256"] = "00";
  CHECK(sample_violations(edited, folder.path).size() == 1);
  std::string wrong = good;
  wrong.replace(wrong.find("\"acc\":1"), 7, "\"acc\":0");
  folder.samples(wrong);
  bool found = false;
  for (const Violation& v : sample_violations(r, folder.path))
    found = found || v.text.find("the first is line 1") != std::string::npos;
  CHECK(found);
}
