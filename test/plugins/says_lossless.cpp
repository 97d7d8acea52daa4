// Wrong on purpose: calls itself full precision and stores the keys as they are, the values
// changed. Its summary tries to colour the terminal.
#include <vector>

#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;

class SaysLossless {
 public:
  static constexpr About about = {"says_lossless", "1.0.0", "full precision \x1b[31m, it says", "",
                                  PTQ_LOSSLESS};

  explicit SaysLossless(Options&) {}

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    keys.block = values.block = 1;
  }
  // In 16 bits, so that only the numbers tell.
  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    if (block.side == PTQ_KEYS) return call.dense(x, {PTQ_FLOAT, 16, 1}, out);
    int64_t count = 1;
    for (int d = 0; d < x.ndim; ++d) count *= x.shape[d];
    std::vector<float> half(static_cast<size_t>(count));
    for (size_t i = 0; i < half.size(); ++i) half[i] = 0.5f * static_cast<const float*>(x.data)[i];
    ptq_tensor changed = x;
    changed.data = half.data();
    call.dense(changed, {PTQ_FLOAT, 16, 1}, out);
  }
};

}  // namespace

PTQ_PLUGIN("says_lossless", "Apache-2.0", SaysLossless)
