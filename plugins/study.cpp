// kivi_study and kvquant_study: the cache methods of an earlier study, as its code defined them.
// For reproduction of its tables only.
//
// Both differ from the methods whose names they bear: the whole history is decoded, grows by one
// token and is encoded again at every step, so that errors add up; statistics of a key channel span
// the whole history; keys are taken after rotation. (huthvincent/ptq-bench, src/methods/kivi.py and
// kvquant.py at c16033f.) The prompt is encoded once, when it is complete.
//   kivi_study     keys: scale and minimum per channel over all tokens; values: per token over all
//                  channels of a head
//   kvquant_study  the same codes; per token and head the number of largest |x| is kept exactly,
//                  and set to 0 before the codes are chosen
#include <algorithm>

#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;
using ptq::plugin::tensor;

class Rewriting {
 public:
  explicit Rewriting(Options& o) {
    o.integer("key_bits", bits_[PTQ_KEYS], "bits per code of keys").among({1, 2, 3, 4, 8});
    o.integer("value_bits", bits_[PTQ_VALUES], "bits per code of values").among({1, 2, 3, 4, 8});
    o.integer("residual_length", residual_length_, "newest tokens kept in full precision")
        .between(1, 65536);
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    for (ptq_kv_policy* p : {&keys, &values}) {
      p->window = residual_length_;
      set_flags(*p, PTQ_KV_CURRENT | PTQ_KV_REWRITES);
    }
  }
  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    std::vector<float> rows = ptq::plugin::copy_of(x);
    const int64_t heads = x.shape[0], tokens = x.shape[1], columns = x.shape[2],
                  k = std::min(outliers_, columns);
    const ptq::plugin::Outliers largest =
        ptq::plugin::take_largest(rows.data(), heads * tokens, columns, k);
    call.affine(tensor(rows.data(), {heads, tokens, columns}), bits_[block.side], PTQ_GRID_MIN,
                block.side == PTQ_KEYS ? 0 : 1, 0, out);
    if (k > 0)
      call.outliers(tensor(largest.index.data(), {heads, tokens, k}),
                    tensor(largest.value.data(), {heads, tokens, k}), true, out);
  }

 protected:
  int64_t outliers_ = 0;

 private:
  int bits_[2] = {2, 2};  // keys, values
  int64_t residual_length_ = 32;
};

class KiviStudy : public Rewriting {
 public:
  static constexpr About about = {
      "kivi_study", "1.0.0", "KV cache: an earlier study's KIVI, history re-encoded every step",
      "not KIVI (arXiv 2402.02750); see `kivi`"};
  explicit KiviStudy(Options& o) : Rewriting(o) {}
};
class KvquantStudy : public Rewriting {
 public:
  static constexpr About about = {
      "kvquant_study", "1.0.0",
      "KV cache: an earlier study's KVQuant, history re-encoded every step",
      "not KVQuant (arXiv 2401.18079); see `kvquant`"};
  explicit KvquantStudy(Options& o) : Rewriting(o) {
    outliers_ = 1;
    o.integer("num_outliers", outliers_, "numbers kept exactly per token and head").between(1, 16);
  }
};

}  // namespace

PTQ_PLUGIN("study", "Apache-2.0", KiviStudy, KvquantStudy)
