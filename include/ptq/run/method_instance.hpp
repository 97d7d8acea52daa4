// One method of a plugin, made with its options, as the engine and the evaluations see it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/plugin.h"
#include "ptq/run/host_services.hpp"
#include "ptq/run/plugin_library.hpp"
#include "ptq/run/plugin_prune.hpp"

namespace ptq {

// One instance of a method with its options.
class MethodInstance {
 public:
  MethodInstance(const MethodInfo& info, Json options, uint64_t seed)
      : info_(loaded(info)), host_(info.name, std::move(options), seed) {
    const std::string json = host_.options().dump();
    host_.invoke("create", [&](const ptq_call* call) {
      return info_.table->create(call, json.c_str(), &method_);
    });
  }
  ~MethodInstance() {
    try {
      host_.invoke("destroy", [&](const ptq_call* call) {
        info_.table->destroy(method_, call);
        return PTQ_OK;
      });
    } catch (const Error& e) {
      std::fprintf(stderr, "warning: %s\n", e.what());
    } catch (const std::bad_alloc&) {  // it is not told: its memory ends with this process
    }
  }
  MethodInstance(const MethodInstance&) = delete;
  MethodInstance& operator=(const MethodInstance&) = delete;

  const MethodInfo& info() const { return info_; }
  bool lossless() const { return info_.lossless(); }
  // Largest sums of bytes that the plugin held at one time through call->alloc.
  uint64_t peak_scratch() const { return host_.peak_scratch(); }
  uint64_t peak_bookkeeping() const { return host_.peak_bookkeeping(); }
  // Gets what the method reports of a long call, as a fraction of it; called from any thread.
  void on_progress(std::function<void(double)> report) { host_.on_progress = std::move(report); }
  // What the method has changed of the process that is none of its business, as sentences;
  // everything is put back now.
  std::vector<std::string> settle() { return host_.settle(); }

  // The KV half for a model, or nullptr when the method has none. Lives as long as the instance.
  KvMethod* kv(const ModelConfig& config) {
    const auto* table = capability<ptq_kv>(PTQ_KV_1);
    if (!table) return nullptr;
    kv_ = std::make_unique<Kv>(*this, table, capability<ptq_kv_calibration>(PTQ_KV_CALIBRATION_1),
                               config);
    return kv_.get();
  }
  // What the method does about weights and what enters them, or nullptr.
  WeightMethod* weights() {
    const auto* table = capability<ptq_weights>(PTQ_WEIGHTS_1);
    const auto* transform = capability<ptq_transform>(PTQ_TRANSFORM_1);
    const auto* activations = capability<ptq_activations>(PTQ_ACTIVATIONS_1);
    if (!table && !transform && !activations) return nullptr;
    weights_ = std::make_unique<Weights>(
        *this, table, capability<ptq_weights_calibration>(PTQ_WEIGHTS_CALIBRATION_1), transform,
        activations);
    return weights_.get();
  }
  // What the method removes of a model before all else, or nullptr.
  prune::Method* pruner() {
    const auto* table = capability<ptq_prune>(PTQ_PRUNE_1);
    if (!table) return nullptr;
    pruner_ = std::make_unique<PluginPruner>(host_, method_, table);
    return pruner_.get();
  }
  // Of ptq.math/1; 0: one per core.
  void set_threads(int threads) { host_.threads = threads; }

 private:
  // `info` as this process has it: a description from elsewhere says which file to load.
  static MethodInfo loaded(const MethodInfo& info) {
    if (info.table) return info;
    for (const MethodInfo& own : load_plugin(info.plugin_file))
      if (own.name == info.name) return own;
    throw environment_error("the plugin has no method `" + info.name + "` any more",
                            safe_text(info.plugin_file), "was the file replaced?");
  }
  template <class Table>
  const Table* capability(const char* id) {
    return host_.look("get",
                      [&] { return static_cast<const Table*>(info_.table->get(method_, id)); });
  }
  class Kv final : public KvMethod {
   public:
    Kv(MethodInstance& owner, const ptq_kv* table, const ptq_kv_calibration* calibration,
       const ModelConfig& c)
        : owner_(owner), table_(table), calibration_(calibration), dim_(c.head_dim) {
      for (const LayerPlan& layer : anatomy_of(c).layers) heads_.push_back(layer.shape.kv_heads);
      require_host_device(table->devices);
      const ptq_kv_shape shape{sizeof shape, 0, c.num_hidden_layers, c.num_key_value_heads,
                               c.head_dim};
      ptq_kv_policy out[2] = {};
      for (auto& p : out) p = {sizeof p, PTQ_POST_ROPE, 0, 0, 1, 0, 0};
      owner_.host_.invoke("policy", [&](const ptq_call* call) {
        return table_->policy(owner_.method_, call, &shape, &out[0], &out[1]);
      });
      for (int side = 0; side < 2; ++side) {
        const ptq_kv_policy& p = out[side];
        if (p.sink < 0 || p.window < 0 || p.block < 1 || p.key_space > PTQ_PRE_ROPE)
          throw owner_.host_.plugin_error(
              "policy",
              "answers with sink " + std::to_string(p.sink) + ", window " +
                  std::to_string(p.window) + ", block " + std::to_string(p.block) + ", key space " +
                  std::to_string(p.key_space),
              "sink and window are at least 0, block at least 1, key_space is PTQ_POST_ROPE or "
              "PTQ_PRE_ROPE");
        const auto has = [&](uint32_t flag) { return (p.flags & flag) != 0; };
        const uint32_t known = PTQ_KV_CURRENT | PTQ_KV_HADAMARD | PTQ_KV_EVICTS | PTQ_KV_REWRITES;
        if ((p.flags & ~known) != 0)
          throw owner_.host_.plugin_error("policy",
                                          "sets unknown flags " + std::to_string(p.flags & ~known),
                                          "this host knows PTQ_KV_* of version 1.1");
        if (has(PTQ_KV_HADAMARD) && calibration_)
          throw owner_.host_.plugin_error("policy", "sets PTQ_KV_HADAMARD and wants calibration",
                                          "samples are not rotated; rotate in the method");
        policy_[side] = {p.sink,
                         p.window,
                         p.block,
                         side == 0 && p.key_space == PTQ_PRE_ROPE,
                         has(PTQ_KV_CURRENT),
                         has(PTQ_KV_HADAMARD),
                         has(PTQ_KV_EVICTS),
                         has(PTQ_KV_REWRITES)};
      }
      const KvPolicy &k = policy_[0], &v = policy_[1];
      if (k.evicts != v.evicts || (k.evicts && (k.sink != v.sink || k.window != v.window ||
                                                k.block != v.block || k.current != v.current)))
        throw owner_.host_.plugin_error("policy", "evicts other rows of keys than of values",
                                        "keys and values leave together");
    }
    KvPolicy policy(KvSide side) const override { return policy_[int(side)]; }
    void encode(KvSide side, int layer, int64_t first, int64_t tokens, const float* x,
                RowSink& out) override {
      call(nullptr, side, layer, first, tokens, x, out);
    }
    bool on_cuda() const override { return table_->devices & (1u << PTQ_CUDA); }
    void encode_on(const CudaPlace& place, KvSide side, int layer, int64_t first, int64_t tokens,
                   const float* x, RowSink& out) override {
      call(&place, side, layer, first, tokens, x, out);
    }

   private:
    void call(const CudaPlace* place, KvSide side, int layer, int64_t first, int64_t tokens,
              const float* x, RowSink& out) {
      const int s = int(side);
      const ptq_kv_block block{sizeof block, s, layer, 0, first, tokens};
      ptq_tensor view = read_only_tensor(x, {heads_[size_t(layer)], tokens, dim_});
      if (place) {
        view.device_type = PTQ_CUDA;
        view.device_id = place->device_id;
      }
      owner_.host_.invoke(
          "encode",
          [&](const ptq_call* call) {
            return table_->encode(owner_.method_, call, &block, &view, handle(out));
          },
          [&] {
            return "layer " + std::to_string(layer) + (s ? " values" : " keys") + ", positions " +
                   std::to_string(first) + " to " + std::to_string(first + tokens - 1);
          },
          place);
    }
    Wants wants() const override {
      const uint32_t wants = calibration_ ? calibration_->wants : 0;
      return {(wants & PTQ_WANT_SAMPLES) != 0, (wants & PTQ_WANT_FISHER) != 0};
    }
    void calibrate(KvSide side, int layer, int64_t tokens, int64_t length, const float* x,
                   const float* fisher) override {
      if (!calibration_) return;
      const int s = int(side);
      const int64_t heads = heads_[size_t(layer)];
      const ptq_kv_block rows{sizeof rows, s, layer, 0, 0, length};
      const ptq_tensor view = read_only_tensor(x, {tokens, heads, dim_}),
                       squared = read_only_tensor(fisher, {tokens, heads, dim_});
      owner_.host_.invoke(
          "calibrate",
          [&](const ptq_call* call) {
            return calibration_->calibrate(owner_.method_, call, &rows, &view,
                                           fisher ? &squared : nullptr);
          },
          [&] { return "layer " + std::to_string(layer) + (s ? " values" : " keys"); });
    }

    MethodInstance& owner_;
    const ptq_kv* table_;
    const ptq_kv_calibration* calibration_;  // nullptr: the method wants none
    std::vector<int64_t> heads_;             // kv heads of each layer
    int64_t dim_;
    KvPolicy policy_[2];
  };

  class Weights final : public WeightMethod {
   public:
    Weights(MethodInstance& owner, const ptq_weights* table,
            const ptq_weights_calibration* calibration, const ptq_transform* transform,
            const ptq_activations* activations)
        : owner_(owner),
          table_(table),
          calibration_(calibration),
          transform_(transform),
          activations_(activations) {
      if (table) require_host_device(table->devices);
    }
    bool encodes() const override { return table_ != nullptr; }
    InputsWanted encode_wants() const override {
      return calibration_ ? wanted(calibration_->wanted) : InputsWanted{};
    }
    void encode(const LinearView& linear, RowSink& out) override {
      if (!table_) return;
      const Shown shown(linear, calibration_ != nullptr);
      owner_.host_.invoke(
          "encode",
          [&](const ptq_call* call) {
            return table_->encode(owner_.method_, call, shown.linear(), handle(out));
          },
          [&] { return linear.name; });
    }
    bool scales() const override { return transform_ != nullptr; }
    InputsWanted scale_wants() const override {
      return transform_ ? wanted(transform_->wanted) : InputsWanted{};
    }
    void scale(const Site& site, std::span<float> factor) override {
      if (!transform_) return;
      std::deque<Shown> shown;
      std::vector<const ptq_linear*> linears;
      for (const LinearView& linear : site.linears)
        linears.push_back(shown.emplace_back(linear, true).linear());
      const ptq_site raw{sizeof raw, site.layer, int32_t(site.place), uint32_t(linears.size()),
                         linears.data()};
      owner_.host_.invoke(
          "scale",
          [&](const ptq_call* call) {
            return transform_->scale(owner_.method_, call, &raw, factor.data());
          },
          [&] { return "what enters " + site.linears.front().name; });
    }
    InputsWanted activation_wants() const override {
      return activations_ ? wanted(activations_->wanted) : InputsWanted{};
    }
    Activation activation(const LinearView& linear) override {
      if (!activations_) return {};
      const Shown shown(linear, activations_->wanted.what != 0);
      ptq_activation how{sizeof how, PTQ_ACTIVATION_FULL, 0, 0};
      owner_.host_.invoke(
          "choose",
          [&](const ptq_call* call) {
            return activations_->choose(owner_.method_, call, shown.linear(), &how);
          },
          [&] { return linear.name; });
      const bool fixed =
          how.kind == PTQ_ACTIVATION_INT8_STATIC || how.kind == PTQ_ACTIVATION_FP8_STATIC;
      if (how.kind < PTQ_ACTIVATION_FULL || how.kind > PTQ_ACTIVATION_FP8_STATIC ||
          (fixed && !(how.scale > 0 && std::isfinite(how.scale))) ||
          !(how.outlier_threshold >= 0 && std::isfinite(how.outlier_threshold)))
        throw owner_.host_.plugin_error(
            "choose",
            "answers with kind " + std::to_string(how.kind) + ", scale " +
                std::to_string(how.scale) + ", outlier_threshold " +
                std::to_string(how.outlier_threshold),
            "kind is PTQ_ACTIVATION_*, scale positive for the static kinds, the threshold 0 or "
            "positive",
            linear.name);
      return {ActivationKind(how.kind), fixed ? how.scale : 0, how.outlier_threshold};
    }

   private:
    static InputsWanted wanted(const ptq_inputs_wanted& w) {
      return {(w.what & PTQ_INPUTS_COLUMNS) != 0, (w.what & PTQ_INPUTS_GRAM) != 0,
              (w.what & PTQ_INPUTS_CROSS) != 0,
              (w.what & PTQ_INPUTS_SAMPLE) != 0 ? std::max<int64_t>(w.sample_rows, 0) : 0,
              InputOrder(std::clamp(w.order, 0, 2))};
    }
    // The C structs of one linear, which refer to each other.
    class Shown {
     public:
      Shown(const LinearView& l, bool with_inputs)
          : name_(l.name), kind_(l.kind), weight_(read_only_tensor(l.w, {l.rows, l.columns})) {
        linear_ = {sizeof linear_, l.layer, name_.c_str(), kind_.c_str(), &weight_, nullptr};
        if (!l.inputs || !with_inputs) return;
        const LinearInputs& in = *l.inputs;
        const int64_t n = in.width;
        const auto view = [&](int at, std::span<const float> x,
                              std::initializer_list<int64_t> shape) -> const ptq_tensor* {
          if (x.empty()) return nullptr;
          tensors_[at] = read_only_tensor(x.data(), shape);
          return &tensors_[at];
        };
        inputs_ = {sizeof inputs_,
                   0,
                   in.id,
                   in.rows,
                   view(0, in.mean_square, {n}),
                   view(1, in.mean_abs, {n}),
                   view(2, in.largest, {n}),
                   view(3, in.gram, {n, n}),
                   view(4, in.sample, {int64_t(in.sample.size()) / std::max<int64_t>(n, 1), n}),
                   view(5, in.cross, {n, n})};
        linear_.inputs = &inputs_;
      }
      Shown(const Shown&) = delete;
      Shown& operator=(const Shown&) = delete;
      const ptq_linear* linear() const { return &linear_; }

     private:
      std::string name_, kind_;
      ptq_tensor weight_, tensors_[6];
      ptq_inputs inputs_{};
      ptq_linear linear_{};
    };

    MethodInstance& owner_;
    const ptq_weights* table_;  // nullptr: it encodes none; and so below
    const ptq_weights_calibration* calibration_;
    const ptq_transform* transform_;
    const ptq_activations* activations_;
  };

  static void require_host_device(uint32_t devices) {
    if (!(devices & (1u << PTQ_CPU)))
      throw environment_error("this method does not run on the CPU", {},
                              "its plugin offers other devices only");
  }

  MethodInfo info_;
  HostSide host_;
  void* method_ = nullptr;
  std::unique_ptr<Kv> kv_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<PluginPruner> pruner_;
};

}  // namespace ptq
