// KIVI: tuning-free asymmetric quantization of the KV cache (arXiv 2402.02750).
//
// Keys have outliers in fixed channels, so they are grouped along the tokens of a channel; values
// do not, so they are grouped along the channels of a token. Scale and minimum are float16; a tail
// of keys and the last values stay in full precision. Written after the paper and the behaviour of
// jy-yuan/KIVI (models/llama_kivi.py, quant/new_pack.py):
//   keys    are encoded residual_length at a time, when the tail is full        {0, 0, R}
//   values  are encoded one token at a time, when R newer ones exist             {0, R, 1}
// The option `rotate` is not KIVI's: rows are stored after an orthonormal Hadamard rotation
// (QuaRot, arXiv 2404.00456), which spreads outlier channels; keys are then the better grouped per
// token.
#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Invalid;
using ptq::plugin::Options;
using ptq::plugin::set_flags;

class Kivi {
 public:
  static constexpr About about = {"kivi", "1.1.0",
                                  "KV cache: keys per channel, values per token, asymmetric",
                                  "KIVI (arXiv 2402.02750)"};
  static constexpr bool runs_on_cuda = true;  // the host rounds and packs, on either device

  explicit Kivi(Options& o) {
    int bits = 2;
    o.integer("bits", bits, "bits per code, keys and values").among({1, 2, 4, 8});
    o.integer("key_bits", bits_[PTQ_KEYS], "bits of keys; 0 = bits").among({0, 1, 2, 4, 8});
    o.integer("value_bits", bits_[PTQ_VALUES], "bits of values; 0 = bits").among({0, 1, 2, 4, 8});
    o.integer("group_size", group_size_, "tokens (keys) or channels (values) that share a scale")
        .between(1, 4096);
    o.integer("residual_length", residual_length_,
              "R: newest tokens kept in full precision; a multiple of group_size")
        .between(1, 65536);
    o.word("key_axis", key_axis_, "what shares a scale of keys: channel (KIVI) or token",
           {{"channel", 0}, {"token", 1}});
    o.flag("rotate", rotate_, "store rows after a Hadamard rotation");

    for (int& side : bits_)
      if (side == 0) side = bits;
    if (residual_length_ % group_size_ != 0)
      throw Invalid("residual_length = " + std::to_string(residual_length_) +
                    " is not a multiple of group_size = " + std::to_string(group_size_));
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    keys.block = residual_length_;
    values.window = residual_length_;
    values.block = 1;
    if (!rotate_) return;
    set_flags(keys, PTQ_KV_HADAMARD);
    set_flags(values, PTQ_KV_HADAMARD);
  }

  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    const int axis = block.side == PTQ_KEYS ? key_axis_ : 1;
    call.affine(x, bits_[block.side], PTQ_GRID_MIN, axis, group_size_, out);
  }

 private:
  int bits_[2] = {0, 0};  // keys, values
  int64_t group_size_ = 32, residual_length_ = 128;
  int key_axis_ = 0;
  bool rotate_ = false;
};

}  // namespace

PTQ_PLUGIN("kivi", "Apache-2.0", Kivi)
