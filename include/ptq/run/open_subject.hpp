// A subject: a model with its methods, calibrated, encoded and ready to be asked. Whoever wants to
// evaluate it, look at its logits or trace its pass opens it here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/calibrate/kv_samples.hpp"
#include "ptq/calibrate/overlap.hpp"
#include "ptq/calibrate/sequences.hpp"
#include "ptq/calibrate/weights.hpp"
#include "ptq/core/clock.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/kept_logits.hpp"
#include "ptq/eval/subject.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/results/record.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/method_set.hpp"
#include "ptq/run/model_source.hpp"
#include "ptq/run/pruned_model.hpp"
#include "ptq/run/subject_request.hpp"

namespace ptq {

// What is told while a subject is opened and asked; either may be empty.
struct SubjectReports {
  // steps: how many of the long steps are done, of which a method may need two, a composition
  // three: pruning, calibrating and encoding the weights.
  std::function<void(double steps, const std::string& doing)> step;
  // What a method says of one long call: its name and a fraction of the call. From any thread.
  std::function<void(const std::string& method, double fraction)> method;
};

namespace subject_detail {

// What was done to the layers; nothing where no layer was touched.
inline Json encoded_json(const calibrate::EncodedWeights& done) {
  Json json = Json::object();
  if (done.encoded > 0) {
    json["layers_encoded"] = done.encoded;
    json["layers_plain"] = done.plain;
  }
  if (!done.activations.empty()) json["activations"] = done.activations;
  if (done.scaled_sites > 0) {
    json["scaled_sites"] = done.scaled_sites;
    put_number(json, "transform_change", done.transform_change, "nothing was measured");
  }
  double sum = 0;
  for (const auto& [name, error] : done.errors) {
    json["layer_errors"][name] = error;
    sum += error;
  }
  if (!done.errors.empty()) json["layer_error_mean"] = sum / double(done.errors.size());
  return json;
}

inline Json weight_bytes_json(const WeightBytes& bytes) {
  Json json = {{"bytes", bytes.total()},
               {"bytes_encoded", bytes.encoded},
               {"bytes_dense", bytes.dense},
               {"encoded_scalars", bytes.encoded_scalars},
               {"dense_scalars", bytes.dense_scalars}};
  const bool any = bytes.encoded_scalars > 0;
  put_number(json, "encoded_bits", any ? bytes.encoded_bits() : std::nan(""),
             "no layer is encoded");
  if (bytes.integer_scalars > 0) json["integer_scalars"] = bytes.integer_scalars;
  return json;
}

}  // namespace subject_detail

// Owns all that an evaluation refers to.
class OpenSubject {
 public:
  OpenSubject(SubjectRequest request, SubjectReports reports)
      : request_(std::move(request)), reports_(std::move(reports)) {
    load();
    if (wants_calibration(methods_)) read_calibration();
    if (wants_calibration(methods_.kv)) calibrate_cache();
    if (methods_.weights != nullptr) encode_weights();
  }
  OpenSubject(const OpenSubject&) = delete;
  OpenSubject& operator=(const OpenSubject&) = delete;

  Engine& engine() { return *engine_; }
  MethodSet& methods() { return methods_; }
  KvMethod* kv() { return methods_.kv; }  // nullptr: a full-precision cache
  const Tokenizer& tokenizer() {
    if (!tokenizer_) tokenizer_ = load_tokenizer(request_.model);
    return *tokenizer_;
  }
  // The model in full precision, unpruned.
  Engine& reference() { return kept_reference_ ? *kept_reference_ : real_reference(); }
  // Encodes the weights of another engine of the model with a method that stands for this one's.
  void encode(Engine& engine, WeightMethod& method) const {
    calibrate::encode_weights(engine, method, {sequences_, false});
  }
  // One more engine of the model, in full precision; pruned where the subject is.
  std::unique_ptr<Engine> another_engine() const { return engine_of(folder()); }
  // As evaluations see it; the subject itself must stay where it is.
  eval::Subject subject(bool with_reference) { return subject(*engine_, with_reference); }
  // The same, its logits through another engine in front of it.
  eval::Subject subject(Engine& engine, bool with_reference) {
    return {engine, methods_.kv, with_reference ? &reference() : nullptr, tokenizer()};
  }

  // What it took.
  double load_seconds() const { return load_seconds_; }
  double calibrate_seconds() const { return calibrate_seconds_; }
  double quantize_seconds() const { return quantize_seconds_; }
  double prune_seconds() const { return pruned_ ? pruned_->json().at("seconds").get<double>() : 0; }
  const PrunedModel* pruned() const { return pruned_.get(); }  // nullptr: the model is whole
  int steps() const { return steps_; }                         // the long ones that there were
  const Json& calibration() const { return calibration_; }     // null: the methods wanted none
  // Share of the 13-grams of a file that the calibration has too.
  double calibration_overlap(const std::string& file) {
    const auto& learnt = sequences_.empty() && pruned_ ? pruned_->sequences() : sequences_;
    return calibrate::overlap(learnt, tokenizer().encode(read_utf8_file(file)));
  }
  const std::vector<std::string>& warnings() const { return warnings_; }
  // Bytes of the resident weights, and which layers the method encoded.
  Json weights() const {
    Json json = subject_detail::weight_bytes_json(engine_->weight_bytes());
    json.update(layers_);
    return json;
  }

 private:
  // Where the methods leave the weights alone, the same engine with a full-precision cache is the
  // reference.
  Engine& real_reference() {
    if (methods_.weights == nullptr && !pruned_) return *engine_;
    if (!second_) second_ = engine_of(request_.model.folder);
    return *second_;
  }
  std::unique_ptr<Engine> engine_of(const std::filesystem::path& model) const {
    return make_engine(request_.device, request_.build, model.string(), options_);
  }
  // Of the model that is run.
  const std::filesystem::path& folder() const {
    return pruned_ ? pruned_->folder() : request_.model.folder;
  }
  void report(double steps, const char* doing) const {
    if (reports_.step) reports_.step(steps, doing);
  }

  void load() {
    const Stopwatch clock;
    report(0, "loading");
    if (request_.with_tokenizer) tokenizer();
    options_ = engine_options(request_.model, request_.threads);
    methods_ = make_methods(request_.method.parts, request_.plugin_files, request_.seed);
    for (const auto& instance : methods_.instances) {
      instance->set_threads(request_.threads);
      instance->on_progress([this, name = instance->info().name](double fraction) {
        if (reports_.method) reports_.method(name, fraction);
      });
    }
    load_seconds_ = clock.seconds();
    if (methods_.pruner != nullptr) prune();
    const Stopwatch loading;
    engine_ = another_engine();
    attach(methods_, engine_->config());
    if (!request_.kept_logits.empty() || request_.reference_is_spare) {
      if (request_.kept_logits.empty())
        kept_.emplace(uint64_t{0});
      else
        kept_.emplace(std::filesystem::path(request_.kept_logits));
      kept_reference_ =
          std::make_unique<KeptEngine>(engine_->config(), *kept_, KeptEngine::Use::read,
                                       [this]() -> Engine& { return real_reference(); });
    } else if (request_.with_reference) {
      real_reference();
    }
    load_seconds_ += loading.seconds();
  }

  void prune() {
    second_ = engine_of(request_.model.folder);
    pruned_ = std::make_unique<PrunedModel>(
        request_, options_, *methods_.pruner, methods_.pruner_part, *second_,
        [this]() -> const Tokenizer& { return tokenizer(); },
        [this](double share, const char* doing) { report(share, doing); });
    if (is_gguf(request_.model.folder))
      warnings_.push_back(
          "pruning turns the blocks of a GGUF file into float32: its bytes are those of other "
          "pruned models and not to be held against the whole model's");
    if (!request_.kept_logits.empty() || request_.reference_is_spare) second_.reset();
    ++steps_;
  }

  // The sequences that all methods of the experiment learn from.
  void read_calibration() {
    if (!request_.calibration) {
      throw calibration_is_missing(request_.method.label, request_.calibration_where,
                                   request_.calibration_hint);
    }
    const auto& [settings, file, sha256] = *request_.calibration;
    sequences_ = calibrate::read_sequences(
        tokenizer(), file, settings, engine_->config().max_position_embeddings, request_.seed);
    calibration_ = {{"text", settings.text},
                    {"text_sha256", sha256},
                    {"join", settings.join},
                    {"sequences", sequences_.size()},
                    {"length", sequences_.front().size()},
                    {"seed", request_.seed},
                    {"tokens_sha256", calibrate::tokens_sha256(sequences_)}};
  }
  void say_used(int64_t used, const char* for_what) {
    if (used >= int64_t(sequences_.size())) return;
    warnings_.push_back(std::string(for_what) + " calibrated on " + std::to_string(used) + " of " +
                        std::to_string(sequences_.size()) +
                        " sequences; calibration.memory_gib allows no more");
    calibration_["sequences"] = used;
  }
  uint64_t calibration_memory() const {
    return uint64_t(request_.calibration->settings.memory_gib * double(1 << 30));
  }

  // Shows the cache method what it wants to learn from.
  void calibrate_cache() {
    const Stopwatch clock;
    const auto gradients = make_cpu_gradients(folder().string(), options_);
    const calibrate::KvCalibration used =
        calibrate::calibrate_kv(*gradients, *methods_.kv, sequences_, calibration_memory(),
                                [&](double share) { report(steps_ + share, "calibrating"); });
    say_used(used.sequences, "cache");
    calibration_["sample_bytes"] = used.sample_bytes;
    put_number(calibration_, "loss", used.loss, "the method wants no gradients");
    ++steps_;
    calibrate_seconds_ = clock.seconds();
  }

  void encode_weights() {
    const Stopwatch clock;
    calibrate::WeightsOptions options;
    const bool errors = request_.calibration && request_.calibration->settings.layer_errors &&
                        !request_.method.lossless;
    if (errors && sequences_.empty()) read_calibration();
    if (errors || wants_calibration(methods_.weights)) {
      const uint64_t each = sequences_.front().size() * 4 * uint64_t(engine_->config().hidden_size);
      const size_t fit = size_t(std::max<uint64_t>(calibration_memory() / each, 1));
      options.sequences = std::span(sequences_).first(std::min(fit, sequences_.size()));
      options.layer_errors = errors;
      say_used(int64_t(options.sequences.size()), "weights");
    }
    layers_ = subject_detail::encoded_json(
        calibrate::encode_weights(*engine_, *methods_.weights, options, [&](int done, int total) {
          report(steps_ + double(done) / std::max(total, 1), "encoding weights");
        }));
    ++steps_;
    quantize_seconds_ = clock.seconds();
  }

  SubjectRequest request_;
  SubjectReports reports_;
  EngineOptions options_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<PrunedModel> pruned_;  // outlives the engines, which map its file
  MethodSet methods_;                    // outlives the engines, whose sequences refer to it
  std::unique_ptr<Engine> engine_, second_;
  std::optional<KeptLogits> kept_;
  std::unique_ptr<KeptEngine> kept_reference_;
  double load_seconds_ = 0, calibrate_seconds_ = 0, quantize_seconds_ = 0;
  int steps_ = 0;
  std::vector<std::vector<int32_t>> sequences_;  // of the calibration
  Json calibration_, layers_ = Json::object();
  std::vector<std::string> warnings_;
};

}  // namespace ptq
