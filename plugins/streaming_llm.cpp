// StreamingLLM: attention sinks and a sliding window (arXiv 2309.17453). Everything between is
// dropped.
//
// The first tokens take the attention that has nowhere else to go; with them and the newest tokens
// in place, a model goes on for ever at a steady perplexity. Positions are those inside the cache,
// so keys are cached before rotation (mit-han-lab/streaming-llm, kv_cache.py). What was dropped
// cannot be retrieved: the control that shows whether a retrieval test tests retrieval.
#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;

class StreamingLlm {
 public:
  static constexpr About about = {"streaming_llm", "1.0.0",
                                  "KV cache: first and newest tokens only, a control",
                                  "StreamingLLM (arXiv 2309.17453)"};

  explicit StreamingLlm(Options& o) {
    o.integer("start_size", start_, "first tokens that stay").between(0, 65536);
    o.integer("recent_size", recent_, "newest tokens that stay").between(0, 1048576);
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    keys.key_space = PTQ_PRE_ROPE;
    for (ptq_kv_policy* p : {&keys, &values}) {
      p->sink = start_;
      p->window = recent_;
      set_flags(*p, PTQ_KV_EVICTS);
    }
  }
  void encode(const Call&, const ptq_kv_block&, const ptq_tensor&, ptq_encoding*) {
    throw ptq::plugin::Invalid("rows are dropped, never encoded: PTQ_KV_EVICTS was ignored");
  }

 private:
  int64_t start_ = 4, recent_ = 512;  // recent: beside the query itself; the paper has 2044
};

}  // namespace

PTQ_PLUGIN("streaming_llm", "Apache-2.0", StreamingLlm)
