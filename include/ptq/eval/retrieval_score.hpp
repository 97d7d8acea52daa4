// Scores of one question of the retrieval suite: its tokens, what the rows of the true answer say,
// and how an answer in the model's own words is judged.
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/data/passkey_prompt.hpp"
#include "ptq/data/retrieval_prompt.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::eval {

// A question in tokens. Spans are half open and count from the answer's first token.
struct QuestionTokens {
  std::vector<int32_t> question;  // what is fed before the answer
  std::vector<int32_t> answer;    // the last token (the period) is scored and never fed
  struct Span {
    int64_t begin, end;
  };
  std::vector<Span> values;                       // where each reference stands
  std::vector<std::vector<int32_t>> others;       // of each reference: tokens of the other ones
  std::vector<std::vector<int32_t>> distractors;  // tokens of the context's other values
};

// `before`: text in front of the question, which was fed as `fed` tokens of encode(before); the
// tokens are those of the text in one piece. Errors: a tokenizer that joins a value to the words
// in front of it.
inline QuestionTokens tokenize_question(const Tokenizer& tokenizer, const std::string& before,
                                        int64_t fed, const retrieval::Question& question,
                                        const std::vector<std::string>& distractors) {
  const std::string asked = before + question.text, all = asked + question.answer;
  const auto encode = [&](const std::string& text) { return tokenizer.encode(text, false); };
  const std::vector<int32_t> tokens = encode(all);
  const int64_t first = common_prefix(encode(asked), tokens);
  QuestionTokens out;
  if (first <= fed || first >= int64_t(tokens.size())) {
    throw usage_error("the tokenizer joins an answer to its question", "retrieval");
  }
  out.question.assign(tokens.begin() + fed, tokens.begin() + first);
  out.answer.assign(tokens.begin() + first, tokens.end());

  // Tokens of `value` where `stem` ends and the value stands.
  const auto value_tokens = [&](const std::string& stem, const std::string& value) {
    const std::vector<int32_t> with = encode(stem + value);
    return std::vector<int32_t>(with.begin() + common_prefix(encode(stem), with), with.end());
  };
  size_t place = asked.size();
  for (const std::string& value : question.references) {
    place = all.find(value, place);
    const std::string stem = all.substr(0, place);
    const std::vector<int32_t> ids = value_tokens(stem, value);
    const int64_t begin = common_prefix(encode(stem), tokens) - first;
    out.values.push_back({begin, begin + int64_t(ids.size())});
    place += value.size();
  }
  const std::string stem = asked + " ";
  for (const std::string& value : distractors) {
    out.distractors.push_back(value_tokens(stem, value));
  }
  for (const std::string& value : question.references) {
    out.others.push_back(value_tokens(stem, value));
  }
  return out;
}

// Tokens that the filler leaves free for answers when a second question follows. The room behind a
// prompt is for one answer, `max_new` tokens; where the model has no more positions, it grows.
inline int64_t room_for_second(const Tokenizer& tokenizer, const retrieval::Question& first,
                               const retrieval::Question& second, int64_t length,
                               int64_t max_positions, int64_t max_new) {
  const std::string more = first.answer + "\n" + second.text;
  const int64_t over =
      length - retrieval::kSpare + int64_t(tokenizer.encode(more, false).size()) - max_positions;
  return max_new + std::max<int64_t>(over, 0);
}

// The true answer, fed token by token: likelihoods and margins.
class AnswerPath {
 public:
  explicit AnswerPath(const QuestionTokens& question) : question_(question) {}

  // The row that predicts answer token i; rows come in order.
  void add(const LogitRow& row) {
    const int64_t i = int64_t(log_probs_.size());
    const int32_t target = question_.answer[size_t(i)];
    log_probs_.push_back(row.log_prob(target));
    predicted_.push_back(row.argmax);
    for (size_t v = 0; v < question_.values.size(); ++v) {
      const auto [begin, end] = question_.values[v];
      if (i < begin || i >= end) continue;
      lead_ = std::min(lead_, lead(row, target));
      for (const auto& tokens : question_.distractors) rival(v, i - begin, tokens, row);
      for (size_t o = 0; o < question_.others.size(); ++o) {
        if (o != v) rival(v, i - begin, question_.others[o], row);
      }
    }
  }

  // Whether greedy decoding would have written this answer; `ends` says whether the token that
  // it would put in place of the period ends the last value.
  template <class Ends>
  bool greedy(const Ends& ends) const {
    for (size_t i = 0; i + 1 < predicted_.size(); ++i) {
      if (predicted_[i] != question_.answer[i]) return false;
    }
    return ends(predicted_.back());
  }
  int32_t first_predicted() const { return predicted_.front(); }

  // Mean over the references of -log p(value), in nats.
  double nll() const {
    double sum = 0;
    for (const auto& value : question_.values) sum -= log_prob(value.begin, value.end);
    return sum / double(question_.values.size());
  }
  // Mean over the references of log p(value) - the largest log p of another value of the context,
  // both from where they part. Of the other value one token is known from these rows, so this is
  // a lower bound of the margin. NaN without other values.
  double margin() const {
    std::vector<double> margins(question_.values.size(), std::numeric_limits<double>::infinity());
    for (const Rival& r : rivals_) {
      const auto [begin, end] = question_.values[r.value];
      margins[r.value] = std::min(margins[r.value], log_prob(begin + r.token, end) - r.log_prob);
    }
    const double result = mean(margins);
    return std::isfinite(result) ? result : kUnknown;
  }
  // The smallest lead of a value's token over any other token: log p - the largest other log p.
  double lead() const { return lead_; }

 private:
  struct Rival {
    size_t value;
    int64_t token;  // of the value, where the rival parts from it
    double log_prob;
  };

  double log_prob(int64_t begin, int64_t end) const {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += log_probs_[size_t(i)];
    return sum;
  }
  static double lead(const LogitRow& row, int32_t target) {
    if (row.argmax != target) return double(row.logits[target]) - double(row.max);
    float second = -std::numeric_limits<float>::max();
    for (int64_t v = 0; v < row.vocab; ++v) {
      if (v != target) second = std::max(second, row.logits[v]);
    }
    return double(row.max) - double(second);
  }
  void rival(size_t value, int64_t token, const std::vector<int32_t>& other, const LogitRow& row) {
    const int32_t* own = question_.answer.data() + question_.values[value].begin;
    if (token >= int64_t(other.size()) || other[size_t(token)] == own[token]) return;
    if (!std::equal(own, own + token, other.begin())) return;  // parted before
    rivals_.push_back({value, token, row.log_prob(other[size_t(token)])});
  }

  const QuestionTokens& question_;
  std::vector<double> log_probs_;
  std::vector<int32_t> predicted_;
  std::vector<Rival> rivals_;
  double lead_ = std::numeric_limits<double>::infinity();
};

// An answer in the model's own words.
struct Judgement {
  bool exact;      // all references; one reference: the first number of the text is it
  double partial;  // share of the references that occur
  bool final;      // more text cannot change it
};

inline Judgement judge(const std::string& text, const std::vector<std::string>& references) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const size_t line = text.find('\n', std::min(text.find_first_not_of(" \n"), text.size()));
  const std::string answer = text.substr(0, line);
  const bool ended = line != std::string::npos;
  if (references.size() == 1) {
    const auto begin = std::find_if(answer.begin(), answer.end(), is_digit);
    const auto end = std::find_if_not(begin, answer.end(), is_digit);
    const bool equal = std::string(begin, end) == references[0];
    return {equal, double(equal), ended || end != answer.end()};
  }
  const auto lower = [](std::string s) {
    for (char& c : s) c = char(std::tolower(static_cast<unsigned char>(c)));
    return s;
  };
  const std::string folded = lower(answer);
  int64_t found = 0;
  for (const std::string& reference : references) {
    found += folded.find(lower(reference)) != std::string::npos;
  }
  const bool all = found == int64_t(references.size());
  return {all, double(found) / double(references.size()), all || ended};
}

}  // namespace ptq::eval
