// The methods of one subject: an instance of every part, and which of them encodes what.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/results/record.hpp"
#include "ptq/run/plugins.hpp"

namespace ptq {

// The weights sides of several methods as one: each job is done by the one part that offers it.
class JoinedWeights final : public WeightMethod {
 public:
  // Errors: two parts that do the same.
  void add(WeightMethod& part) {
    take(encoder_, part, part.encodes(), "encode the weights");
    take(scaler_, part, part.scales(), "move scales into the weights");
    parts_.push_back(&part);
  }
  bool encodes() const override { return encoder_ != nullptr; }
  InputsWanted encode_wants() const override {
    return encoder_ ? encoder_->encode_wants() : InputsWanted{};
  }
  void encode(const LinearView& linear, RowSink& out) override {
    if (encoder_) encoder_->encode(linear, out);
  }
  bool scales() const override { return scaler_ != nullptr; }
  InputsWanted scale_wants() const override {
    return scaler_ ? scaler_->scale_wants() : InputsWanted{};
  }
  void scale(const Site& site, std::span<float> factor) override {
    if (scaler_) scaler_->scale(site, factor);
  }
  InputsWanted activation_wants() const override {
    for (const WeightMethod* part : parts_)
      if (part->activation_wants().any()) return part->activation_wants();
    return {};
  }
  // Of the first part that rounds them.
  Activation activation(const LinearView& linear) override {
    for (WeightMethod* part : parts_)
      if (const Activation a = part->activation(linear); a.kind != ActivationKind::full) return a;
    return {};
  }

 private:
  static void take(WeightMethod*& job, WeightMethod& part, bool offers, const char* what) {
    if (!offers) return;
    if (job)
      throw usage_error(std::string("two parts of the composition want to ") + what, {},
                        "combine one method of each kind, e.g. smoothquant with quantize = false "
                        "and gptq");
    job = &part;
  }

  WeightMethod *encoder_ = nullptr, *scaler_ = nullptr;
  std::vector<WeightMethod*> parts_;
};

struct MethodSet {
  std::vector<std::unique_ptr<MethodInstance>> instances;
  std::unique_ptr<JoinedWeights> joined;  // where several parts have a weights side
  prune::Method* pruner = nullptr;        // nullptr: the model stays whole
  size_t pruner_part = 0;                 // its place among the parts
  KvMethod* kv = nullptr;                 // nullptr: a full-precision cache
  WeightMethod* weights = nullptr;        // nullptr: the weights stay as they are

  // Largest sums of bytes that the plugins held at one time.
  uint64_t peak_scratch() const {
    uint64_t bytes = 0;
    for (const auto& instance : instances) bytes += instance->peak_scratch();
    return bytes;
  }
  uint64_t peak_bookkeeping() const {
    uint64_t bytes = 0;
    for (const auto& instance : instances) bytes += instance->peak_bookkeeping();
    return bytes;
  }
  // What the methods have changed of the process, as sentences; everything is put back now.
  std::vector<std::string> settle() {
    std::vector<std::string> changes;
    for (const auto& instance : instances)
      for (const std::string& change : instance->settle()) changes.push_back(change);
    return changes;
  }
};

namespace method_set_detail {

inline std::unique_ptr<MethodInstance> make_instance(const Record::Part& part,
                                                     const std::string& file, uint64_t seed) {
  if (sha256_file(file) != part.plugin_sha256) {
    throw environment_error("the plugin was changed while the experiment ran", file,
                            "run the experiment again");
  }
  for (const MethodInfo& info : PluginSet::load(file)) {
    if (info.name == part.method) {
      return std::make_unique<MethodInstance>(info, part.options, seed);
    }
  }
  throw environment_error("the plugin has no method `" + part.method + "`", file);
}

}  // namespace method_set_detail

// files: the plugin of each part. Loads exactly these: a plugin that cannot be loaded must not
// touch other cells. What depends on the model comes with attach().
inline MethodSet make_methods(const std::vector<Record::Part>& parts,
                              const std::vector<std::string>& files, uint64_t seed) {
  MethodSet methods;
  for (size_t i = 0; i < parts.size(); ++i) {
    methods.instances.push_back(method_set_detail::make_instance(parts[i], files.at(i), seed));
    prune::Method* pruner = methods.instances.back()->pruner();
    if (!pruner) continue;
    methods.pruner = pruner;
    methods.pruner_part = i;
  }
  return methods;
}

// The sides of the methods for a model, which is pruned already.
inline void attach(MethodSet& methods, const ModelConfig& config) {
  for (const auto& instance : methods.instances) {
    if (KvMethod* kv = instance->kv(config)) methods.kv = kv;
    WeightMethod* weights = instance->weights();
    if (!weights) continue;
    if (methods.weights != nullptr && !methods.joined) {
      methods.joined = std::make_unique<JoinedWeights>();
      methods.joined->add(*methods.weights);
    }
    if (methods.joined) methods.joined->add(*weights);
    methods.weights = methods.joined ? methods.joined.get() : weights;
  }
}

inline bool wants_calibration(const KvMethod* kv) {
  return kv != nullptr && (kv->wants().samples || kv->wants().fisher);
}
inline bool wants_calibration(const WeightMethod* weights) {
  return weights != nullptr &&
         (weights->scales() || weights->encode_wants().any() || weights->activation_wants().any());
}
inline bool wants_calibration(const MethodSet& methods) {
  return wants_calibration(methods.kv) || wants_calibration(methods.weights);
}

}  // namespace ptq
