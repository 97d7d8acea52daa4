// What each evaluation can be told, and the fields of each struct, listed once for everything that
// reads, writes or checks them. A visitor has integer(key, value, low, high), number(key, value,
// low, high), boolean(key, value), numbers, integers and words for lists, choice(key, text, allowed
// words), text(key, text, check), file(key, path, what for), optional_file(key, path), regime(key,
// value, allowed), decide(key, value, metrics) and rule(holds, key, text, hint) for what no single
// field says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/data/retrieval_prompt.hpp"
#include "ptq/data/text.hpp"
#include "ptq/engine/modes.hpp"
#include "ptq/tasks/row_range.hpp"

namespace ptq::eval {

// Ending an evaluation as soon as it is decided (decide.hpp); written and read only where it is on.
struct DecideSettings {
  std::string metric;    // "nll", "kl" or "answers"; empty: off
  double alpha = 0.05;   // chance of a wrong decision, however often one looks
  double margin = 0.01;  // differences below it do not matter: nats, or a share of answers

  bool on() const { return !metric.empty(); }
};
inline constexpr double kLeastAlpha = 1e-6, kMostMargin = 100;

// Token perplexity of a text (perplexity.hpp).
struct PerplexitySettings {
  std::string text;  // path of a UTF-8 file, tokenised once
  // "raw": the file as it is; "wikitext2": rows joined by "\n\n"; "pages": each page of WikiText
  std::string join = "raw";
  std::string protocol = "disjoint";  // perplexity_windows.hpp
  int64_t window = 2048;              // tokens
  int64_t stride = 0;                 // of sliding, tokens; 0: half a window
  int64_t max_windows = 0;            // 0 = all
  Regime regime = Regime::streaming;
  DecideSettings decide;

  // Tokens of the longest sequence that the evaluation feeds.
  int64_t longest_context() const { return window; }
  int64_t stride_used() const {
    if (protocol == "sliding" && stride > 0) return stride;
    return protocol == "half_overlap" || protocol == "sliding" ? window / 2 : window;
  }
};

// Passkey retrieval (passkey.hpp).
struct PasskeySettings {
  int64_t keys = 20;
  std::vector<double> depths = {0.1, 0.25, 0.5, 0.75};
  int64_t context_length = 2048;  // tokens asked for (passkey_prompt.hpp)
  int64_t max_new_tokens = 8;
  uint32_t seed = 42;
  Regime regime = Regime::prefill_exact;
  // "cached": the context is prefilled and encoded, the question and the answer are fed through the
  // cache, so that already the first answer token reads it. "prefilled": the question belongs to
  // the prompt, as the methods' own repositories do it.
  std::string question = "cached";
  DecideSettings decide;

  int64_t longest_context() const { return context_length + max_new_tokens; }
};

// The retrieval suite (retrieval.hpp): every task x haystack x length, at every depth.
struct RetrievalSettings {
  std::vector<std::string> tasks = {"single", "multikey-4"};  // retrieval_prompt.hpp has the names
  std::vector<std::string> haystacks = {"noise"};             // "noise", "prose", "needles"
  std::vector<int64_t> lengths = {4096};  // tokens of everything, the answer included
  std::vector<double> depths = {0, 0.1, 0.25, 0.5, 0.75, 0.9, 1};
  int64_t samples = 20;        // prompts of each cell
  int64_t max_new_tokens = 0;  // of an answer; 0: as much as the task needs
  uint32_t seed = 42;
  Regime regime = Regime::prefill_exact;
  // "context_only": the context is encoded before the question is seen. "question_aware": the
  // question belongs to the prompt.
  std::string question = "context_only";
  // Whether another needle is asked for afterwards, through the same cache (multikey).
  bool second_question = false;

  int64_t longest_context() const { return *std::max_element(lengths.begin(), lengths.end()); }
};

// Perplexity of long documents, by the length of what a token can look back on (cached_decode.hpp).
struct CachedDecodeSettings {
  std::string texts;  // path of a JSON Lines file with a field "text"
  int64_t samples = 2;
  std::vector<int64_t> lengths = {4096, 8192, 16384, 32768};  // tokens
  Regime regime = Regime::streaming;
  int64_t chunk = 64;  // tokens per call under prefill_exact, which read each other in full
  DecideSettings decide;

  int64_t longest_context() const { return *std::max_element(lengths.begin(), lengths.end()); }
};

// Teacher-forced decoding through the cache (generation.hpp).
struct GenerationSettings {
  std::string texts;  // path of a JSON Lines file with a field "text"
  int64_t samples = 5;
  int64_t prompt_tokens = 1500;
  int64_t continuation_tokens = 512;
  Regime regime = Regime::prefill_exact;  // of the prompt; the continuation always streams
  int64_t batch = 1;                      // texts that are decoded side by side
  DecideSettings decide;

  int64_t longest_context() const { return prompt_tokens + continuation_tokens; }
};

// Multiple choice (choices.hpp).
struct ChoicesSettings {
  std::string task;          // path of a description (tasks/description.hpp)
  std::string data;          // path of a JSON Lines file with the task's rows
  std::string labels;        // path of the right answers where the rows have none; empty: they do
  std::string fewshot_data;  // path of the rows that examples come from
  int64_t fewshot = 0;       // examples in front of each question
  std::string rows;          // "100:200": these rows of the data, from 0 on; empty: all
  int64_t max_length = 0;    // tokens that the model is fed at most; 0: as many as it takes
  // "fp32"; "bf16" and "f16" round log-probabilities and their sums as the harness does with a
  // model in such a format.
  std::string logits_dtype = "fp32";
  Regime regime = Regime::streaming;

  // 0: as long as the rows are; what the model does not take is cut.
  int64_t longest_context() const { return 0; }
};

// Answers that are written (answers.hpp).
struct AnswersSettings {
  std::string task;            // path of a description (tasks/description.hpp)
  std::string data;            // path of a JSON Lines file with the task's rows
  std::string fewshot_data;    // path of the rows that examples come from
  int64_t fewshot = 0;         // examples in front of each question
  std::string rows;            // "100:200": these rows of the data, from 0 on; empty: all
  int64_t max_length = 0;      // tokens of text and answer together; 0: as many as the model takes
  int64_t max_new_tokens = 0;  // of an answer; 0: as the task says
  int64_t batch = 8;           // answers that are written side by side
  Regime regime = Regime::streaming;

  // 0: as long as the rows are; what the model does not take is cut.
  int64_t longest_context() const { return 0; }
};

// An answer needs a cache to be decoded through.
inline const std::vector<Regime> kCachedRegimes = {Regime::streaming, Regime::prefill_exact,
                                                   Regime::prefill_encoded};

template <class Visitor>
void visit_settings(PerplexitySettings& s, Visitor& v) {
  v.file("text", s.text);
  v.choice("join", s.join, {"raw", "wikitext2", "pages"});
  v.choice("protocol", s.protocol,
           {"disjoint", "half_overlap", "sliding", "llamacpp", "rolling_words"});
  v.integer("window", s.window, 2, kLongestContext);
  v.integer("stride", s.stride, 0, kLongestContext);
  v.rule(s.stride == 0 || s.protocol == "sliding", "stride",
         "belongs to the protocol `sliding`, not to `" + s.protocol + "`",
         "protocol = \"sliding\"");
  v.rule(s.stride <= s.window, "stride",
         "is " + std::to_string(s.stride) + ", longer than the window", "");
  v.rule(s.join != "pages" || s.protocol == "rolling_words", "join",
         "= `pages` belongs to the protocol `rolling_words`", "protocol = \"rolling_words\"");
  v.rule(s.protocol != "half_overlap" || s.window % 2 == 0, "window",
         "is " + std::to_string(s.window) + ", half_overlap needs an even number",
         "window = " + std::to_string(s.window - 1));
  v.rule(s.protocol != "llamacpp" || s.window > 2, "window",
         "is " + std::to_string(s.window) + ", llamacpp scores nothing of it", "window = 512");
  v.integer("max_windows", s.max_windows, 0, kLongestContext);
  v.regime(
      "regime", s.regime,
      {Regime::streaming, Regime::prefill_exact, Regime::prefill_encoded, Regime::independent});
  v.decide("decide", s.decide, {"nll", "kl"});
  v.rule(!s.decide.on() || (s.protocol != "sliding" && s.protocol != "rolling_words"), "decide",
         "compares windows of one length, which `" + s.protocol + "` has not",
         "protocol = \"disjoint\"");
}

template <class Visitor>
void visit_settings(PasskeySettings& s, Visitor& v) {
  v.integer("keys", s.keys, 1, 100000);
  v.numbers("depths", s.depths, 0, 1);
  v.integer("context_length", s.context_length, 64, kLongestContext);
  v.integer("max_new_tokens", s.max_new_tokens, 1, 1024);
  v.integer("seed", s.seed, 0, std::numeric_limits<uint32_t>::max());
  v.regime("regime", s.regime, kCachedRegimes);
  v.choice("question", s.question, {"cached", "prefilled"});
  v.decide("decide", s.decide, {"answers"});
}

template <class Visitor>
void visit_settings(CachedDecodeSettings& s, Visitor& v) {
  v.file("texts", s.texts);
  v.integer("samples", s.samples, 1, 1000000);
  v.integers("lengths", s.lengths, 2, kLongestContext);
  v.regime("regime", s.regime, {Regime::streaming, Regime::prefill_exact});
  v.integer("chunk", s.chunk, 1, kLongestContext);
  v.decide("decide", s.decide, {"nll", "kl"});
}

template <class Visitor>
void visit_settings(RetrievalSettings& s, Visitor& v) {
  v.words("tasks", s.tasks, [](const std::string& word) { retrieval::parse_task(word); });
  v.words("haystacks", s.haystacks,
          [](const std::string& word) { retrieval::parse_haystack(word); });
  v.integers("lengths", s.lengths, 128, kLongestContext);
  v.numbers("depths", s.depths, 0, 1);
  v.integer("samples", s.samples, 1, 100000);
  v.integer("max_new_tokens", s.max_new_tokens, 0, 1024);
  v.integer("seed", s.seed, 0, std::numeric_limits<uint32_t>::max());
  v.regime("regime", s.regime, kCachedRegimes);
  v.choice("question", s.question, {"context_only", "question_aware"});
  v.boolean("second_question", s.second_question);
}

template <class Visitor>
void visit_settings(GenerationSettings& s, Visitor& v) {
  v.file("texts", s.texts);
  v.integer("samples", s.samples, 1, 1000000);
  v.integer("prompt_tokens", s.prompt_tokens, 1, kLongestContext);
  v.integer("continuation_tokens", s.continuation_tokens, 1, kLongestContext);
  v.regime("regime", s.regime, kCachedRegimes);
  v.integer("batch", s.batch, 1, 1024);
  v.decide("decide", s.decide, {"nll", "kl"});
}

template <class Visitor>
void visit_settings(ChoicesSettings& s, Visitor& v) {
  v.file("task", s.task);
  v.file("data", s.data);
  v.optional_file("labels", s.labels);
  v.integer("fewshot", s.fewshot, 0, 1000);
  v.optional_file("fewshot_data", s.fewshot_data);
  v.rule(s.fewshot == 0 || !s.fewshot_data.empty(), "fewshot_data",
         "is missing: the rows that the examples come from", "fewshot_data = \"dev.jsonl\"");
  v.text("rows", s.rows, [](const std::string& text) { tasks::parse_rows(text); });
  v.integer("max_length", s.max_length, 0, kLongestContext);
  v.choice("logits_dtype", s.logits_dtype, {"fp32", "bf16", "f16"});
  v.regime(
      "regime", s.regime,
      {Regime::streaming, Regime::prefill_exact, Regime::prefill_encoded, Regime::independent});
}

template <class Visitor>
void visit_settings(AnswersSettings& s, Visitor& v) {
  v.file("task", s.task);
  v.file("data", s.data);
  v.integer("fewshot", s.fewshot, 0, 1000);
  v.optional_file("fewshot_data", s.fewshot_data);
  v.rule(s.fewshot == 0 || !s.fewshot_data.empty(), "fewshot_data",
         "is missing: the rows that the examples come from", "fewshot_data = \"train.jsonl\"");
  v.text("rows", s.rows, [](const std::string& text) { tasks::parse_rows(text); });
  v.integer("max_length", s.max_length, 0, kLongestContext);
  v.integer("max_new_tokens", s.max_new_tokens, 0, kLongestContext);
  v.integer("batch", s.batch, 1, 1024);
  v.regime("regime", s.regime, kCachedRegimes);
}

namespace settings_detail {

// Throws what is wrong with a setting.
struct Check {
  const char* kind;  // of evaluation, for the messages

  [[noreturn]] void refuse(const char* key, const std::string& text,
                           const std::string& hint = "") const {
    throw usage_error("`" + std::string(key) + "` " + text, kind, hint);
  }
  void range(const char* key, double value, double low, double high) const {
    if (value >= low && value <= high) return;  // false for NaN
    refuse(key, "is " + number_text(value) + ", outside its range " + number_text(low) + " to " +
                    number_text(high));
  }
  template <class List>
  void not_empty(const char* key, const List& values) const {
    if (values.empty()) refuse(key, "is empty");
  }

  void file(const char*, std::string&, const char* = "") {}  // its reader says what is wrong
  void optional_file(const char*, std::string&) {}
  template <class CheckText>
  void text(const char*, std::string& value, const CheckText& check) {
    check(value);
  }
  void boolean(const char*, bool&) {}
  void choice(const char* key, std::string& value, const std::vector<std::string>& allowed) {
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
      refuse(key, "= `" + value + "` is not known", did_you_mean(value, allowed));
  }
  template <class Integer>
  void integer(const char* key, Integer& value, int64_t low, int64_t high) {
    range(key, double(value), double(low), double(high));
  }
  void number(const char* key, double& value, double low, double high) {
    range(key, value, low, high);
  }
  void numbers(const char* key, std::vector<double>& values, double low, double high) {
    not_empty(key, values);
    for (const double value : values) range(key, value, low, high);
  }
  void integers(const char* key, std::vector<int64_t>& values, int64_t low, int64_t high) {
    not_empty(key, values);
    for (const int64_t value : values) range(key, double(value), double(low), double(high));
  }
  template <class CheckWord>
  void words(const char* key, std::vector<std::string>& values, const CheckWord& check) {
    not_empty(key, values);
    for (const std::string& word : values) check(word);
  }
  void regime(const char* key, Regime& value, const std::vector<Regime>& allowed) {
    if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
    std::string list;
    for (const Regime regime : allowed)
      list += (list.empty() ? "`" : ", `") + regime_word(regime) + "`";
    refuse(key, "= `" + regime_word(value) + "` does not fit: here a cache is read",
           "use one of " + list);
  }
  void decide(const char* key, DecideSettings& value, const std::vector<std::string>& metrics) {
    if (!value.on()) return;
    choice(key, value.metric, metrics);
    range(key, value.alpha, kLeastAlpha, 0.5);
    range(key, value.margin, 0, kMostMargin);
  }
  void rule(bool holds, const char* key, const std::string& text, const std::string& hint) {
    if (!holds) refuse(key, text, hint);
  }
};

}  // namespace settings_detail

// Every evaluation begins with it: settings need not come from an experiment file.
template <class Settings>
void check_settings(Settings settings, const char* kind) {
  settings_detail::Check check{kind};
  visit_settings(settings, check);
}

}  // namespace ptq::eval
