// Multiple-choice questions as token requests, and what shares one pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ptq/eval/pair_tokenizer.hpp"
#include "ptq/tasks/rows.hpp"

namespace ptq::eval {

// One context with all that is scored behind it, of one item.
struct ContextRequest {
  size_t item;  // position in the list of items
  std::vector<int32_t> context;
  struct Continuation {
    size_t choice;
    std::vector<int32_t> tokens;
  };
  std::vector<Continuation> continuations;

  // Tokens that are computed where continuations share the context, and where they do not.
  int64_t shared_tokens() const {
    int64_t sum = int64_t(context.size());
    for (const Continuation& c : continuations) sum += int64_t(c.tokens.size()) - 1;
    return sum;
  }
  // The same where sequences do not fork: a pass for each longer continuation, which the short ones
  // share.
  int64_t unforked_tokens() const {
    int64_t sum = shared_tokens(), longer = 0;
    for (const Continuation& c : continuations) longer += c.tokens.size() > 1;
    return sum + std::max<int64_t>(longer - 1, 0) * int64_t(context.size());
  }
  int64_t single_tokens() const {
    int64_t sum = 0;
    for (const Continuation& c : continuations)
      sum += int64_t(context.size() + c.tokens.size()) - 1;
    return sum;
  }
};

struct ChoiceRequests {
  std::vector<ContextRequest> contexts;
  int64_t truncated = 0;  // pairs
};

// The requests of all items, in their order.
inline ChoiceRequests make_requests(const std::vector<tasks::Item>& items,
                                    const PairTokenizer& tokenizer, const std::string& delimiter,
                                    const std::string& file) {
  ChoiceRequests out;
  for (size_t i = 0; i < items.size(); ++i) {
    const tasks::Question& question = items[i].question;
    const std::string where = file + ", row " + std::to_string(items[i].row);
    const size_t first = out.contexts.size();
    for (size_t choice = 0; choice < question.choices.size(); ++choice) {
      TokenPair pair = tokenizer.encode(items[i].block + question.context(choice),
                                        delimiter + question.continuation(choice), where);
      out.truncated += pair.truncated;
      auto same = std::find_if(
          out.contexts.begin() + long(first), out.contexts.end(),
          [&](const ContextRequest& request) { return request.context == pair.context; });
      if (same == out.contexts.end()) {
        out.contexts.push_back({i, std::move(pair.context), {}});
        same = std::prev(out.contexts.end());
      }
      same->continuations.push_back({choice, std::move(pair.continuation)});
    }
  }
  return out;
}

}  // namespace ptq::eval
