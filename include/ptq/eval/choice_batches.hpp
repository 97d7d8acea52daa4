// Which contexts are computed together: those of about one length, and those that begin with the
// same examples.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptq/eval/choice_requests.hpp"
#include "ptq/tasks/rows.hpp"

namespace ptq::eval {

struct ChoiceBatch {
  std::vector<const ContextRequest*> requests;
  int64_t shared = 0;      // tokens that all of them begin with and that are computed once
  bool new_shared = true;  // they are computed in this batch, not in one before
  // Tokens that it feeds to the model. forks: whether sequences do.
  int64_t tokens(bool forks) const {
    int64_t sum = new_shared ? shared : 0;
    for (const ContextRequest* request : requests)
      sum += (forks ? request->shared_tokens() : request->unforked_tokens()) - shared;
    return sum;
  }
};

namespace choices_detail {

// The tokens with which all of the contexts begin, the last token of none of them among them.
inline int64_t common_tokens(std::span<const ContextRequest* const> requests) {
  const std::vector<int32_t>& first = requests[0]->context;
  int64_t common = int64_t(first.size()) - 1;
  for (const ContextRequest* request : requests) {
    common = std::min(common, int64_t(request->context.size()) - 1);
    const auto differs =
        std::mismatch(first.begin(), first.begin() + common, request->context.begin());
    common = differs.first - first.begin();
  }
  return common;
}

// Tokens in the caches of all sequences of a request: each copy holds the whole context.
inline int64_t held_tokens(const ContextRequest& request) {
  int64_t sum = int64_t(request.context.size());
  for (const ContextRequest::Continuation& c : request.continuations)
    if (c.tokens.size() > 1) sum += int64_t(request.context.size() + c.tokens.size());
  return sum;
}

// Packs requests of one shared beginning, the longest first.
inline void pack(std::vector<const ContextRequest*> requests, int64_t shared, int64_t most_tokens,
                 std::vector<ChoiceBatch>& out) {
  const int64_t most_held = 8 * most_tokens;  // copies of long contexts would fill the memory
  std::stable_sort(requests.begin(), requests.end(),
                   [](const ContextRequest* a, const ContextRequest* b) {
                     return a->shared_tokens() > b->shared_tokens();
                   });
  int64_t tokens = 0, held = 0;
  bool first = true;
  for (const ContextRequest* request : requests) {
    const int64_t own = request->shared_tokens() - shared;
    if (first || tokens + own > most_tokens || held + held_tokens(*request) > most_held) {
      out.push_back({{}, shared, first});
      first = false;
      tokens = held = 0;
    }
    held += held_tokens(*request);
    out.back().requests.push_back(request);
    tokens += own;
  }
}

}  // namespace choices_detail

// The batches of at most `most_tokens` tokens, or of one context. share: contexts with the same
// header and examples are batches of their own that compute these once.
inline std::vector<ChoiceBatch> make_batches(const ChoiceRequests& requests,
                                             const std::vector<tasks::Item>& items,
                                             int64_t most_tokens, bool share) {
  constexpr int64_t kLeastShared = 32;  // tokens; less is not worth a call of its own
  constexpr size_t kLeastTogether = 4;  // contexts
  std::vector<std::vector<const ContextRequest*>> blocks;  // in the order of their first rows
  std::unordered_map<std::string_view, size_t> places;
  std::vector<const ContextRequest*> rest;
  for (const ContextRequest& request : requests.contexts) {
    if (!share) {
      rest.push_back(&request);
      continue;
    }
    const auto [place, added] = places.emplace(items[request.item].block, blocks.size());
    if (added) blocks.emplace_back();
    blocks[place->second].push_back(&request);
  }
  std::vector<ChoiceBatch> out;
  for (const auto& block : blocks) {
    const int64_t shared =
        block.size() >= kLeastTogether ? choices_detail::common_tokens(block) : 0;
    if (shared >= kLeastShared) {
      choices_detail::pack(block, shared, most_tokens, out);
    } else {
      rest.insert(rest.end(), block.begin(), block.end());
    }
  }
  choices_detail::pack(rest, 0, most_tokens, out);
  return out;
}

}  // namespace ptq::eval
