// kivi_seed and kvquant_seed: the cache methods of an earlier study, as its code defined them. For
// reproduction of its tables only.
//
// Both differ from the methods whose names they bear: the whole history is decoded, grows by one
// token and is encoded again at every step, so that errors add up; statistics of a key channel span
// the whole history; keys are taken after rotation. (huthvincent/ptq-bench, src/methods/kivi.py and
// kvquant.py at c16033f.) The prompt is encoded once, when it is complete.
//   kivi_seed     2 bits, keys: scale and minimum per channel over all tokens; values: per token
//                 over all channels of a head
//   kvquant_seed  the same codes; per token and head the number of largest |x| is kept exactly, and
//                 set to 0 before the codes are chosen
//
// Options
//   key_bits, value_bits  bits per code (2)
//   residual_length       newest tokens in full precision, the query's own included (32)
//   num_outliers          kvquant_seed: numbers kept exactly per token and head (1)
#include <algorithm>

#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;
using ptq::plugin::tensor;

const char* const kBits[] = {"1", "2", "3", "4", "8", nullptr};
const ptq_option kOptions[] = {
    {sizeof(ptq_option), PTQ_OPTION_INT, "key_bits", "2", "bits per code of keys", 0, 0, kBits},
    {sizeof(ptq_option), PTQ_OPTION_INT, "value_bits", "2", "bits per code of values", 0, 0, kBits},
    {sizeof(ptq_option), PTQ_OPTION_INT, "residual_length", "32",
     "newest tokens kept in full precision", 1, 65536, nullptr},
    {sizeof(ptq_option), PTQ_OPTION_INT, "num_outliers", "1",
     "numbers kept exactly per token and head", 1, 16, nullptr},
};
const ptq_option* const kOptionList[] = {&kOptions[0], &kOptions[1], &kOptions[2], &kOptions[3]};

class Rewriting {
 public:
  Rewriting(const Options& o, int64_t outliers)
      : bits_{int(o.integer("key_bits")), int(o.integer("value_bits"))},
        residual_length_(o.integer("residual_length")),
        outliers_(outliers) {}

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

 private:
  int bits_[2];  // keys, values
  int64_t residual_length_, outliers_;
};

class KiviSeed : public Rewriting {
 public:
  static constexpr About about = {
      "kivi_seed", "1.0.0", "KV cache: an earlier study's KIVI, history re-encoded every step",
      "not KIVI (arXiv 2402.02750); see `kivi`"};
  static std::span<const ptq_option* const> options() { return {kOptionList, 3}; }
  explicit KiviSeed(const Options& o) : Rewriting(o, 0) {}
};
class KvquantSeed : public Rewriting {
 public:
  static constexpr About about = {
      "kvquant_seed", "1.0.0",
      "KV cache: an earlier study's KVQuant, history re-encoded every step",
      "not KVQuant (arXiv 2401.18079); see `kvquant`"};
  static std::span<const ptq_option* const> options() { return kOptionList; }
  explicit KvquantSeed(const Options& o) : Rewriting(o, o.integer("num_outliers")) {}
};

}  // namespace

PTQ_PLUGIN("seed", "Apache-2.0", KiviSeed, KvquantSeed)
