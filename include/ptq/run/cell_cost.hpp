// What a cell roughly costs, for who divides a grid: a guess from sizes alone, made before anything
// is read, and the same on every host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>

#include "ptq/core/mapped_file.hpp"
#include "ptq/eval/kinds.hpp"
#include "ptq/run/grid.hpp"

namespace ptq {

namespace cost_detail {

constexpr double kBytesPerToken = 4;

inline double tokens_of_file(const std::string& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  return error ? 0 : double(bytes) / kBytesPerToken;
}

// Tokens that one side of an evaluation feeds. data: those of its first file.
struct Tokens {
  double data;

  double operator()(const eval::PerplexitySettings& s) const {
    const double all = data * double(s.window) / double(s.stride_used());
    return s.max_windows > 0 ? std::min(all, double(s.max_windows * s.window)) : all;
  }
  double operator()(const eval::CachedDecodeSettings& s) const {
    return double(s.samples * s.longest_context());
  }
  double operator()(const eval::PasskeySettings& s) const {
    return double(s.keys) * double(s.depths.size()) * double(s.context_length);
  }
  double operator()(const eval::RetrievalSettings& s) const {
    double lengths = 0;
    for (const int64_t length : s.lengths) lengths += double(length);
    return lengths * double(s.tasks.size() * s.haystacks.size() * s.depths.size()) *
           double(s.samples);
  }
  double operator()(const eval::GenerationSettings& s) const {
    constexpr double kDecoding = 10;  // a token by itself, beside one of many
    return double(s.samples) *
           (double(s.prompt_tokens) + kDecoding * double(s.continuation_tokens));
  }
  double operator()(const eval::ChoicesSettings& s) const { return data * double(1 + s.fewshot); }
  double operator()(const eval::AnswersSettings& s) const {
    return data * double(1 + s.fewshot) + 10.0 * 64 * data / 100;
  }
};

}  // namespace cost_detail

// Multiply-adds of a cell: of its tokens, once more for the reference, of a calibration, and of
// opening the model.
inline double cell_cost(const ExperimentGrid& grid, const Cell& cell) {
  const GridModel& model = grid.models[cell.model];
  const GridEvaluation& evaluation = grid.evaluations[cell.evaluation];
  const double data =
      evaluation.files.empty() ? 0 : cost_detail::tokens_of_file(evaluation.files[0]);
  double tokens = std::visit(cost_detail::Tokens{data}, evaluation.settings);
  if (!grid.methods[cell.method].record.lossless) {
    tokens *= 2;
    if (grid.calibration)
      tokens += double(grid.calibration->settings.sequences * grid.calibration->settings.length);
  }
  constexpr double kOpening = 64;  // tokens that take as long as opening the model
  return (tokens + kOpening) * double(model.record.parameters);
}

}  // namespace ptq
