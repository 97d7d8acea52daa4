// The retrieval suite: what can still be found in a compressed cache, and how surely. Each prompt
// is scored twice: the true answer is fed token by token (its likelihood, and the margin over the
// other values of the context), and the model's own greedy answer is compared with it.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/data/retrieval_prompt.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/retrieval_score.hpp"
#include "ptq/eval/retrieval_tally.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

namespace retrieval_detail {

// One call of the engine.
struct Feed {
  std::vector<int32_t> tokens;
  Regime regime;
};

// The conversation with one prompt: what was fed so far, and both sides' sequences.
class Conversation {
 public:
  explicit Conversation(const Subject& subject) : subject_(subject), run_(subject) {}

  LockStep& run() { return run_; }

  void feed(Feed feed, int64_t first_row, const PairFn& on_pair) {
    run_.forward(feed.tokens, feed.regime, first_row, on_pair);
    history_.push_back(std::move(feed));
  }
  // Both sequences as they are now, for answers that do not belong to the conversation.
  LockStep branch() const {
    if (std::optional<LockStep> copy = run_.fork()) return std::move(*copy);
    LockStep again(subject_);
    for (const Feed& feed : history_) {
      again.forward(feed.tokens, feed.regime, int64_t(feed.tokens.size()), {});
    }
    return again;
  }

 private:
  Subject subject_;
  LockStep run_;
  std::vector<Feed> history_;
};

// Greedy text from the token `first` on, until it is decided or max_new tokens are there. The last
// token is never fed back.
template <class Next>
Score judge_greedy(const Subject& subject, int32_t first, int64_t max_new,
                   const std::vector<std::string>& references, const Next& next) {
  const std::vector<int64_t>& ends = subject.engine.config().eos_token_ids;
  std::vector<int32_t> ids = {first};
  Score score;
  for (;;) {
    const bool ended = std::find(ends.begin(), ends.end(), int64_t(ids.back())) != ends.end();
    if (ended) ids.pop_back();
    score.text = subject.tokenizer.decode_chosen(ids);
    const Judgement judgement = judge(score.text, references);
    score.exact = judgement.exact;
    score.partial = judgement.partial;
    if (ended || judgement.final || int64_t(ids.size()) >= max_new) return score;
    ids.push_back(next(ids.back()));
  }
}

// Asks one question in a conversation: feeds `question` (its last row predicts the answer), then
// the true answer. Returns the subject's and, where there is one, the reference's score.
inline std::pair<Score, std::optional<Score>> ask(Conversation& talk, const Subject& subject,
                                                  Feed question, const QuestionTokens& tokens,
                                                  const retrieval::Question& text, int64_t max_new,
                                                  bool first_reads_cache, Divergence& divergence) {
  AnswerPath method(tokens), reference(tokens);
  const auto in_value = [&](int64_t i) {
    return std::any_of(tokens.values.begin(), tokens.values.end(),
                       [&](const auto& span) { return i >= span.begin && i < span.end; });
  };
  int64_t place = 0;
  const PairFn score_row = [&](int64_t, const LogitRow& row, const LogitRow* reference_row) {
    method.add(row);
    if (reference_row) {
      reference.add(*reference_row);
      if (in_value(place) && (place > 0 || first_reads_cache)) {
        divergence.add(*reference_row, row, tokens.answer[size_t(place)]);
      }
    }
    ++place;
  };
  const int64_t last = int64_t(question.tokens.size()) - 1;
  talk.feed(std::move(question), last, score_row);
  LockStep branch = talk.branch();
  talk.feed({{tokens.answer.begin(), tokens.answer.end() - 1}, Regime::streaming}, 0, score_row);

  const auto ends_value = [&](int32_t id) {
    const std::string next = subject.tokenizer.decode_chosen({&id, 1});
    return next.empty() || !std::isalnum(static_cast<unsigned char>(next[0]));
  };
  const auto finish = [&](const AnswerPath& path, const auto& next) {
    Score score;
    if (path.greedy(ends_value)) {
      score.exact = true;
      score.partial = 1;
      score.text = text.answer;
    } else {
      score = judge_greedy(subject, path.first_predicted(), max_new, text.references, next);
    }
    score.nll = path.nll();
    score.margin = path.margin();
    score.lead = path.lead();
    return score;
  };
  const Score own = finish(method, [&](int32_t id) { return branch.next_greedy(id); });
  if (!subject.reference) return {own, {}};
  return {own, finish(reference, [&](int32_t id) { return branch.next_greedy_reference(id); })};
}

// One task, haystack and length of the suite.
struct Group {
  std::string task, haystack;
  int64_t length;

  retrieval::Task parsed() const { return retrieval::parse_task(task); }
  // Of the asked needle; one unknown depth where needles stand anywhere.
  std::vector<double> depths(const RetrievalSettings& s) const {
    return parsed().has_depth() ? s.depths : std::vector<double>{kUnknown};
  }
  Json json() const { return {{"task", task}, {"haystack", haystack}, {"length", length}}; }
};

inline std::vector<Group> groups(const RetrievalSettings& s) {
  std::vector<Group> all;
  for (const std::string& task : s.tasks)
    for (const std::string& haystack : s.haystacks)
      for (const int64_t length : s.lengths) all.push_back({task, haystack, length});
  return all;
}

// Room for the answer of a task.
inline int64_t answer_room(const RetrievalSettings& s, const retrieval::Task& task) {
  return s.max_new_tokens > 0 ? s.max_new_tokens : task.max_new_tokens();
}

// The prompt of one sample, with room for the second question where that is asked.
inline retrieval::Prompt make_prompt(const Subject& subject, const RetrievalSettings& s,
                                     const Group& group, double depth, int64_t index) {
  const retrieval::Task task = group.parsed();
  const auto with_room = [&](int64_t for_answers) {
    return retrieval::make_prompt(subject.tokenizer,
                                  {task, retrieval::parse_haystack(group.haystack), group.length,
                                   task.has_depth() ? depth : 0, for_answers, s.seed, index});
  };
  retrieval::Prompt prompt = with_room(s.max_new_tokens);
  if (!s.second_question || !prompt.second) return prompt;
  const int64_t max_new = answer_room(s, task);
  const int64_t room =
      room_for_second(subject.tokenizer, prompt.question, *prompt.second, group.length,
                      subject.engine.config().max_position_embeddings, max_new);
  return room > max_new ? with_room(room) : prompt;
}

// The tokens of the second question, asked behind the first one's true answer.
inline QuestionTokens second_tokens(const Tokenizer& tokenizer, const retrieval::Prompt& prompt) {
  const std::string first_text = prompt.question.text + prompt.question.answer;
  const int64_t fed = int64_t(tokenizer.encode(first_text, false).size()) - 1;
  std::vector<std::string> others = prompt.distractors;
  std::erase(others, prompt.second->references[0]);
  others.push_back(prompt.question.references[0]);
  return tokenize_question(tokenizer, first_text + "\n", fed, *prompt.second, others);
}

// Asks one prompt after the other and keeps count.
class Suite {
 public:
  Suite(Subject& subject, const RetrievalSettings& settings)
      : subject_(subject),
        settings_(settings),
        aware_(settings.question == "question_aware"),
        first_reads_cache_(!aware_ || settings.regime != Regime::prefill_exact) {}

  int64_t correct() const { return correct_; }

  // One prompt: counted in `cell`, returned as its sample.
  Json ask_prompt(const Group& group, double depth, int64_t index, Cell& cell) {
    const retrieval::Prompt prompt = make_prompt(subject_, settings_, group, depth, index);
    const int64_t max_new = answer_room(settings_, group.parsed());
    const QuestionTokens tokens =
        tokenize_question(subject_.tokenizer, "", 0, prompt.question, prompt.distractors);
    const std::vector<int32_t> context = subject_.tokenizer.encode(prompt.context);
    const std::vector<int32_t> ids =
        subject_.tokenizer.encode(prompt.context + "\n" + prompt.question.text);

    Conversation talk(subject_);
    CacheReads before;
    Feed question{ids, settings_.regime};
    if (!aware_) {
      // A token that joins the border belongs to the question.
      const auto border =
          ids.begin() + std::min(common_prefix(context, ids), int64_t(ids.size()) - 1);
      talk.feed({{ids.begin(), border}, settings_.regime}, border - ids.begin(), {});
      before = talk.run().sequence().reads();
      prefill_seconds_ += talk.run().seconds();
      prefilled_ += double(border - ids.begin());
      question = {{border, ids.end()}, Regime::streaming};
    }
    const auto [own, reference] = ask(talk, subject_, std::move(question), tokens, prompt.question,
                                      max_new, first_reads_cache_, divergence_);
    const CacheBytes cache = talk.run().sequence().bytes();
    measured_.cache.add(cache);
    cell.add(own, reference);
    correct_ += own.exact;

    Json sample = group.json();
    put_number(sample, "depth", depth, "needles stand anywhere");
    sample["index"] = index;
    sample["tokens"] = ids.size();
    own.write(sample, "");
    if (reference) reference->write(sample, "_reference");
    if (settings_.second_question && prompt.second) {
      const QuestionTokens more = second_tokens(subject_.tokenizer, prompt);
      const auto [own2, reference2] = ask(talk, subject_, {more.question, Regime::streaming}, more,
                                          *prompt.second, max_new, true, divergence_);
      second_.add(own2, reference2);
      own2.write(sample, "_second");
    }
    CacheReads of_prompt;
    add_reads(of_prompt, talk.run().sequence().reads(), before);
    add_reads(measured_.reads, of_prompt);
    measured_.add_seconds(talk.run());
    cell.add_prompt(int64_t(ids.size()), cache, of_prompt.exposure());
    return sample;
  }

  // A cell of one group and depth that is complete.
  void finish_cell(const Group& group, double depth, const Cell& cell) {
    Json row = group.json();
    put_number(row, "depth", depth, "needles stand anywhere");
    cell.write(row);
    failing_ += cell.baseline_fails();
    cells_.push_back(std::move(row));
  }
  void finish_group(const Group& group, const Cell& in_group) {
    Json row = group.json();
    in_group.write(row);
    tasks_.push_back(std::move(row));
    all_.add(in_group);
    const auto same = std::find_if(by_length_.begin(), by_length_.end(),
                                   [&](const auto& entry) { return entry.first == group.length; });
    if (same != by_length_.end()) {
      same->second.add(in_group);
    } else {
      by_length_.emplace_back(group.length, in_group);
    }
  }

  void write(Json& m) const {
    m["protocol"] = "retrieval";
    m["question"] = settings_.question;
    all_.write(m);
    m["cells_total"] = cells_.size();
    m["cells_baseline_fails"] = failing_;
    m["lengths"] = Json::array();
    for (const auto& [length, cell] : by_length_) {
      Json row = {{"length", length}};
      cell.write(row);
      m["lengths"].push_back(std::move(row));
    }
    m["tasks"] = tasks_;
    m["cells"] = cells_;
    if (second_.method.answers.total > 0) second_.write_answers(m["second"]);
    if (subject_.reference) {
      m["kl_positions"] = "value tokens of the true answers";
      divergence_.write(m);
    }
    measured_.write(m, settings_.regime);  // of the queries after the prefill
    put_rate(m, "prefill_tokens_per_second", prefilled_, prefill_seconds_,
             "prompt and answer are not timed apart");
  }

 private:
  Subject& subject_;
  const RetrievalSettings& settings_;
  bool aware_;
  // A prompt that reads itself in full precision predicts the first answer token without the cache.
  bool first_reads_cache_;
  Cell all_, second_;
  std::vector<std::pair<int64_t, Cell>> by_length_;
  Json cells_ = Json::array(), tasks_ = Json::array();
  int64_t failing_ = 0, correct_ = 0;
  Divergence divergence_;
  Measured measured_;
  double prefill_seconds_ = 0, prefilled_ = 0;
};

}  // namespace retrieval_detail

// Errors: settings, a length that holds no prompt, logits that are not finite.
inline Outcome retrieval_suite(Subject& subject, const RetrievalSettings& settings,
                               const Progress& progress) {
  namespace detail = retrieval_detail;
  check_settings(settings, "retrieval");
  const std::vector<detail::Group> groups = detail::groups(settings);
  double work = 0, done = 0;  // tokens to prefill
  for (const detail::Group& group : groups) {
    work += double(group.length) * double(settings.samples) * double(group.depths(settings).size());
  }
  Outcome outcome;
  detail::Suite suite(subject, settings);
  for (const detail::Group& group : groups) {
    detail::Cell in_group;
    for (const double depth : group.depths(settings)) {
      detail::Cell cell;
      for (int64_t index = 0; index < settings.samples; ++index) {
        outcome.samples.push_back(suite.ask_prompt(group, depth, index, cell));
        done += double(group.length);
        if (!progress) continue;
        char note[64];
        std::snprintf(note, sizeof note, "%lld of %lld correct",
                      static_cast<long long>(suite.correct()),
                      static_cast<long long>(outcome.samples.size()));
        progress(done / work, note);
      }
      suite.finish_cell(group, depth, cell);
      in_group.add(cell);
    }
    suite.finish_group(group, in_group);
  }
  suite.write(outcome.metrics);
  return outcome;
}

// Whether every prompt can be made; of many samples the first: prompts differ by a few tokens only.
inline void check_retrieval(const Unloaded& model, const RetrievalSettings& s) {
  constexpr int64_t kMost = 20;
  for (const retrieval_detail::Group& group : retrieval_detail::groups(s)) {
    for (int64_t index = 0; index < std::min(s.samples, kMost); ++index) {
      retrieval::PromptRequest request{group.parsed(),
                                       retrieval::parse_haystack(group.haystack),
                                       group.length,
                                       0,
                                       s.max_new_tokens,
                                       s.seed,
                                       index};
      retrieval::require_prompt(model.tokenizer, request);
      retrieval::Draws draws = retrieval::detail::draws_of(request);
      const auto frame = retrieval::detail::make_frame(model.tokenizer, request, draws);
      const retrieval::Question& question = frame.parts.question;
      tokenize_question(model.tokenizer, "", 0, question, {});
      if (!s.second_question || !frame.parts.second) continue;
      request.max_new_tokens = room_for_second(model.tokenizer, question, *frame.parts.second,
                                               request.length, model.longest_context, frame.room);
      retrieval::require_prompt(model.tokenizer, request);
    }
  }
}

}  // namespace ptq::eval
