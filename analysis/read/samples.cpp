#include "analysis/read/samples.hpp"

#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string_view>

#include "analysis/read/records.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestLine = size_t{4} << 20;

// FNV-1a; equal for all methods, stable between machines.
struct Hash {
  uint32_t value = 2166136261u;
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) value = (value ^ bytes[i]) * 16777619u;
  }
  void add(std::string_view text) { add(text.data(), text.size()); }
};

// What says which sample this is, as opposed to what came out. A list, so that new results in a
// record never change who is paired with whom.
bool names_the_sample(std::string_view key) {
  static constexpr std::string_view kKeys[] = {
      "id",          "doc_id",  "doc",      "index",       "window",        "sample", "line",
      "key",         "depth",   "length",   "gold",        "haystack",      "task",   "trial",
      "first_token", "subject", "question", "prompt_hash", "context_length"};
  return std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
}

void add_value(Hash& hash, const simdjson::dom::element& value) {
  if (value.is_string()) {
    hash.add(std::string_view(value));
  } else if (value.is_number()) {
    const double number = double(value);
    hash.add(&number, sizeof number);
  } else if (value.is_bool()) {
    hash.add(bool(value) ? "t" : "f");
  }
}

// 1, 0, or unknown; multiple-choice tasks write numbers.
int8_t truth(const simdjson::dom::element& value) {
  if (value.is_bool()) return bool(value) ? 1 : 0;
  if (value.is_number()) {
    const double number = double(value);
    if (number == 0 || number == 1) return int8_t(number);
  }
  return Samples::kUnknown;
}

// Appends to a column that may begin late: earlier samples are unknown there.
template <class T>
void put(std::vector<T>& column, size_t row, T value, T unknown) {
  column.resize(row, unknown);
  column.push_back(value);
}

void add_sample(const simdjson::dom::object& object, Samples& out) {
  const size_t row = out.size();
  const float nan = std::nanf("");
  Hash hash, cluster;
  int8_t correct = Samples::kUnknown, norm = Samples::kUnknown;
  for (const auto& field : object) {
    const std::string_view key = field.key;
    if (key == "correct" || key == "acc" || key == "exact") {
      correct = truth(field.value);
    } else if (key == "acc_norm") {
      norm = truth(field.value);
    } else if (key == "correct_reference") {
      put(out.correct_reference, row, truth(field.value), Samples::kUnknown);
    } else if (key == "nll" || key == "nll_reference") {
      std::vector<float>& column = key == "nll" ? out.nll : out.nll_reference;
      put(column, row, field.value.is_number() ? float(double(field.value)) : nan, nan);
    } else if (names_the_sample(key)) {
      for (Hash* sum : {&hash, &cluster}) {
        if (sum == &cluster && key == "depth") continue;
        sum->add(key);
        add_value(*sum, field.value);
      }
    }
    if (key == "subject" && field.value.is_string()) {
      Hash stratum;
      stratum.add(std::string_view(field.value));
      put(out.stratum, row, stratum.value, 0u);
    }
  }
  if (correct == Samples::kUnknown) correct = norm;
  if (correct != Samples::kUnknown) put(out.correct, row, correct, Samples::kUnknown);
  out.identity.push_back(hash.value);
  out.cluster.push_back(cluster.value);
}

}  // namespace

Samples read_samples(const fs::path& file) {
  Samples out;
  std::ifstream in = open_file(file);
  if (!in) {
    std::error_code error;
    if (fs::exists(file, error) || error) out.problem = "samples.jsonl cannot be opened";
    return out;
  }
  simdjson::dom::parser parser(kLongestLine);
  std::string line;
  size_t number = 0, damaged = 0, first_damaged = 0;
  while (std::getline(in, line)) {
    ++number;
    if (number == 1) line = without_byte_order_mark(line);
    if (line.empty()) continue;
    bool good = false;
    if (line.size() < kLongestLine) {
      line.reserve(line.size() + simdjson::SIMDJSON_PADDING);
      simdjson::dom::element element;
      // `line` has the spare capacity that simdjson reads past the end.
      if (parser.parse(line.data(), line.size(), false).get(element) == simdjson::SUCCESS &&
          element.is_object()) {
        add_sample(element.get_object().value_unsafe(), out);
        good = true;
      }
    }
    if (!good && damaged++ == 0) first_damaged = number;
  }
  const auto finish = [&](auto& column, auto unknown) {
    if (!column.empty()) column.resize(out.size(), unknown);
  };
  finish(out.correct, Samples::kUnknown);
  finish(out.correct_reference, Samples::kUnknown);
  finish(out.nll, std::nanf(""));
  finish(out.nll_reference, std::nanf(""));
  finish(out.stratum, 0u);
  if (damaged > 0) {
    out.problem = std::to_string(damaged) + " damaged lines in samples.jsonl, the first is line " +
                  std::to_string(first_damaged);
  }
  if (in.bad()) out.problem = "samples.jsonl cannot be read to its end";
  return out;
}

void for_each_sample(const fs::path& file, const std::function<void(const Json&)>& visit) {
  std::ifstream in = open_file(file);
  std::string line;
  while (in && std::getline(in, line)) {
    if (line.empty() || line.size() > kLongestLine) continue;
    try {
      const Json sample = parse_json(line, file.string());
      if (sample.is_object()) visit(sample);
    } catch (const Error&) {  // read_samples counts the damaged lines
    }
  }
}

}  // namespace ptq::report
