// A pruning document of the study's form as numbers: what its sections print.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ptq::report::printed {

// Of a table of groups.
struct Row {
  std::string key;
  double mean = 0, std = 0, low = 0, high = 0;
  int64_t count = 0;
};

// What one model's sections print.
struct Model {
  std::string name;
  int64_t total = 0, valid = 0, invalid = 0;
  std::vector<Row> methods, seq_len, num_samples, layers;
  std::string best_method, best_seq, best_samples;
  double best_acc = NAN, best_seq_mean = NAN, best_samples_mean = NAN;
  std::vector<std::pair<std::string, double>> correlations;
  double layers_r = NAN, ppl_r = NAN, section6_acc = NAN;
  std::string section6_method, section6_seq, section6_samples, section6_layers;
  std::vector<std::pair<std::string, double>> tasks;
};
struct CrossRow {
  std::string model, method;
  double acc = 0;
  int64_t count = 0;
};

struct Pages {
  std::vector<Model> models;
  std::vector<CrossRow> cross;  // the comparison across models
};

// Sections are told apart by the digit of their title, so that both languages are understood.
Pages read(const std::string& text);

}  // namespace ptq::report::printed
