// Answers that a model writes: of the text behind a question what a filter takes out is compared
// with the right answer. Texts, ends, filters and comparison are those of
// EleutherAI/lm-evaluation-harness 0.4.11 (output type generate_until, greedy); what a task asks is
// said in datasets/tasks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/eval/answer_writer.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/pair_tokenizer.hpp"
#include "ptq/eval/score_book.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/eval/task_items.hpp"

namespace ptq::eval {

namespace answers_detail {

inline int64_t max_new_tokens(const tasks::TaskDescription& task, const AnswersSettings& s) {
  return s.max_new_tokens > 0 ? s.max_new_tokens : task.rules.max_new_tokens;
}

// The questions as tokens; of too long ones the first are dropped, so that the answer has room.
inline std::vector<ContextRequest> make_contexts(const std::vector<tasks::Item>& items,
                                                 const PairTokenizer& tokenizer, int64_t most,
                                                 const std::string& file, int64_t& truncated) {
  std::vector<ContextRequest> out;
  for (size_t i = 0; i < items.size(); ++i) {
    std::vector<int32_t> tokens =
        tokenizer.encode_text(items[i].block + items[i].question.context(0));
    const std::string where = file + ", row " + std::to_string(items[i].row);
    if (tokens.empty()) tokens = {tokenizer.prefix(where)};
    if (most < 1)
      throw usage_error("an answer leaves no room for its question in the context", where,
                        "use a smaller `max_new_tokens`");
    if (int64_t(tokens.size()) > most) {
      tokens.erase(tokens.begin(), tokens.end() - most);
      ++truncated;
    }
    out.push_back({i, std::move(tokens), {}});
  }
  return out;
}

// Questions whose answers the book has not.
inline int64_t unwritten(const std::vector<ContextRequest>& contexts, const ScoreBook* book) {
  return std::count_if(contexts.begin(), contexts.end(), [&](const ContextRequest& context) {
    return book == nullptr || book->find(context) == nullptr;
  });
}

// The answers of the subject or of the reference, as the contexts.
inline std::vector<ScoredContext> write_all(const std::vector<ContextRequest>& contexts,
                                            AnswerWriter writer, int64_t batch, ScoreBook* book,
                                            TaskProgress& report) {
  std::vector<ScoredContext> out(contexts.size());
  std::vector<const ContextRequest*> left;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const ScoredContext* known = book != nullptr ? book->find(contexts[i]) : nullptr;
    if (known == nullptr)
      left.push_back(&contexts[i]);
    else
      out[i] = *known;
  }
  std::stable_sort(left.begin(), left.end(), [](const ContextRequest* a, const ContextRequest* b) {
    return a->context.size() > b->context.size();
  });
  for (size_t begin = 0; begin < left.size(); begin += size_t(batch)) {
    const auto some = std::span(left).subspan(begin, std::min(size_t(batch), left.size() - begin));
    const std::vector<ScoredContext> written = writer.write(some);
    if (book != nullptr) book->add(some, written);
    for (size_t i = 0; i < some.size(); ++i) out[size_t(some[i] - contexts.data())] = written[i];
    report(int64_t(some.size()));
  }
  return out;
}

// Right answers by filter.
struct FilterTally {
  int64_t right = 0, right_reference = 0;
};

inline void write_filters(Json& m, const tasks::TaskDescription& task,
                          const std::vector<FilterTally>& tallies, int64_t total,
                          bool held_against) {
  const double n = double(total);
  Json entry = {{"alias", task.name}};
  for (size_t f = 0; f < tallies.size(); ++f) {
    const std::string key = "exact_match," + task.rules.filters[f].name;
    const double p = double(tallies[f].right) / n;
    const double error = total > 1 ? std::sqrt(p * (1 - p) / (n - 1)) : kUnknown;
    Json row = {{"filter", task.rules.filters[f].name}, {"exact_match", p}};
    put_number(row, "exact_match_se", error, "one answer has no spread");
    if (held_against) row["exact_match_reference"] = double(tallies[f].right_reference) / n;
    m["filters"].push_back(std::move(row));
    entry[key] = p;
    entry["exact_match_stderr," + task.rules.filters[f].name] =
        std::isfinite(error) ? Json(error) : Json("N/A");
  }
  m["results"][task.name] = std::move(entry);
}

}  // namespace answers_detail

// Errors: settings, a description or data that cannot be read, logits that are not finite.
inline Outcome answers(Subject& subject, const AnswersSettings& settings,
                       const Progress& progress) {
  using namespace answers_detail;
  check_settings(settings, "answers");
  const tasks::TaskDescription task = read_task_of(settings, "answers");
  const std::vector<tasks::Item> items = read_items(task, settings);
  const ModelConfig& config = subject.engine.config();
  const int64_t length = max_length(settings, config), most_new = max_new_tokens(task, settings);
  const PairTokenizer pairs(subject.tokenizer, config, length);
  int64_t truncated = 0;
  const std::vector<ContextRequest> contexts =
      make_contexts(items, pairs, length - most_new, settings.data, truncated);

  const bool held_against = subject.reference != nullptr;
  ScoreBook* const book = subject.scores;
  ScoreBook* const reference_book = held_against ? subject.reference_scores : nullptr;
  TaskProgress report(progress, unwritten(contexts, book) +
                                    (held_against ? unwritten(contexts, reference_book) : 0));
  AnswerWriter writer(subject.engine, subject.kv, settings.regime, subject.noise, subject.tokenizer,
                      task.rules, most_new, "model under test");
  const auto own = write_all(contexts, writer, settings.batch, book, report);
  std::vector<ScoredContext> reference;
  if (held_against)
    reference = write_all(contexts,
                          AnswerWriter(*subject.reference, nullptr, Regime::streaming, {},
                                       subject.tokenizer, task.rules, most_new, "reference model"),
                          settings.batch, reference_book, report);

  Outcome outcome;
  Measured measured;
  Answers right_answers;
  std::vector<FilterTally> tallies(task.rules.filters.size());
  int64_t lost = 0, gained = 0, same_text = 0, new_tokens = 0, question_tokens = 0;
  Sha256 digest;
  for (size_t i = 0; i < items.size(); ++i) {
    const tasks::Question& question = items[i].question;
    const std::string text = writer.text(own[i].written);
    const auto right = [&](const std::string& answer, size_t f) {
      return task.rules.equal(task.rules.filters[f].apply(answer), question.choices[0]);
    };
    Json sample = {{"doc_id", items[i].row}};
    if (!items[i].subject.empty()) sample["subject"] = items[i].subject;
    sample["target"] = question.choices[0];
    sample["prompt_hash"] = sha256_hex(items[i].block + question.context(0));
    sample["prompt_tokens"] = contexts[i].context.size();
    sample["new_tokens"] = own[i].written.size();
    sample["answer"] = text;
    for (size_t f = 0; f < tallies.size(); ++f) {
      const tasks::AnswerFilter& filter = task.rules.filters[f];
      sample["filtered"][filter.name] = filter.apply(text);
      sample["exact_match," + filter.name] = int(right(text, f));
      tallies[f].right += right(text, f);
    }
    sample["correct"] = right(text, 0);
    right_answers.add(right(text, 0));
    if (held_against) {
      const std::string reference_text = writer.text(reference[i].written);
      for (size_t f = 0; f < tallies.size(); ++f)
        tallies[f].right_reference += right(reference_text, f);
      sample["answer_reference"] = reference_text;
      sample["correct_reference"] = right(reference_text, 0);
      same_text += reference_text == text;
      lost += right(reference_text, 0) && !right(text, 0);
      gained += !right(reference_text, 0) && right(text, 0);
    }
    new_tokens += int64_t(own[i].written.size());
    question_tokens += int64_t(contexts[i].context.size());
    digest.update(std::to_string(items[i].row) + " " + Json(own[i].written).dump() + "\n");
    add_reads(measured.reads, own[i].reads);
    measured.cache.add(own[i].bytes);
    measured.seconds += own[i].seconds;
    if (held_against) measured.reference_seconds += reference[i].seconds;
    outcome.samples.push_back(std::move(sample));
  }

  const double n = double(items.size());
  Json& m = outcome.metrics;
  m["protocol"] = "answers";
  m["task"] = task.name;
  m["task_version"] = task.version;
  m["fewshot"] = settings.fewshot;
  m["primary"] = "exact_match," + task.rules.filters[0].name;
  right_answers.write(m);
  write_filters(m, task, tallies, right_answers.total, held_against);
  if (held_against) {
    m["accuracy_reference"] = double(tallies[0].right_reference) / n;
    m["lost"] = lost;      // right with full precision, wrong with the method
    m["gained"] = gained;  // the other way round
    m["flips"] = double(lost + gained) / n;
    m["agreement"] = double(same_text) / n;  // answers that are the same to the letter
  }
  m["truncated"] = truncated;
  m["max_new_tokens"] = most_new;
  m["new_tokens"] = new_tokens;
  m["prompt_tokens"] = question_tokens;
  m["answers_sha256"] = digest.hex();
  measured.write(m, settings.regime);
  put_rate(m, "tokens_per_second", double(question_tokens + new_tokens), measured.seconds);
  return outcome;
}

// Whether the files are those of the task; of the texts that they fit into the model.
inline void check_answers(const Unloaded&, const AnswersSettings& settings) {
  read_items(read_task_of(settings, "answers"), settings);
}

}  // namespace ptq::eval
