// Results in the forms of others.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "analysis/export/export.hpp"
#include "ptq/core/hash.hpp"
#include "test/analysis/report_folder.hpp"

namespace {

using namespace ptq;
using namespace ptq::test;
using namespace ptq::report;

Record with_parts(Record record) {
  record.method.parts.push_back({"kivi.so", "00", "kivi", "1", {{"bits", 2}}});
  record.evaluation.settings = {{"text", "datasets/a.txt"}, {"data_sha256", "ff"}};
  record.code = {"0.1.0", "abc"};
  return record;
}

struct Exported {
  ResultsFolder folder;
  Report report;
  Exported() {
    folder.add(with_parts(make("fp16", "wiki", "perplexity", perplexity(10, 0, 1, 16))));
    folder.add(with_parts(make("kivi_2", "wiki", "perplexity", perplexity(11, 0.1, 0.9, 3))));
    folder.add(with_parts(make("kivi_2", "passkey", "passkey", passkey(9, 10))));
    report = make_report(read_results(folder.path));
  }
  Subject subject() const { return subjects_of(report, "tiny", "kivi_2").at(0); }
};

}  // namespace

TEST_CASE("Every Eval Ever: what its schema requires, with exact intervals", "[export]") {
  const Exported e;
  CHECK(subjects_of(e.report, "", "").size() == 2);
  CHECK(subjects_of(e.report, "other", "").empty());
  const Json json = Json::parse(every_eval_ever(e.subject(), "a lab"));
  for (const char* key : {"schema_version", "evaluation_id", "retrieved_timestamp",
                          "source_metadata", "model_info", "eval_library", "evaluation_results"})
    CHECK(json.contains(key));
  CHECK(json["schema_version"] == "0.3.0");
  CHECK(json["retrieved_timestamp"] == "1767225600");  // 2026-01-01
  CHECK(json["source_metadata"]["source_organization_name"] == "a lab");
  CHECK(json["model_info"]["additional_details"]["method"] == "kivi bits=2");
  bool passkeys = false, kl = false;
  for (const Json& result : json["evaluation_results"]) {
    CHECK(result["source_data"]["source_type"] == "other");
    for (const auto& [key, value] : result["source_data"]["additional_details"].items())
      CHECK(value.is_string());
    const Json& config = result["metric_config"];
    if (config["metric_id"] == "ptq.kl_mean") {
      kl = true;
      CHECK(result["score_details"]["score"] == 0.1);
      CHECK(config["max_score"] == "Infinity");
      CHECK(config["lower_is_better"] == true);
    }
    if (result["evaluation_name"] != "passkey") continue;
    passkeys = true;
    const Json& uncertainty = result["score_details"]["uncertainty"];
    CHECK(result["score_details"]["score"] == 0.95);
    CHECK(uncertainty["num_samples"] == 20);
    CHECK(uncertainty["confidence_interval"]["lower"].get<double>() ==
          Approx(clopper_pearson95(19, 20).low));
  }
  CHECK(passkeys);
  CHECK(kl);
}

TEST_CASE("lm-eval: our own names where the definition is ours", "[export]") {
  const Exported e;
  const Json json = Json::parse(lm_eval(e.subject()));
  CHECK(json["results"]["wiki"]["token_perplexity,none"] == 11.0);
  CHECK(json["results"]["wiki"]["token_perplexity_stderr,none"] == "N/A");
  CHECK_FALSE(json["results"]["wiki"].contains("word_perplexity,none"));
  CHECK(json["results"]["passkey"]["acc,none"] == 0.95);
  CHECK(json["results"]["passkey"]["acc_stderr,none"].get<double>() == Approx(0.05));
  CHECK(json["higher_is_better"]["wiki"]["token_perplexity"] == false);
  CHECK(json["n-samples"]["passkey"]["effective"] == 20);
  CHECK(json["config"]["model_args"] == "pretrained=models/tiny,method=kivi_2");
  for (const char* key : {"configs", "versions", "n-shot", "git_hash", "date", "model_name"})
    CHECK(json.contains(key));
}

TEST_CASE("lm-eval: multiple choice has the harness's entries, groups and samples", "[export]") {
  const ResultsFolder folder;
  const Record record = make("fp16", "mmlu", "choices",
                             parse_json(R"({
      "task": "mmlu", "task_version": "1.0", "fewshot": 5, "correct": 3, "total": 4,
      "accuracy": 0.75, "subjects": [{"subject": "anatomy", "total": 4}],
      "groups": [{"group": "stem", "total": 4}],
      "results": {"mmlu": {"alias": "mmlu", "acc,none": 0.75},
                  "mmlu_stem": {"alias": " - stem", "acc,none": 0.75},
                  "mmlu_anatomy": {"alias": "  - anatomy", "acc,none": 0.75,
                                   "acc_stderr,none": 0.25}}})",
                                        "metrics"));
  folder.add(record);
  const Report report = make_report(read_results(folder.path));
  const Json json = Json::parse(lm_eval(subjects_of(report, "tiny", "fp16").at(0)));
  CHECK(json["results"]["mmlu_anatomy"]["acc_stderr,none"] == 0.25);
  CHECK(json["groups"].size() == 2);
  CHECK(json["group_subtasks"]["mmlu"] == Json({"mmlu_stem"}));
  CHECK(json["group_subtasks"]["mmlu_stem"] == Json({"mmlu_anatomy"}));
  CHECK(json["n-shot"] == Json({{"mmlu_anatomy", 5}}));
  CHECK(json["versions"]["mmlu"] == 2.0);
  CHECK(json["higher_is_better"]["mmlu_anatomy"] == Json({{"acc", true}}));
  CHECK(json["n-samples"]["mmlu_anatomy"]["effective"] == 4);
  folder.write("tiny-fp16-mmlu/samples.jsonl",
               R"({"doc_id": 3, "subject": "anatomy", "gold": 1, "loglikelihoods": [-2.5, -1.5], )"
               R"("greedy": [false, true], "acc": 1})"
               "\n");
  const Report again = make_report(read_results(folder.path));
  std::vector<std::string> notes;
  const auto samples = lm_eval_samples(subjects_of(again, "tiny", "fp16").at(0), notes);
  REQUIRE(samples.size() == 1);
  REQUIRE(notes.size() == 1);  // the record names no data
  CHECK(samples.begin()->first == "samples_mmlu_anatomy");
  const Json line = Json::parse(samples.begin()->second);
  CHECK(line["doc_id"] == 3);
  CHECK(line["filtered_resps"][1] == Json({"-1.5", "True"}));
  CHECK(line["acc"] == 1.0);
}

TEST_CASE("lm-eval: samples have the texts of rows that are still there", "[export]") {
  const ResultsFolder folder;
  folder.write("row.jsonl", "{\"question\": \"1 + 1?\", \"answer\": \"#### 2\"}\n");
  const std::string data = (folder.path / "row.jsonl").string();
  const std::string task = PTQ_SOURCE_DIR "/datasets/tasks/gsm8k.toml";
  Record record = make("fp16", "gsm8k", "answers",
                       parse_json(R"({"task": "gsm8k", "task_version": "3.0", "fewshot": 0,
      "correct": 1, "total": 1, "accuracy": 1.0,
      "results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 1.0}}})",
                                  "metrics"));
  record.evaluation.settings = {{"task", task},
                                {"task_sha256", sha256_file(task)},
                                {"data", data},
                                {"data_sha256", sha256_file(data)}};
  folder.add(record);
  folder.write("tiny-fp16-gsm8k/samples.jsonl",
               R"({"doc_id": 0, "target": "#### 2", "answer": " 1 + 1 = 2\n#### 2", "filtered": )"
               R"({"strict-match": "2", "flexible-extract": "2"}, "exact_match,strict-match": 1, )"
               R"("exact_match,flexible-extract": 1, "correct": true})"
               "\n");
  const auto export_samples = [&](std::vector<std::string>& notes) {
    const Report report = make_report(read_results(folder.path));
    return lm_eval_samples(subjects_of(report, "tiny", "fp16").at(0), notes);
  };
  std::vector<std::string> notes;
  const auto samples = export_samples(notes);
  CHECK(notes.empty());
  const std::string& text = samples.at("samples_gsm8k");
  CHECK(std::count(text.begin(), text.end(), '\n') == 2);  // a line for each filter
  const Json line = Json::parse(text.substr(0, text.find('\n')));
  CHECK(line["filter"] == "strict-match");
  CHECK(line["doc"]["question"] == "1 + 1?");
  CHECK(line["arguments"]["gen_args_0"]["arg_0"] == "Question: 1 + 1?\nAnswer:");
  CHECK(line["arguments"]["gen_args_0"]["arg_1"]["until"][0] == "Question:");
  CHECK(line["exact_match"] == 1.0);
  CHECK(line["doc_hash"] ==
        sha256_hex("{\n  \"question\": \"1 + 1?\",\n  \"answer\": \"#### 2\"\n}"));
  folder.write("row.jsonl", "{\"question\": \"2 + 2?\", \"answer\": \"#### 4\"}\n");
  const std::string without = export_samples(notes).at("samples_gsm8k");
  CHECK(Json::parse(without.substr(0, without.find('\n')))["doc"].empty());
  REQUIRE(notes.size() == 1);
  CHECK(has(notes[0], "not the file that was asked"));
}

TEST_CASE("Hugging Face: entries that say what they are not", "[export]") {
  const Exported e;
  const std::string yaml = hugging_face(e.subject());
  CHECK(has(yaml, "not ones of the Hub"));
  CHECK(has(yaml,
            "- dataset:\n    id: \"ptq/passkey\"\n    task_id: \"accuracy\"\n  value: 0.95\n"
            "  date: \"2026-01-01T00:00:00Z\"\n"));
}

TEST_CASE("LaTeX: a booktabs table whose names cannot break it", "[export]") {
  const Exported e;
  const std::string table = latex(e.report);
  CHECK(has(table, "\\toprule"));
  CHECK(has(table, "kivi\\_2 & 288 & \\textbf{0.1} & "));
  CHECK(has(table, "\\bottomrule"));
}

TEST_CASE("a file is named after model and method, whatever these are called", "[export]") {
  Board board;
  board.model = "a/b";
  Row row;
  row.method = "x y+z";
  CHECK(Subject{&board, nullptr, &row}.file_name() == "a-b__x-y-z");
  CHECK(epoch_of("2026-11-27T10:50:14Z") == 1795776614);
  CHECK(epoch_of("") == 0);
}
