// Calibration of a cache method: it is shown the keys and values of some sequences, and the squared
// gradients of the loss with respect to them (the diagonal of the Fisher information, KVQuant,
// arXiv 2401.18079, section 3.3).
//
// A method sees all sequences of one layer and side at once, so the samples of all layers are kept
// until the last sequence is through: 4 bytes a number, 8 with gradients. Of 16 x 2048 tokens that
// is 7 GiB for Qwen2.5-7B and 16 GiB for Llama-3.1-8B with gradients, 256 MiB for the embedded
// models. Beyond the bound that the caller sets only the first sequences are used, as many as fit,
// one at least.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq::calibrate {

// What a calibration was made of, for the result.
struct KvCalibration {
  int64_t sequences = 0, length = 0;  // that were used; tokens of each
  double loss = std::nan("");         // mean of the sequences, nats; only with gradients
  uint64_t sample_bytes = 0;
};

namespace kv_samples_detail {

// One sequence after the other of one length goes into the samples of every layer and side.
class Samples final : public GradientVisitor<float> {
 public:
  Samples(const ModelConfig& config, bool rotated_keys, bool fisher, int64_t sequences,
          int64_t length, std::function<void()> each_layer)
      : length_(length), rotated_keys_(rotated_keys), each_layer_(std::move(each_layer)) {
    for (const LayerPlan& layer : anatomy_of(config).layers)
      for (int side = 0; side < 2; ++side) {
        const size_t numbers = size_t(sequences * length * layer.shape.kv_width());
        sides_.push_back({layer.shape.kv_width(), std::vector<float>(numbers),
                          std::vector<float>(fisher ? numbers : 0)});
      }
  }

  void next(int64_t sequence) { sequence_ = sequence; }

  void keys_values(int layer, const KvGradients<float>& kv) override {
    keep(layer, KvSide::keys, rotated_keys_ ? kv.rotated_keys : kv.keys,
         rotated_keys_ ? kv.d_rotated_keys : kv.d_keys);
    keep(layer, KvSide::values, kv.values, kv.d_values);
    each_layer_();
  }

  // Shows one layer and side to the method and forgets it.
  void hand_over(KvMethod& method, int layer, KvSide which) {
    Side side = std::move(at(layer, which));
    method.calibrate(which, layer, int64_t(side.x.size()) / side.width, length_, side.x.data(),
                     side.fisher.empty() ? nullptr : side.fisher.data());
  }

 private:
  struct Side {
    int64_t width;                 // kv_heads * head_dim
    std::vector<float> x, fisher;  // [sequences * length, kv_heads, head_dim]
  };
  Side& at(int layer, KvSide side) { return sides_[size_t(2 * layer + int(side))]; }

  void keep(int layer, KvSide which, const float* x, const float* d) {
    Side& side = at(layer, which);
    const int64_t n = length_ * side.width;
    float* to = side.x.data() + sequence_ * n;
    std::copy_n(x, n, to);
    check(to, "a number of the cache", layer, which);
    if (side.fisher.empty()) return;
    float* squared = side.fisher.data() + sequence_ * n;
    for (int64_t i = 0; i < n; ++i) squared[i] = d[i] * d[i];
    check(squared, "the squared gradient of the loss", layer, which);
  }
  void check(const float* x, const char* what, int layer, KvSide side) {
    const int64_t width = at(layer, side).width, n = length_ * width;
    const float* bad = std::find_if(x, x + n, [](float v) { return !std::isfinite(v); });
    if (bad == x + n) return;
    throw Error(ExitCode::disagree, std::string(what) + " is not finite",
                "layer " + std::to_string(layer) + (side == KvSide::keys ? " keys" : " values") +
                    ", calibration sequence " + std::to_string(sequence_) + ", position " +
                    std::to_string((bad - x) / width),
                "a damaged weight or an overflow does this; try another calibration.text");
  }

  int64_t length_, sequence_ = 0;
  bool rotated_keys_;
  std::function<void()> each_layer_;
  std::vector<Side> sides_;  // [layers, 2]
};

}  // namespace kv_samples_detail

// Shows the method what it wants, layer by layer, keys first and in the key space of its policy.
// Sequences are of one length. progress: share that is done.
inline KvCalibration calibrate_kv(Gradients<float>& gradients, KvMethod& method,
                                  std::span<const std::vector<int32_t>> sequences,
                                  uint64_t max_bytes, const std::function<void(double)>& progress) {
  const ModelConfig& c = gradients.config();
  const bool fisher = method.wants().fisher, rotated_keys = !method.policy(KvSide::keys).pre_rope;
  KvCalibration result;
  result.length = int64_t(sequences.front().size());
  const uint64_t sequence_bytes =
      kv_bytes_per_token_fp16(c) / 2 * uint64_t(result.length) * (fisher ? 8 : 4);
  result.sequences =
      int64_t(std::clamp<uint64_t>(max_bytes / sequence_bytes, 1, uint64_t(sequences.size())));
  result.sample_bytes = uint64_t(result.sequences) * sequence_bytes;

  int64_t layers_done = 0;
  kv_samples_detail::Samples samples(c, rotated_keys, fisher, result.sequences, result.length, [&] {
    progress(double(++layers_done) / double(result.sequences * c.num_hidden_layers));
  });
  double loss = 0;
  for (int64_t i = 0; i < result.sequences; ++i) {
    samples.next(i);
    if (fisher) {
      loss += gradients.backward(sequences[size_t(i)], samples);
    } else {
      gradients.forward(sequences[size_t(i)], samples);
    }
  }
  if (fisher) result.loss = loss / double(result.sequences);
  const Anatomy anatomy = anatomy_of(c);
  for (int layer = 0; layer < int(c.num_hidden_layers); ++layer)
    for (const KvSide side : {KvSide::keys, KvSide::values})
      if (anatomy.layers[size_t(layer)].attention()) samples.hand_over(method, layer, side);
  return result;
}

}  // namespace ptq::calibrate
