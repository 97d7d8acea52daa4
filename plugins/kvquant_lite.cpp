// kvquant_lite: dense-and-sparse quantization of the cache without calibration, after the
// simplified KVQuant of an earlier study, with blocks that are encoded once.
//
// Per token and head the numbers of largest |x| are kept exactly (value, index) and set to 0; what
// is left is quantized uniformly with scale and minimum, keys per channel over group_size tokens,
// values per token over all channels. Unlike the study's version (`kvquant_study`) history is never
// encoded again, keys are taken before their rotation, where channels are steady, and the first
// token stays in full precision. The full method is `kvquant` (arXiv 2401.18079).
//
// Defaults are those of the study's configuration.
#include <algorithm>

#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::tensor;

class KvquantLite {
 public:
  static constexpr About about = {"kvquant_lite", "1.0.0",
                                  "KV cache: uniform codes and exact outliers, no calibration",
                                  "after KVQuant (arXiv 2401.18079)"};

  explicit KvquantLite(Options& o) {
    o.integer("key_bits", bits_[PTQ_KEYS], "bits per code of keys").among({1, 2, 3, 4, 8});
    o.integer("value_bits", bits_[PTQ_VALUES], "bits per code of values").among({1, 2, 3, 4, 8});
    o.integer("num_outliers", outliers_, "numbers kept exactly per token and head").between(0, 16);
    o.integer("residual_length", residual_length_, "newest tokens kept in full precision")
        .between(0, 65536);
    o.integer("group_size", group_size_, "tokens of a key channel that share a scale")
        .between(1, 4096);
    o.integer("sink", sink_, "first tokens kept in full precision").between(0, 4096);
    o.flag("pre_rope", pre_rope_, "encode keys before rotation");
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    keys.sink = values.sink = sink_;
    keys.window = values.window = residual_length_;
    keys.block = group_size_;
    if (pre_rope_) keys.key_space = PTQ_PRE_ROPE;
  }

  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    std::vector<float> rows = ptq::plugin::copy_of(x);
    const int64_t heads = x.shape[0], tokens = x.shape[1], columns = x.shape[2],
                  k = std::min(outliers_, columns);
    const ptq::plugin::Outliers largest =
        ptq::plugin::take_largest(rows.data(), heads * tokens, columns, k);
    const bool keys = block.side == PTQ_KEYS;
    call.affine(tensor(rows.data(), {heads, tokens, columns}), bits_[block.side], PTQ_GRID_MIN,
                keys ? 0 : 1, keys ? group_size_ : 0, out);
    if (k > 0)
      call.outliers(tensor(largest.index.data(), {heads, tokens, k}),
                    tensor(largest.value.data(), {heads, tokens, k}), true, out);
  }

 private:
  int bits_[2] = {2, 2};  // keys, values
  int64_t outliers_ = 1, residual_length_ = 32, group_size_ = 32, sink_ = 1;
  bool pre_rope_ = true;
};

}  // namespace

PTQ_PLUGIN("kvquant_lite", "Apache-2.0", KvquantLite)
