// Log-likelihoods of continuations behind shared contexts, through one engine and one cache.
//
// A context is computed once; its last row scores the first token of every continuation, and the
// longer ones go on in copies of its sequence. What a query reads is the same as in one call for
// each continuation:
//   streaming      every query reads the cache of its moment, so a call may be cut anywhere
//   prefill_exact, prefill_encoded
//                  the context without its last token is prefilled; that token and the
//                  continuations read the cache
//   independent    nothing is kept, so a continuation of several tokens takes its context along
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/choice_requests.hpp"
#include "ptq/eval/forward_seconds.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/score_book.hpp"

namespace ptq::eval {

class ChoiceScorer {
 public:
  // round: applied to the log-probability of each token and to their sum; for the emulation of
  // 16-bit logits. whose: for messages.
  ChoiceScorer(Engine& engine, KvMethod* kv, Regime regime, const LayerNoise& noise,
               float (*round)(float), const char* whose)
      : engine_(engine), kv_(kv), regime_(regime), noise_(noise), round_(round), whose_(whose) {
    forks_ = regime != Regime::independent && start()->fork() != nullptr;
  }

  // Together, in one call of the engine for the contexts and one for the continuations. shared:
  // tokens with which all contexts begin, computed once; streaming only.
  std::vector<ScoredContext> score(std::span<const ContextRequest* const> requests,
                                   int64_t shared) {
    std::vector<ScoredContext> out(requests.size());
    seconds_ = 0;
    std::vector<Lane> lanes = make_lanes(requests, shared, out);
    prefill(lanes);
    feed_continuations(lanes);
    out[0].seconds = seconds_;
    if (round_ != nullptr)
      for (ScoredContext& scored : out)
        for (ChoiceScore& score : scored.scores)
          score.log_prob = double(round_(float(score.log_prob)));
    return out;
  }

  bool forks() const { return forks_; }
  bool shares_prefixes() const { return forks_ && regime_ == Regime::streaming; }

 private:
  // One sequence: a context, and the continuations whose first token its last row scores.
  struct Lane {
    std::unique_ptr<Sequence> sequence;
    std::span<const int32_t> context;  // what is to be fed of it
    std::vector<int32_t> with_answer;  // the same with a continuation, where nothing is kept
    const ContextRequest* request = nullptr;
    ScoredContext* out = nullptr;
    std::vector<size_t> first_of;  // continuations
    std::vector<size_t> goes_on;   // those with more tokens; several only where sequences fork
    CacheReads before;
    bool counts_bytes = true;
  };

  std::unique_ptr<Sequence> start() const {
    std::unique_ptr<Sequence> sequence = engine_.start(kv_);
    if (noise_.relative != 0) sequence->disturb(noise_);
    return sequence;
  }

  // A lane for each context; where sequences do not fork, one for each longer continuation.
  std::vector<Lane> make_lanes(std::span<const ContextRequest* const> requests, int64_t shared,
                               std::vector<ScoredContext>& out) {
    const Sequence* prefix =
        shared > 0 ? shared_prefix(requests[0]->context, shared, out[0].reads) : nullptr;
    std::vector<Lane> lanes;
    for (size_t i = 0; i < requests.size(); ++i) {
      const ContextRequest& request = *requests[i];
      out[i].scores.resize(request.continuations.size());
      std::vector<size_t> all(request.continuations.size()), longer;
      for (size_t c = 0; c < all.size(); ++c) {
        all[c] = c;
        if (request.continuations[c].tokens.size() > 1) longer.push_back(c);
      }
      const size_t first = lanes.size();
      const size_t copies = forks_ ? 1 : std::max<size_t>(longer.size(), 1);
      for (size_t copy = 0; copy < copies; ++copy) {
        Lane one;
        one.request = &request;
        one.out = &out[i];
        one.context = std::span(request.context).subspan(size_t(shared));
        one.counts_bytes = copy == 0;
        if (copy == 0) one.first_of = all;
        if (forks_) {
          one.goes_on = longer;
        } else if (copy < longer.size()) {
          one.goes_on = {longer[copy]};
        }
        one.sequence = prefix != nullptr ? prefix->fork() : start();
        one.before = one.sequence->reads();
        lanes.push_back(std::move(one));
      }
      if (regime_ == Regime::independent)
        for (size_t l = first; l < lanes.size(); ++l) take_answer_along(lanes[l]);
    }
    return lanes;
  }

  // The sequence with the tokens that contexts share; kept for the next call.
  const Sequence* shared_prefix(const std::vector<int32_t>& context, int64_t shared,
                                CacheReads& reads) {
    const std::vector<int32_t> tokens(context.begin(), context.begin() + shared);
    if (prefix_ == nullptr || tokens != prefix_tokens_) {
      prefix_ = start();
      const Request request{*prefix_, tokens, shared, {}};
      run(std::span(&request, 1), Regime::streaming);
      add_reads(reads, prefix_->reads());
      prefix_tokens_ = tokens;
    }
    return prefix_.get();
  }

  static void take_answer_along(Lane& lane) {
    lane.with_answer.assign(lane.context.begin(), lane.context.end());
    if (lane.goes_on.empty()) return;
    const auto& tokens = lane.request->continuations[lane.goes_on[0]].tokens;
    lane.with_answer.insert(lane.with_answer.end(), tokens.begin(), tokens.end() - 1);
  }

  // Feeds the contexts and scores first tokens in their last rows.
  void prefill(std::vector<Lane>& lanes) {
    const bool in_two = regime_ == Regime::prefill_exact || regime_ == Regime::prefill_encoded;
    std::vector<Request> requests;
    if (in_two) {
      for (Lane& lane : lanes) {
        const int64_t most = int64_t(lane.context.size()) - 1;
        if (most > 0)
          requests.push_back({*lane.sequence, lane.context.first(size_t(most)), most, {}});
      }
      run(requests, regime_);
      requests.clear();
    }
    const bool alone = regime_ == Regime::independent;
    for (Lane& lane : lanes) {
      if (in_two) {
        lane.before = lane.sequence->reads();
        lane.context = lane.context.last(1);
      }
      const int64_t last = int64_t(lane.context.size()) - 1;
      const auto tokens = alone ? std::span<const int32_t>(lane.with_answer) : lane.context;
      requests.push_back({*lane.sequence, tokens, last,
                          [this, &lane, last](int64_t row, int64_t rows, const float* logits) {
                            score_rows(lane, row - last, rows, logits);
                          }});
    }
    run(requests, alone ? Regime::independent : Regime::streaming);
    for (Lane& lane : lanes) {
      if (lane.counts_bytes) lane.out->bytes = lane.sequence->bytes();
      add_reads(lane.out->reads, lane.sequence->reads(), lane.before);
    }
  }

  // Rows from the context's last one on; behind it those of the answer that was taken along.
  void score_rows(Lane& lane, int64_t row, int64_t rows, const float* logits) {
    const int64_t vocab = engine_.config().vocab_size;
    for (int64_t r = 0; r < rows; ++r, ++row) {
      const LogitRow scanned =
          read(logits + r * vocab, int64_t(lane.request->context.size()) + row);
      if (row == 0) {
        for (const size_t c : lane.first_of) add(lane, c, 0, scanned);
      } else {
        add(lane, lane.goes_on[0], size_t(row), scanned);
      }
    }
  }

  // What follows the first token of the longer continuations.
  void feed_continuations(std::vector<Lane>& lanes) {
    if (regime_ == Regime::independent) return;
    std::vector<std::unique_ptr<Sequence>> copies;
    std::vector<Request> requests;
    std::vector<CacheReads> before;
    std::vector<ScoredContext*> whose;
    for (Lane& lane : lanes) {
      for (const size_t c : lane.goes_on) {
        const bool last = c == lane.goes_on.back();
        copies.push_back(last ? std::move(lane.sequence) : lane.sequence->fork());
        before.push_back(copies.back()->reads());
        whose.push_back(lane.out);
        const std::span<const int32_t> tokens(lane.request->continuations[c].tokens);
        requests.push_back({*copies.back(), tokens.first(tokens.size() - 1), 0,
                            [this, &lane, c](int64_t row, int64_t rows, const float* logits) {
                              const int64_t vocab = engine_.config().vocab_size;
                              const int64_t position = int64_t(lane.request->context.size()) + row;
                              for (int64_t r = 0; r < rows; ++r)
                                add(lane, c, size_t(row + r) + 1,
                                    read(logits + r * vocab, position + r));
                            }});
      }
    }
    run(requests, Regime::streaming);
    for (size_t i = 0; i < copies.size(); ++i)
      add_reads(whose[i]->reads, copies[i]->reads(), before[i]);
  }

  LogitRow read(const float* logits, int64_t position) {
    return read_logits(logits, engine_.config().vocab_size, position, whose_);
  }

  // Token number `token` of continuation c, predicted by `row`.
  void add(Lane& lane, size_t c, size_t token, const LogitRow& row) const {
    const int32_t id = lane.request->continuations[c].tokens[token];
    ChoiceScore& score = lane.out->scores[c];
    const double log_prob = row.log_prob(id);
    score.log_prob += round_ != nullptr ? double(round_(float(log_prob))) : log_prob;
    score.greedy = score.greedy && row.argmax == id;
  }

  void run(std::span<const Request> requests, Regime regime) {
    seconds_ += forward_seconds(engine_, requests, regime);
  }

  Engine& engine_;
  KvMethod* kv_;
  Regime regime_;
  LayerNoise noise_;
  float (*round_)(float);
  const char* whose_;
  bool forks_;
  std::unique_ptr<Sequence> prefix_;
  std::vector<int32_t> prefix_tokens_;
  double seconds_ = 0;  // of the current batch
};

}  // namespace ptq::eval
