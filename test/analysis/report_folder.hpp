// Folders of results made by hand, for the tests of ptq-report.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "analysis/page/report.hpp"
#include "ptq/results/record_json.hpp"

namespace ptq::test {

namespace fs = std::filesystem;
using report::Format;

// A folder of results that is gone afterwards.
struct ResultsFolder {
  fs::path path = fs::temp_directory_path() /
                  ("ptq-test-report-" + std::to_string(std::hash<const void*>{}(this)));
  ResultsFolder() { fs::create_directories(path); }
  ~ResultsFolder() { fs::remove_all(path); }

  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((path / file).parent_path());
    std::ofstream(path / file) << text;
  }
  void add(const Record& record) const {
    const std::string name =
        record.model.name + "-" + record.method.label + "-" + record.evaluation.name;
    write(record.error ? "failed/" + name + ".json" : name + "/record.json",
          json_text(to_json(record)));
  }
  std::string render(Format format, const report::Screen& screen = {}) const {
    return report::render(report::make_report(report::read_results(path)), format, screen);
  }
};

inline Record make(const std::string& method, const std::string& evaluation,
                   const std::string& kind, Json metrics) {
  Record record;
  record.experiment = "trackC";
  record.track = "C";
  record.cell = method + "-" + evaluation;
  record.model = {"tiny", "models/tiny", "abc", 700000};
  record.method.label = method;
  record.method.lossless = method == "fp16";
  record.evaluation = {evaluation, kind, {{"window", 2048}}};
  record.metrics = std::move(metrics);
  record.started_at = "2026-01-01T00:00:00Z";
  record.seconds = 2;
  return record;
}

inline Json cache(double bits) {
  return {{"bytes_per_token", 96.0 * bits},
          {"effective_bits", bits},
          {"compression_ratio", 16.0 / bits},
          {"bytes_encoded", bits < 16 ? 1000 : 0}};
}

inline Json perplexity(double ppl, double kl, double exposure, double bits) {
  return {{"ppl", ppl},           {"kl_mean", kl},         {"top1_agreement", kl == 0 ? 1.0 : 0.91},
          {"exposure", exposure}, {"tokens_scored", 4096}, {"regime", "streaming"},
          {"cache", cache(bits)}};
}

inline Json passkey(int first, int second) {
  return {{"accuracy", (first + second) / 20.0},
          {"correct", first + second},
          {"total", 20},
          {"depths",
           {{{"depth", 0.1}, {"correct", first}, {"total", 10}},
            {{"depth", 0.5}, {"correct", second}, {"total", 10}}}},
          {"exposure", 0.62},
          {"cache", cache(first + second == 20 ? 16 : 3.2)}};
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace ptq::test
