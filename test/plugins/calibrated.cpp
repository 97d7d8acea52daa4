// A correct cache method that has to be calibrated: it learns the largest number of every layer and
// side and encodes with 8 bits inside that range. What it is shown is checked on the way.
#include <cmath>
#include <map>
#include <vector>

#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Invalid;
using ptq::plugin::Options;

class Calibrated {
 public:
  static constexpr About about = {"calibrated", "1.0.0", "8 bits inside a range that is learned",
                                  ""};

  explicit Calibrated(Options& o) {
    o.integer("wants", wants_, "0 nothing, 1 samples, 2 gradients, 3 both").between(0, 3);
  }

  void policy(const ptq_kv_shape& shape, ptq_kv_policy& keys, ptq_kv_policy& values) {
    heads_ = shape.kv_heads, dim_ = shape.head_dim;
    keys.block = values.block = 16;
  }

  uint32_t wants() const { return wants_; }
  void calibrate(const Call&, const ptq_kv_block& rows, const ptq_tensor& x,
                 const ptq_tensor* fisher) {
    if (x.ndim != 3 || x.shape[1] != heads_ || x.shape[2] != dim_)
      throw Invalid("the sample is not [tokens, kv_heads, head_dim]");
    if (rows.first != 0 || rows.tokens < 1 || x.shape[0] % rows.tokens != 0)
      throw Invalid("the sample does not consist of whole sequences");
    if ((fisher != nullptr) != ((wants_ & PTQ_WANT_FISHER) != 0))
      throw Invalid("gradients are there exactly when they are wanted");
    const int64_t n = x.shape[0] * heads_ * dim_;
    float largest = 0;
    for (int64_t i = 0; i < n; ++i)
      largest = std::max(largest, std::fabs(static_cast<const float*>(x.data)[i]));
    double squared = 0;
    for (int64_t i = 0; fisher && i < n; ++i) {
      const float f = static_cast<const float*>(fisher->data)[i];
      if (!(f >= 0)) throw Invalid("a squared gradient is negative");
      squared += f;
    }
    if (fisher && squared == 0) throw Invalid("all gradients are zero");
    if (!largest_.emplace(std::pair(rows.layer, rows.side), largest).second)
      throw Invalid("a layer and side is calibrated twice");
  }

  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    if (x.ndim != 3 || x.dtype.bits != 32) throw Invalid("float32 with three axes is expected");
    float range = INFINITY;
    if (wants_ != 0) {
      const auto found = largest_.find({block.layer, block.side});
      if (found == largest_.end()) throw Invalid("no calibration sample was given");
      range = 0.8f * found->second;  // so that what was learned matters to every block
    }
    std::vector<float> inside;
    for (int64_t head = 0; head < x.shape[0]; ++head)
      for (int64_t row = 0; row < x.shape[1]; ++row)
        for (int64_t c = 0; c < x.shape[2]; ++c) {
          const float v = static_cast<const float*>(
              x.data)[head * x.stride[0] + row * x.stride[1] + c * x.stride[2]];
          inside.push_back(std::fmax(-range, std::fmin(range, v)));
        }
    ptq_tensor view = x;
    view.data = inside.data();
    view.stride[0] = x.shape[1] * x.shape[2], view.stride[1] = x.shape[2], view.stride[2] = 1;
    call.affine(view, 8, PTQ_GRID_MIN, 1, 0, out);
  }

 private:
  uint32_t wants_ = PTQ_WANT_SAMPLES | PTQ_WANT_FISHER;
  int64_t heads_ = 0, dim_ = 0;
  std::map<std::pair<int32_t, int32_t>, float> largest_;  // (layer, side)
};

}  // namespace

PTQ_PLUGIN("calibrated", "Apache-2.0", Calibrated)
