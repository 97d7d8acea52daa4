// The tokenisation of context and continuation. Source: EleutherAI/lm-evaluation-harness 0.4.11,
// lm_eval/api/model.py (_encode_pair, loglikelihood) and lm_eval/models/huggingface.py
// (_loglikelihood_tokens).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/tasks/text.hpp"

namespace ptq::eval {

// A context and what is scored behind it.
struct TokenPair {
  std::vector<int32_t> context, continuation;  // neither is empty
  bool truncated = false;
};

// Cuts texts into the pairs of the harness.
class PairTokenizer {
 public:
  // max_length: tokens that the model is fed at most.
  PairTokenizer(const Tokenizer& tokenizer, const ModelConfig& config, int64_t max_length)
      : tokenizer_(tokenizer), max_length_(max_length) {
    prefix_ = tokenizer.bos_id() >= 0         ? tokenizer.bos_id()
              : config.bos_token_id >= 0      ? int32_t(config.bos_token_id)
              : !config.eos_token_ids.empty() ? int32_t(config.eos_token_ids.front())
                                              : -1;
    if (prefix_ >= 0 && tokenizer.exists(prefix_)) prefix_text_ = tokenizer.token(prefix_);
  }

  // Blanks at the end of the context go to the continuation; both are tokenised in one piece, and
  // the continuation is what is behind as many tokens as the context alone has, even where a token
  // reaches across the border. Errors: a continuation of no token, or of more than the model takes.
  TokenPair encode(const std::string& context, const std::string& continuation,
                   const std::string& where) const {
    TokenPair pair;
    if (context.empty()) {
      pair.context = {prefix(where)};
      pair.continuation = tokenizer_.encode(continuation, false);
      if (!pair.continuation.empty() && pair.continuation[0] == prefix_)
        pair.continuation.erase(pair.continuation.begin());
    } else {
      const std::string stem(tasks::stripped_right(context));
      const std::string tail = context.substr(stem.size()) + continuation;
      pair.context = encode_text(stem);
      const std::vector<int32_t> whole = encode_text(stem + tail);
      const size_t begin = std::min(pair.context.size(), whole.size());
      pair.continuation.assign(whole.begin() + long(begin), whole.end());
    }
    if (pair.continuation.empty() || pair.context.empty())
      throw usage_error("the tokenizer leaves no token of a choice or of its context", where);
    truncate(pair, where);
    return pair;
  }

  // A whole text. One that begins with the token that begins texts gets no second one.
  std::vector<int32_t> encode_text(const std::string& text) const {
    const bool has_prefix = !prefix_text_.empty() && text.starts_with(prefix_text_);
    return tokenizer_.encode(text, !has_prefix);
  }

  // The token in front of a text that has no context. Errors: the model has none.
  int32_t prefix(const std::string& where) const {
    if (prefix_ < 0)
      throw usage_error("the context is empty, and the model has no token that begins a text",
                        where);
    return prefix_;
  }

 private:
  // The model is fed all but the last token; of too many the first are dropped.
  void truncate(TokenPair& pair, const std::string& where) const {
    const int64_t total = int64_t(pair.context.size() + pair.continuation.size());
    const int64_t over = total - (max_length_ + 1);
    if (over <= 0) return;
    if (over >= int64_t(pair.context.size()))
      throw usage_error("a choice has " + std::to_string(pair.continuation.size()) +
                            " tokens, the model takes " + std::to_string(max_length_),
                        where, "use a model with a longer context");
    pair.context.erase(pair.context.begin(), pair.context.begin() + over);
    pair.truncated = true;
  }

  const Tokenizer& tokenizer_;
  int64_t max_length_;
  int32_t prefix_ = -1;
  std::string prefix_text_;
};

}  // namespace ptq::eval
