// Answers that a model writes by itself: of each next token the most likely one, many sequences
// side by side. What a query reads follows the regime as in choice_scorer.hpp: under prefill_exact
// and prefill_encoded the context without its last token is prefilled.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/eval/forward_seconds.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/score_book.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/tasks/written_answer.hpp"

namespace ptq::eval {

class AnswerWriter {
 public:
  // whose: for messages.
  AnswerWriter(Engine& engine, KvMethod* kv, Regime regime, const LayerNoise& noise,
               const Tokenizer& tokenizer, const tasks::AnswerRules& rules, int64_t max_new_tokens,
               const char* whose)
      : engine_(engine),
        kv_(kv),
        regime_(regime),
        noise_(noise),
        tokenizer_(tokenizer),
        rules_(rules),
        max_new_tokens_(max_new_tokens),
        whose_(whose) {}

  // Together. An answer ends with a stop of the rules, a token that ends texts, or the limit.
  std::vector<ScoredContext> write(std::span<const ContextRequest* const> requests) {
    std::vector<ScoredContext> out(requests.size());
    std::vector<Lane> lanes(requests.size());
    for (size_t i = 0; i < lanes.size(); ++i) {
      lanes[i].sequence = engine_.start(kv_);
      if (noise_.relative != 0) lanes[i].sequence->disturb(noise_);
      lanes[i].fed = requests[i]->context;
    }
    double seconds = 0;
    if (regime_ != Regime::streaming) {
      std::vector<Request> prefills;
      for (Lane& lane : lanes) {
        const int64_t most = int64_t(lane.fed.size()) - 1;
        if (most > 0) prefills.push_back({*lane.sequence, lane.fed.first(size_t(most)), most, {}});
        lane.fed = lane.fed.last(1);
      }
      seconds += forward_seconds(engine_, prefills, regime_);
      for (Lane& lane : lanes) lane.before = lane.sequence->reads();
    }
    for (std::vector<Request> calls; !(calls = next_calls(lanes)).empty();) {
      seconds += forward_seconds(engine_, calls, Regime::streaming);
      for (Lane& lane : lanes) advance(lane);
    }
    for (size_t i = 0; i < lanes.size(); ++i) {
      add_reads(out[i].reads, lanes[i].sequence->reads(), lanes[i].before);
      out[i].bytes = lanes[i].sequence->bytes();
      out[i].written = std::move(lanes[i].written);
    }
    out[0].seconds = seconds;
    return out;
  }

  // The text of an answer, as the rules end it.
  std::string text(const std::vector<int32_t>& written) const {
    return rules_.cut(tokenizer_.decode(written, true));
  }

 private:
  struct Lane {
    std::unique_ptr<Sequence> sequence;
    std::span<const int32_t> fed;  // with the next call
    CacheReads before;
    int32_t next = -1;  // the most likely token behind it
    std::vector<int32_t> written;
    bool done = false;
  };

  std::vector<Request> next_calls(std::vector<Lane>& lanes) {
    std::vector<Request> calls;
    for (Lane& lane : lanes) {
      if (lane.done) continue;
      const int64_t last = int64_t(lane.fed.size()) - 1;
      const int64_t position = lane.sequence->length() + last;
      calls.push_back(
          {*lane.sequence, lane.fed, last,
           [this, &lane, position](int64_t, int64_t, const float* logits) {
             lane.next = read_logits(logits, engine_.config().vocab_size, position, whose_).argmax;
           }});
    }
    return calls;
  }

  void advance(Lane& lane) const {
    if (lane.done) return;
    const auto& ends = engine_.config().eos_token_ids;
    lane.done = std::find(ends.begin(), ends.end(), lane.next) != ends.end();
    if (lane.done) return;
    lane.written.push_back(lane.next);
    lane.fed = std::span<const int32_t>(&lane.written.back(), 1);
    lane.done = int64_t(lane.written.size()) >= max_new_tokens_ ||
                rules_.ended(tokenizer_.decode(lane.written, true));
  }

  Engine& engine_;
  KvMethod* kv_;
  Regime regime_;
  LayerNoise noise_;
  const Tokenizer& tokenizer_;
  const tasks::AnswerRules& rules_;
  int64_t max_new_tokens_;
  const char* whose_;
};

}  // namespace ptq::eval
