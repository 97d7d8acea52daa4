// The retrieval suite: what can still be found in a compressed cache, and how surely. Each prompt
// is scored twice: the true answer is fed token by token (its likelihood, and the margin over the
// other values of the context), and the model's own greedy answer is compared with it.
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/eval/cache_report.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/lock_step.hpp"
#include "ptq/eval/retrieval_score.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq::eval {

namespace retrieval_detail {

inline void check(const RetrievalSettings& s) {
  for (const std::string& task : s.tasks) retrieval::parse_task(task);
  for (const std::string& haystack : s.haystacks) retrieval::parse_haystack(haystack);
  if (s.question != "context_only" && s.question != "question_aware") {
    throw usage_error("question = `" + s.question + "` is not known", "retrieval",
                      did_you_mean(s.question, {"context_only", "question_aware"}));
  }
  if (s.tasks.empty() || s.haystacks.empty() || s.lengths.empty() || s.depths.empty() ||
      s.samples < 1) {
    throw usage_error("tasks, haystacks, lengths, depths and samples must not be empty or 0",
                      "retrieval");
  }
  for (const double depth : s.depths) {
    if (!(depth >= 0 && depth <= 1)) throw usage_error("depths must lie in 0 .. 1", "retrieval");
  }
  if (s.regime == Regime::independent) {
    throw usage_error("an answer cannot be generated without a cache", "retrieval: regime",
                      "use `streaming`, `prefill-exact` or `prefill-encoded`");
  }
}

// One side's scores of one question.
struct Score {
  bool exact = false;
  double partial = 0, nll = 0, margin = kUnknown, lead = 0;
  std::string text;  // of the greedy answer

  void write(Json& json, const std::string& suffix) const {
    json["answer" + suffix] = text;
    json["correct" + suffix] = exact;
    json["partial" + suffix] = partial;
    put_number(json, "answer_nll" + suffix, nll);
    put_number(json, "margin" + suffix, margin, "the context holds no other value");
    put_number(json, "lead" + suffix, lead);
  }
};

// Sums over questions.
struct Tally {
  int64_t correct = 0, total = 0;
  std::vector<double> partial, nll, margin, lead;

  void add(const Score& score) {
    correct += score.exact;
    ++total;
    partial.push_back(score.partial);
    nll.push_back(score.nll);
    lead.push_back(score.lead);
    if (std::isfinite(score.margin)) margin.push_back(score.margin);
  }
  void add(const Tally& other) {
    correct += other.correct;
    total += other.total;
    for (const auto member : {&Tally::partial, &Tally::nll, &Tally::margin, &Tally::lead}) {
      std::vector<double>& own = this->*member;
      own.insert(own.end(), (other.*member).begin(), (other.*member).end());
    }
  }
  double accuracy() const { return total > 0 ? double(correct) / double(total) : kUnknown; }

  void write(Json& json) const {
    const Interval interval = clopper_pearson95(correct, total);
    json["correct"] = correct;
    json["total"] = total;
    json["accuracy"] = accuracy();
    json["ci95_low"] = interval.low;
    json["ci95_high"] = interval.high;
    write_means(json, "");
  }
  void write_reference(Json& json) const {
    json["accuracy_reference"] = accuracy();
    write_means(json, "_reference");
  }

 private:
  void write_means(Json& json, const std::string& suffix) const {
    json["partial" + suffix] = mean(partial);
    put_number(json, "answer_nll" + suffix, mean(nll));
    put_number(json, "margin" + suffix, mean(margin), "the contexts hold no other value");
    put_number(json, "lead" + suffix, mean(lead));
  }
};

// The prompts of one task, haystack, length and depth, or of several of these.
struct Cell {
  Tally method, reference;
  std::vector<double> bytes_per_token, effective_bits, exposure;  // per prompt
  int64_t shortest = std::numeric_limits<int64_t>::max(), longest = 0;
  int64_t lost = 0, gained = 0;

  void add(const Cell& other) {
    method.add(other.method);
    reference.add(other.reference);
    for (const auto member : {&Cell::bytes_per_token, &Cell::effective_bits, &Cell::exposure}) {
      std::vector<double>& own = this->*member;
      own.insert(own.end(), (other.*member).begin(), (other.*member).end());
    }
    shortest = std::min(shortest, other.shortest);
    longest = std::max(longest, other.longest);
    lost += other.lost;
    gained += other.gained;
  }
  // Where full precision answers fewer than 9 of 10, a figure says nothing about a method.
  bool baseline_fails() const {
    return (reference.total > 0 ? reference : method).accuracy() < 0.9;
  }
  void write(Json& json) const {
    method.write(json);
    if (reference.total > 0) {
      reference.write_reference(json);
      json["lost"] = lost;      // right with full precision, wrong with the method
      json["gained"] = gained;  // the other way round
    }
    json["baseline_fails"] = baseline_fails();
    json["prompt_tokens_min"] = shortest;
    json["prompt_tokens_max"] = longest;
    put_number(json, "bytes_per_token", mean(bytes_per_token), "the cache is empty");
    put_number(json, "effective_bits", mean(effective_bits), "the cache is empty");
    put_number(json, "exposure", mean(exposure));
  }
};

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

}  // namespace retrieval_detail

// Errors: settings, a length that holds no prompt, logits that are not finite.
inline Outcome retrieval_suite(Subject& subject, const RetrievalSettings& settings,
                               const Progress& progress) {
  namespace detail = retrieval_detail;
  using detail::Cell;
  detail::check(settings);
  const bool aware = settings.question == "question_aware";
  // A prompt that reads itself in full precision predicts the first answer token without the cache.
  const bool first_reads_cache = !aware || settings.regime != Regime::prefill_exact;

  struct Group {  // one task, haystack and length
    std::string task, haystack;
    int64_t length;
  };
  std::vector<Group> groups;
  double work = 0, done = 0;  // tokens to prefill
  for (const std::string& task : settings.tasks) {
    for (const std::string& haystack : settings.haystacks) {
      for (const int64_t length : settings.lengths) {
        groups.push_back({task, haystack, length});
        const size_t depths = retrieval::parse_task(task).has_depth() ? settings.depths.size() : 1;
        work += double(length) * double(settings.samples) * double(depths);
      }
    }
  }

  Outcome outcome;
  Cell all, second;
  std::vector<std::pair<int64_t, Cell>> by_length;
  Divergence divergence;
  CacheReads reads;
  CacheMeans caches;
  double seconds = 0, reference_seconds = 0, prefill_seconds = 0, prefilled = 0;
  Json cells = Json::array(), tasks = Json::array();
  int64_t failing = 0;

  for (const Group& group : groups) {
    const retrieval::Task task = retrieval::parse_task(group.task);
    const int64_t max_new =
        settings.max_new_tokens > 0 ? settings.max_new_tokens : task.max_new_tokens();
    const std::vector<double> depths =
        task.has_depth() ? settings.depths : std::vector<double>{kUnknown};
    Cell in_group;
    for (const double depth : depths) {
      Cell cell;
      for (int64_t index = 0; index < settings.samples; ++index) {
        const auto prompt_with_room = [&](int64_t for_answers) {
          return retrieval::make_prompt(
              subject.tokenizer, {task, retrieval::parse_haystack(group.haystack), group.length,
                                  task.has_depth() ? depth : 0, for_answers, settings.seed, index});
        };
        retrieval::Prompt prompt = prompt_with_room(settings.max_new_tokens);
        if (settings.second_question && prompt.second) {
          const int64_t room =
              room_for_second(subject.tokenizer, prompt.question, *prompt.second, group.length,
                              subject.engine.config().max_position_embeddings, max_new);
          if (room > max_new) prompt = prompt_with_room(room);
        }
        const QuestionTokens tokens =
            tokenize_question(subject.tokenizer, "", 0, prompt.question, prompt.distractors);
        const std::vector<int32_t> context = subject.tokenizer.encode(prompt.context);
        std::vector<int32_t> ids =
            subject.tokenizer.encode(prompt.context + "\n" + prompt.question.text);

        detail::Conversation talk(subject);
        CacheReads before;
        detail::Feed question{ids, settings.regime};
        if (!aware) {
          // A token that joins the border belongs to the question.
          const auto border =
              ids.begin() + std::min(common_prefix(context, ids), int64_t(ids.size()) - 1);
          talk.feed({{ids.begin(), border}, settings.regime}, border - ids.begin(), {});
          before = talk.run().sequence().reads();
          prefill_seconds += talk.run().seconds();
          prefilled += double(border - ids.begin());
          question = {{border, ids.end()}, Regime::streaming};
        }
        const auto [own, reference] =
            detail::ask(talk, subject, std::move(question), tokens, prompt.question, max_new,
                        first_reads_cache, divergence);
        const CacheBytes cache = talk.run().sequence().bytes();
        caches.add(cache);

        Json sample = {
            {"task", group.task}, {"haystack", group.haystack}, {"length", group.length}};
        put_number(sample, "depth", depth, "needles stand anywhere");
        sample["index"] = index;
        sample["tokens"] = ids.size();
        own.write(sample, "");
        if (reference) reference->write(sample, "_reference");
        cell.method.add(own);
        if (reference) {
          cell.reference.add(*reference);
          cell.lost += reference->exact && !own.exact;
          cell.gained += !reference->exact && own.exact;
        }
        if (settings.second_question && prompt.second) {
          const std::string first_text = prompt.question.text + prompt.question.answer;
          const int64_t fed = int64_t(subject.tokenizer.encode(first_text, false).size()) - 1;
          std::vector<std::string> others = prompt.distractors;
          std::erase(others, prompt.second->references[0]);
          others.push_back(prompt.question.references[0]);
          const QuestionTokens more =
              tokenize_question(subject.tokenizer, first_text + "\n", fed, *prompt.second, others);
          const auto [own2, reference2] =
              detail::ask(talk, subject, {more.question, Regime::streaming}, more, *prompt.second,
                          max_new, true, divergence);
          second.method.add(own2);
          own2.write(sample, "_second");
          if (reference2) {
            second.reference.add(*reference2);
            second.lost += reference2->exact && !own2.exact;
            second.gained += !reference2->exact && own2.exact;
          }
        }
        CacheReads of_prompt;
        add_reads(of_prompt, talk.run().sequence().reads(), before);
        add_reads(reads, of_prompt);
        cell.exposure.push_back(of_prompt.exposure());
        cell.bytes_per_token.push_back(cache.bytes_per_token());
        cell.effective_bits.push_back(cache.effective_bits());
        cell.shortest = std::min(cell.shortest, int64_t(ids.size()));
        cell.longest = std::max(cell.longest, int64_t(ids.size()));
        seconds += talk.run().seconds();
        reference_seconds += talk.run().reference_seconds();
        outcome.samples.push_back(std::move(sample));
        done += double(group.length);
        if (progress) {
          char note[64];
          std::snprintf(note, sizeof note, "%lld of %lld correct",
                        static_cast<long long>(all.method.correct + in_group.method.correct +
                                               cell.method.correct),
                        static_cast<long long>(outcome.samples.size()));
          progress(done / work, note);
        }
      }
      Json row = {{"task", group.task}, {"haystack", group.haystack}, {"length", group.length}};
      put_number(row, "depth", depth, "needles stand anywhere");
      cell.write(row);
      failing += cell.baseline_fails();
      cells.push_back(std::move(row));
      in_group.add(cell);
    }
    Json row = {{"task", group.task}, {"haystack", group.haystack}, {"length", group.length}};
    in_group.write(row);
    tasks.push_back(std::move(row));
    all.add(in_group);
    const auto same = std::find_if(by_length.begin(), by_length.end(),
                                   [&](const auto& entry) { return entry.first == group.length; });
    if (same != by_length.end()) {
      same->second.add(in_group);
    } else {
      by_length.emplace_back(group.length, in_group);
    }
  }

  Json& m = outcome.metrics;
  m["protocol"] = "retrieval";
  m["question"] = settings.question;
  all.write(m);
  m["cells_total"] = cells.size();
  m["cells_baseline_fails"] = failing;
  m["lengths"] = Json::array();
  for (const auto& [length, cell] : by_length) {
    Json row = {{"length", length}};
    cell.write(row);
    m["lengths"].push_back(std::move(row));
  }
  m["tasks"] = std::move(tasks);
  m["cells"] = std::move(cells);
  if (second.method.total > 0) {
    second.method.write(m["second"]);
    if (second.reference.total > 0) {
      second.reference.write_reference(m["second"]);
      m["second"]["lost"] = second.lost;
      m["second"]["gained"] = second.gained;
    }
  }
  if (subject.reference) {
    m["kl_positions"] = "value tokens of the true answers";
    divergence.write(m);
  }
  m["regime"] = regime_word(settings.regime);
  write_exposure(m, reads);  // of the queries after the prefill
  m["cache"] = caches.json();
  m["seconds"] = seconds;
  m["reference_seconds"] = reference_seconds;
  put_number(m, "prefill_tokens_per_second",
             prefill_seconds > 0 ? prefilled / prefill_seconds : kUnknown,
             aware ? "prompt and answer are not timed apart" : "too fast for the clock");
  return outcome;
}

}  // namespace ptq::eval
