// What the retrieval suite counts: the scores of one question, and sums of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq::eval::retrieval_detail {

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
  Answers answers;
  std::vector<double> partial, nll, margin, lead;

  void add(const Score& score) {
    answers.add(score.exact);
    partial.push_back(score.partial);
    nll.push_back(score.nll);
    lead.push_back(score.lead);
    if (std::isfinite(score.margin)) margin.push_back(score.margin);
  }
  void add(const Tally& other) {
    answers.correct += other.answers.correct;
    answers.total += other.answers.total;
    for (const auto member : {&Tally::partial, &Tally::nll, &Tally::margin, &Tally::lead}) {
      std::vector<double>& own = this->*member;
      own.insert(own.end(), (other.*member).begin(), (other.*member).end());
    }
  }

  void write(Json& json) const {
    answers.write(json);
    write_means(json, "");
  }
  void write_reference(Json& json) const {
    json["accuracy_reference"] = answers.accuracy();
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

// The questions of one task, haystack, length and depth, or of several of these.
struct Cell {
  Tally method, reference;
  std::vector<double> bytes_per_token, effective_bits, exposure;  // per prompt
  int64_t shortest = std::numeric_limits<int64_t>::max(), longest = 0;
  int64_t lost = 0, gained = 0;

  void add(const Score& own, const std::optional<Score>& of_reference) {
    method.add(own);
    if (!of_reference) return;
    reference.add(*of_reference);
    lost += of_reference->exact && !own.exact;
    gained += !of_reference->exact && own.exact;
  }
  void add_prompt(int64_t tokens, const CacheBytes& cache, double exposed) {
    exposure.push_back(exposed);
    bytes_per_token.push_back(cache.bytes_per_token());
    effective_bits.push_back(cache.effective_bits());
    shortest = std::min(shortest, tokens);
    longest = std::max(longest, tokens);
  }
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
    return (reference.answers.total > 0 ? reference : method).answers.accuracy() < 0.9;
  }
  void write_answers(Json& json) const {
    method.write(json);
    if (reference.answers.total == 0) return;
    reference.write_reference(json);
    json["lost"] = lost;      // right with full precision, wrong with the method
    json["gained"] = gained;  // the other way round
  }
  void write(Json& json) const {
    write_answers(json);
    json["baseline_fails"] = baseline_fails();
    json["prompt_tokens_min"] = shortest;
    json["prompt_tokens_max"] = longest;
    put_number(json, "bytes_per_token", mean(bytes_per_token), "the cache is empty");
    put_number(json, "effective_bits", mean(effective_bits), "the cache is empty");
    put_number(json, "exposure", mean(exposure));
  }
};

}  // namespace ptq::eval::retrieval_detail
