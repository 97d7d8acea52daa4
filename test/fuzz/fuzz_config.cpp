// config.json: every accepted configuration has sizes that later products can rely on.
#include "ptq/model/anatomy.hpp"
#include "ptq/model/config.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {

bool config(Bytes input) {
  return accepts([&] {
    const ModelConfig c = parse_config(text_of_bytes(input), "config.json");
    require(c.hidden_size > 0 && c.num_hidden_layers > 0 && c.intermediate_size > 0 &&
                c.vocab_size > 0 && c.max_position_embeddings > 0,
            "sizes are positive");
    require(c.head_dim > 0 && c.head_dim % 2 == 0, "the head dimension is even");
    require(c.num_key_value_heads > 0 && c.num_attention_heads % c.num_key_value_heads == 0,
            "query heads are shared evenly");
    require(std::isfinite(c.rms_norm_eps) && c.rms_norm_eps > 0, "eps is a positive float");
    require(c.sliding_window >= 0 && c.window_first_layer >= 0, "a window is not negative");
    for (const int64_t id : c.eos_token_ids) require(id >= 0 && id < c.vocab_size, "eos is a row");
    require(parameter_count(c) > 0, "there are parameters");
    require(kv_bytes_per_token_fp16(c) > 0, "a token needs a cache");
    if (c.head_dim <= 512) {
      for (const float f : rope_of(c).inv_freq) {
        require(std::isfinite(f) && f >= 0, "frequencies are finite");
      }
    }
    if (c.num_hidden_layers <= 64) {
      const uint64_t least = c.tie_word_embeddings ? 2 : 3;
      require(anatomy_of(c).tensors().size() >= least, "a model has tensors");
    }
  });
}

}  // namespace ptq::fuzz
