// What can be known of the evaluations before a model is loaded: texts that are empty, no UTF-8 or
// too short, prompts that do not fit. Each is a mistake of the experiment, with its place there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/data/passkey_prompt.hpp"
#include "ptq/data/retrieval_prompt.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/perplexity.hpp"
#include "ptq/eval/retrieval_score.hpp"
#include "ptq/eval/token_scores.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/grid.hpp"
#include "ptq/run/model_source.hpp"

namespace ptq {
namespace preflight_detail {

// A text of so many bytes per token asked for is long enough and need not be tokenized to know it.
constexpr int64_t kBytesPerToken = 64;

inline bool clearly_long(const std::string& text, int64_t tokens) {
  return int64_t(text.size()) / kBytesPerToken > tokens;
}

// Throws what the evaluation would throw with this tokenizer and this model.
struct CheckEvaluation {
  const Tokenizer& tokenizer;
  const GridModel& model;
  const std::string& file;  // of its data

  void operator()(const eval::PerplexitySettings& s) const {
    std::string text = read_utf8_file(file);
    if (s.join == "wikitext2") text = join_wikitext2(text);
    if (clearly_long(text, s.window)) return;
    const int64_t found = int64_t(tokenizer.encode(text).size());
    eval::require_windows(s, found, file);
  }
  void operator()(const eval::GenerationSettings& s) const {
    check_texts(s.samples, s.prompt_tokens + s.continuation_tokens,
                "use smaller `prompt_tokens` or `continuation_tokens`");
  }
  void operator()(const eval::CachedDecodeSettings& s) const {
    check_texts(s.samples, *std::max_element(s.lengths.begin(), s.lengths.end()),
                "use smaller `lengths`");
  }
  void operator()(const eval::PasskeySettings& s) const {
    const int64_t prompt = eval::longest_passkey_prompt(
        tokenizer, eval::passkey_keys(s.seed, s.keys), s.depths, s.context_length);
    const int64_t fed = prompt + s.max_new_tokens - 1;  // the last token is not fed back
    if (fed <= model.config.max_position_embeddings) return;
    throw usage_error("a prompt has " + std::to_string(prompt) + " tokens and is fed up to " +
                          std::to_string(fed) + ", but the context of " + model.record.name +
                          " ends at " + std::to_string(model.config.max_position_embeddings),
                      "context_length",
                      "choose a smaller `context_length`: at depths near 0 and 1 a prompt is up to "
                      "a unit of filler longer than that");
  }
  void operator()(const eval::RetrievalSettings& s) const {
    constexpr int64_t kMost = 20;  // of the samples: prompts differ by a few tokens only
    for (const std::string& name : s.tasks) {
      for (const std::string& haystack : s.haystacks) {
        for (const int64_t length : s.lengths) {
          for (int64_t index = 0; index < std::min(s.samples, kMost); ++index) {
            check_prompt(s, {retrieval::parse_task(name), retrieval::parse_haystack(haystack),
                             length, 0, s.max_new_tokens, s.seed, index});
          }
        }
      }
    }
  }

 private:
  void check_prompt(const eval::RetrievalSettings& s, retrieval::PromptRequest request) const {
    retrieval::require_prompt(tokenizer, request);
    retrieval::Draws draws = retrieval::detail::draws_of(request);
    const auto frame = retrieval::detail::make_frame(tokenizer, request, draws);
    const retrieval::Question& question = frame.parts.question;
    eval::tokenize_question(tokenizer, "", 0, question, {});
    if (!s.second_question || !frame.parts.second) return;
    request.max_new_tokens =
        eval::room_for_second(tokenizer, question, *frame.parts.second, request.length,
                              model.config.max_position_embeddings, frame.room);
    retrieval::require_prompt(tokenizer, request);
  }
  void check_texts(int64_t samples, int64_t tokens, const std::string& hint) const {
    const std::vector<JsonlText> texts = read_jsonl_texts(file, samples);
    eval::require_texts(texts, samples, file);
    for (const JsonlText& text : texts) {
      if (clearly_long(text.text, tokens)) continue;
      eval::require_tokens(tokenizer.encode(text.text), tokens, file, text.line, hint);
    }
  }
};

// A mistake of the experiment at `where`, whatever kind of error it was below.
template <class Check>
void check_at(const std::string& where, Problems& problems, const Check& check) {
  try {
    check();
  } catch (const Error& error) {
    std::string place = where;
    if (!error.where().empty()) place += ": " + error.where();
    problems.add(usage_error(error.message(), place, error.hint()));
  }
}

}  // namespace preflight_detail

// Whether all evaluations that were found can be run with all models, and the calibration text be
// read. One problem for each evaluation is enough, so the first model that has one stands for all.
inline void check_inputs(const ExperimentGrid& grid, const Experiment& experiment,
                         Problems& problems) {
  using namespace preflight_detail;
  std::vector<std::pair<const GridModel*, Tokenizer>> models;
  for (const GridModel& model : grid.models) {
    problems.collect([&] { models.emplace_back(&model, load_tokenizer(model.source)); });
  }
  for (const GridEvaluation& evaluation : grid.evaluations) {
    const auto written =
        std::find_if(experiment.evaluations.begin(), experiment.evaluations.end(),
                     [&](const Evaluation& e) { return e.name == evaluation.name; });
    check_at(written->where, problems, [&] {
      for (const auto& [model, tokenizer] : models) {
        std::visit(CheckEvaluation{tokenizer, *model, evaluation.data_file}, evaluation.settings);
      }
    });
  }
  if (!grid.calibration || grid.calibration->file.empty()) return;
  check_at(experiment.calibration_where, problems, [&] {
    const calibrate::CalibrationSettings& s = grid.calibration->settings;
    if (clearly_long(read_utf8_file(grid.calibration->file), s.length)) return;
    for (const auto& [model, tokenizer] : models) {
      calibrate::read_sequences(tokenizer, grid.calibration->file, s,
                                model->config.max_position_embeddings, experiment.seed);
    }
  });
}

}  // namespace ptq
