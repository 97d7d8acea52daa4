// One method of a plugin, made with its options, as the engine and the evaluations see it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <memory>
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
  // The weights half, or nullptr.
  WeightMethod* weights() {
    const auto* table = capability<ptq_weights>(PTQ_WEIGHTS_1);
    if (!table) return nullptr;
    weights_ = std::make_unique<Weights>(*this, table);
    return weights_.get();
  }

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
  static ptq_tensor matrix_view(const float* x, std::initializer_list<int64_t> shape) {
    ptq_tensor t{};
    t.data = const_cast<float*>(x);
    t.dtype = {PTQ_FLOAT, 32, 1};
    t.ndim = int32_t(shape.size());
    t.device_type = PTQ_CPU;
    t.flags = PTQ_READ_ONLY;
    std::fill(t.shape, t.shape + 6, 1);
    std::copy(shape.begin(), shape.end(), t.shape);
    int64_t stride = 1;
    for (int i = 5; i >= 0; --i) {
      t.stride[i] = stride;
      stride *= t.shape[i];
    }
    return t;
  }

  class Kv final : public KvMethod {
   public:
    Kv(MethodInstance& owner, const ptq_kv* table, const ptq_kv_calibration* calibration,
       const ModelConfig& c)
        : owner_(owner),
          table_(table),
          calibration_(calibration),
          dim_(c.head_dim) {
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
      ptq_tensor view = matrix_view(x, {heads_[size_t(layer)], tokens, dim_});
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
      const ptq_tensor view = matrix_view(x, {tokens, heads, dim_}),
                       squared = matrix_view(fisher, {tokens, heads, dim_});
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
    std::vector<int64_t> heads_;  // kv heads of each layer
    int64_t dim_;
    KvPolicy policy_[2];
  };

  class Weights final : public WeightMethod {
   public:
    Weights(MethodInstance& owner, const ptq_weights* table) : owner_(owner), table_(table) {
      require_host_device(table->devices);
    }
    void encode(int layer, const std::string& name, const std::string& kind, const float* w,
                int64_t rows, int64_t columns, RowSink& out) override {
      const ptq_tensor view = matrix_view(w, {rows, columns});
      const ptq_linear linear{sizeof linear, layer, name.c_str(), kind.c_str(), &view};
      owner_.host_.invoke(
          "encode",
          [&](const ptq_call* call) {
            return table_->encode(owner_.method_, call, &linear, handle(out));
          },
          [&] { return name; });
    }

   private:
    MethodInstance& owner_;
    const ptq_weights* table_;
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
};

}  // namespace ptq
