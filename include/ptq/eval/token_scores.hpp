// Losses of single tokens beside the full-precision reference's, for the measures that report parts
// of a text: quarters, distances, samples.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/divergence.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/model/tokenizer.hpp"

namespace ptq::eval {

class TokenScores {
 public:
  // Void tokens are counted and enter no mean, the reference's neither.
  void add(const ScoredToken& token) {
    if (!token.finite) {
      ++void_;
      return;
    }
    losses_.push_back(token.nll);
    if (!token.has_reference()) return;
    reference_losses_.push_back(token.nll_reference);
    divergence_.add(token);
  }
  void add(const TokenScores& other) {
    void_ += other.void_;
    losses_.insert(losses_.end(), other.losses_.begin(), other.losses_.end());
    reference_losses_.insert(reference_losses_.end(), other.reference_losses_.begin(),
                             other.reference_losses_.end());
    divergence_.add(other.divergence_);
  }

  size_t count() const { return losses_.size(); }  // without the void ones
  int64_t void_tokens() const { return void_; }
  double nll() const { return mean(losses_); }  // nats per token
  double ppl() const { return std::exp(nll()); }
  double nll_reference() const { return mean(reference_losses_); }
  double delta_nll() const { return nll() - nll_reference(); }
  const Divergence& divergence() const { return divergence_; }

  // flips: share of the positions whose most likely token is not the reference's.
  void write(Json& json) const {
    if (void_ > 0) json["nonfinite_tokens"] = void_;
    put_number(json, "nll", nll());
    put_number(json, "ppl", ppl(), "the loss is too large for a perplexity");
    if (reference_losses_.empty()) return;
    put_number(json, "nll_reference", nll_reference());
    put_number(json, "ppl_reference", std::exp(nll_reference()),
               "the loss is too large for a perplexity");
    put_number(json, "delta_nll", delta_nll());
    divergence_.write_short(json);
    put_number(json, "flips", 1 - divergence_.top1_agreement());
  }

  // Appends the mean differences of blocks of 64 tokens: neighbours are too alike to count as
  // independent.
  void add_blocks(std::vector<double>& blocks) const {
    constexpr size_t kBlock = 64;
    for (size_t begin = 0; begin < reference_losses_.size(); begin += kBlock) {
      const size_t n = std::min(kBlock, losses_.size() - begin);
      blocks.push_back(mean(std::span(losses_).subspan(begin, n)) -
                       mean(std::span(reference_losses_).subspan(begin, n)));
    }
  }

 private:
  std::vector<double> losses_, reference_losses_;
  int64_t void_ = 0;
  Divergence divergence_;
};

inline void require_texts(const std::vector<JsonlText>& texts, int64_t wanted,
                          const std::string& file) {
  if (int64_t(texts.size()) >= wanted) return;
  throw usage_error("the file holds " + std::to_string(texts.size()) + " texts, " +
                        std::to_string(wanted) + " are asked for",
                    file, "use a smaller `samples`");
}

inline void require_tokens(std::span<const int32_t> tokens, int64_t needed, const std::string& file,
                           int64_t line, const std::string& hint) {
  if (int64_t(tokens.size()) >= needed) return;
  throw usage_error("the text is too short: " + std::to_string(tokens.size()) + " tokens found, " +
                        std::to_string(needed) + " needed",
                    file + ":" + std::to_string(line), hint);
}

// Whether the first `samples` texts of a file are there and long enough, before a model is loaded.
inline void check_texts(const Tokenizer& tokenizer, const std::string& file, int64_t samples,
                        int64_t needed, const std::string& hint) {
  const std::vector<JsonlText> texts = read_jsonl_texts(file, samples);
  require_texts(texts, samples, file);
  for (const JsonlText& text : texts) {
    if (clearly_long(text.text, needed)) continue;
    require_tokens(tokenizer.encode(text.text), needed, file, text.line, hint);
  }
}

}  // namespace ptq::eval
