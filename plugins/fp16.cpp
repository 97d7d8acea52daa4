// FP16: the full-precision baseline, through the same interface and the same cache as every method.
//
// The cache stores every row but the current one in the `dense` encoding; weights stay as they are
// in the model's folder (bf16, f16 or f32), which is what a 16-bit baseline runs from.
#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;

class Fp16 {
 public:
  static constexpr About about = {"fp16", "1.0.0", "full-precision baseline, weights and KV cache",
                                  "", PTQ_LOSSLESS};
  static constexpr bool runs_on_cuda = true;

  explicit Fp16(Options&) {}

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    keys.block = values.block = 1;
  }
  void encode(const Call& call, const ptq_kv_block&, const ptq_tensor& x, ptq_encoding* out) {
    call.dense(x, {PTQ_FLOAT, 16, 1}, out);
  }
  // Unfilled: the layer stays as it is.
  void encode(const Call&, const ptq_linear&, ptq_encoding*) {}
};

}  // namespace

PTQ_PLUGIN("fp16", "Apache-2.0", Fp16)
