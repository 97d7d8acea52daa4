// The pruned model of a subject: planned, written into a folder of its own, and what the result
// says of it. The folder lives as long as this; engines map its file.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/clock.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/scratch_folder.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/prune/prune.hpp"
#include "ptq/prune/write.hpp"
#include "ptq/run/subject_request.hpp"

namespace ptq {

// What the result says of a pruned model; docs/metrics.md, "Pruning".
inline Json pruning_json(const prune::Pruned& pruned, const prune::Settings& settings,
                         const Anatomy& before) {
  using prune::LayerGradients;
  const double whole = double(pruned.parameters_before);
  Json layers = Json::array();
  const std::vector<double> mlp = prune::mlp_removed(before, pruned.plan);
  for (size_t l = 0; l < pruned.plan.size(); ++l) {
    const Shape& s = before.layers[l].shape;
    layers.push_back({{"key_value_heads", pruned.plan[l].heads.size()},
                      {"key_value_heads_before", s.kv_heads},
                      {"channels", pruned.plan[l].channels.size()},
                      {"channels_before", s.inner},
                      {"mlp_removed", mlp[l]}});
  }
  Json json = {
      {"ratio", settings.amount.ratio},
      {"parameters_before", pruned.parameters_before},
      {"parameters_after", pruned.parameters_after},
      {"removed", (whole - double(pruned.parameters_after)) / whole},
      {"extreme_pruning_layers", prune::extreme_layers(before, pruned.plan)},
      {"layers", layers},
  };
  if (settings.wants.text()) {
    json["seq_len"] = settings.length;
    json["num_samples"] = settings.sequences;
  }
  if (pruned.gradients) {
    const prune::GradientStatistics& s = *pruned.gradients;
    const std::string why =
        std::to_string(s.nonfinite) + " numbers of the gradients are infinite or not a number";
    const std::pair<const char*, double LayerGradients::*> figures[] = {
        {"mean", &LayerGradients::mean},
        {"norm", &LayerGradients::norm},
        {"std", &LayerGradients::deviation},
        {"max", &LayerGradients::largest}};
    for (const auto& [name, what] : figures) {
      const auto [ratio, range] = ratio_and_range(s, what);
      put_number(json, std::string("grad_") + name + "_ratio", ratio, why);
      put_number(json, std::string("grad_") + name + "_range", range, why);
    }
    json["grad_nonfinite"] = s.nonfinite;
    json["grad_batches"] = s.batches;
    put_number(json, "loss", s.loss, "the loss is not finite");
  }
  if (!pruned.removal.layer.empty()) {
    json["loss_without"] = {{"layer", pruned.removal.layer},
                            {"attention", pruned.removal.attention},
                            {"mlp", pruned.removal.mlp}};
  }
  if (!pruned.influence.empty()) json["influence"] = pruned.influence;
  return json;
}

class PrunedModel {
 public:
  // part: of the method's parts, the one that prunes; engine: the model in full precision.
  // progress: share, what is done. Errors: random weights, a text that is missing or too short,
  // what pruning refuses.
  PrunedModel(const SubjectRequest& request, const EngineOptions& options, prune::Method& method,
              size_t part, Engine& engine, const std::function<const Tokenizer&()>& tokenizer,
              const std::function<void(double, const char*)>& progress)
      : folder_(request.scratch) {
    const Stopwatch clock;
    const prune::Settings settings = method.settings();
    const std::string model = request.model.folder.string();
    if (request.model.random_seed)
      throw usage_error("random weights cannot be pruned", model, "name a folder with weights");
    if (settings.wants.text()) read_text(request, settings, engine.config(), tokenizer());
    const prune::Kept kept(request.measurements);
    const prune::Pruned pruned = prune::prune(
        method, {engine, [&] { return make_cpu_gradients(model, options); }, sequences_, kept,
                 identity(request, part), gradient_bytes(request), options.threads, progress});
    progress(1, "writing the pruned model");
    const uint64_t bytes =
        prune::write_pruned(request.model.folder, engine.config(), pruned.plan, folder_.path());
    json_ = pruning_json(pruned, settings, anatomy_of(engine.config()));
    json_["bytes"] = bytes;
    if (!text_.is_null()) json_["calibration"] = text_;
    json_["seconds"] = clock.seconds();
  }

  const std::filesystem::path& folder() const { return folder_.path(); }
  const Json& json() const { return json_; }
  // Of the calibration text; empty where the method wanted none.
  const std::vector<std::vector<int32_t>>& sequences() const { return sequences_; }

 private:
  void read_text(const SubjectRequest& request, const prune::Settings& settings,
                 const ModelConfig& config, const Tokenizer& tokenizer) {
    if (!request.calibration)
      throw calibration_is_missing(request.method.label, request.calibration_where,
                                   request.calibration_hint);
    auto [how, file, sha256] = *request.calibration;
    how.sequences = settings.sequences;
    how.length = settings.length;
    if (settings.length > config.max_position_embeddings)
      throw usage_error("samples of " + std::to_string(settings.length) + " tokens to prune on",
                        request.method.label,
                        "this model allows " + std::to_string(config.max_position_embeddings));
    sequences_ = calibrate::read_sequences(tokenizer, file, how, config.max_position_embeddings,
                                           request.seed);
    text_ = {{"text", how.text},
             {"text_sha256", sha256},
             {"join", how.join},
             {"seed", request.seed},
             {"tokens_sha256", calibrate::tokens_sha256(sequences_)}};
  }
  Json identity(const SubjectRequest& request, size_t part) const {
    return {{"model", request.fingerprint},
            {"compute", compute_word(request.model.compute)},
            {"program", request.build},
            {"plugin", request.method.parts[part].plugin_sha256},
            {"text", text_}};
  }
  static uint64_t gradient_bytes(const SubjectRequest& request) {
    const double gib = request.calibration ? request.calibration->settings.memory_gib : 4;
    return uint64_t(gib * double(1 << 30));
  }

  ScratchFolder folder_;
  Json json_, text_;
  std::vector<std::vector<int32_t>> sequences_;
};

}  // namespace ptq
