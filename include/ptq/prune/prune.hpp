// A model and a method become a plan: everything is measured that the method asks for, the method
// scores the groups, the lowest leave.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/prune/gradients.hpp"
#include "ptq/prune/inputs.hpp"
#include "ptq/prune/kept.hpp"
#include "ptq/prune/method.hpp"
#include "ptq/prune/plan.hpp"

namespace ptq::prune {

// What a model is measured with.
struct Tools {
  Engine& engine;                                                // the model in full precision
  std::function<std::unique_ptr<Gradients<float>>()> gradients;  // made when they are needed
  Sequences sequences;  // of the calibration text; empty where the method wants none
  const Kept& kept;
  Json identity;   // of model, sequences and plugin: the key of what is kept
  uint64_t bytes;  // of gradients at a time
  int threads;     // 0 = all cores
  std::function<void(double, const char*)> progress;  // share of the whole; what is done
};

struct Pruned {
  Plan plan;
  ModelConfig config;  // of the pruned model
  int64_t parameters_before = 0, parameters_after = 0;
  std::optional<GradientStatistics> gradients;  // where the method wanted them
  RemovalLosses removal;                        // growths of the loss; where it wanted them
  std::vector<double> influence;                // the same
};

namespace prune_detail {

inline Json to_json(const GradientStatistics& s) {
  Json layers = Json::array();
  for (const LayerGradients& l : s.layers)
    layers.push_back({l.mean, l.deviation, l.largest, l.norm});
  return {{"layers", layers}, {"batches", s.batches}, {"nonfinite", s.nonfinite}, {"loss", s.loss}};
}
inline GradientStatistics statistics_from_json(const Json& json) {
  GradientStatistics s;
  for (const Json& l : json.at("layers"))
    s.layers.push_back(
        {l[0].get<double>(), l[1].get<double>(), l[2].get<double>(), l[3].get<double>()});
  s.batches = json.at("batches").get<int64_t>();
  s.nonfinite = json.at("nonfinite").get<int64_t>();
  s.loss = json.at("loss").get<double>();
  return s;
}

class Measurement {
 public:
  Measurement(Method& method, const Tools& tools)
      : method_(method),
        settings_(method.settings()),
        tools_(tools),
        anatomy_(anatomy_of(tools.engine.config())),
        groups_(groups_of(anatomy_)),
        importance_(groups_.size()) {
    for (size_t i = groups_.size(); i-- > 0;) first_[{groups_[i].layer, groups_[i].block}] = i;
  }

  Pruned run() {
    Pruned result;
    result.parameters_before = parameter_count(tools_.engine.config());
    measure_importance(result);
    measure_layers(result);
    std::vector<double> score(groups_.size());
    method_.score(
        {groups_, int64_t(anatomy_.layers.size()), result.parameters_before, importance_,
         result.removal.layer, result.removal.attention, result.removal.mlp, result.influence},
        score);
    result.plan = choose(anatomy_, score, result.parameters_before, settings_.amount);
    result.config = pruned_config(tools_.engine.config(), result.plan);
    result.parameters_after = parameter_count(result.config);
    return result;
  }

 private:
  // Importances, and with them the statistics of the gradients, which come from the same pass.
  void measure_importance(Pruned& result) {
    const Wants& wants = settings_.wants;
    const Json key = {{"what", "importance"},         {"of", tools_.identity},
                      {"how", settings_.shares},      {"batch", settings_.batch},
                      {"gradients", wants.gradients}, {"squares", wants.squares},
                      {"inputs", wants.inputs}};
    const auto make = [&]() -> Json {
      Json made = Json::object();
      if (wants.inputs) look_at_inputs(1);
      if (wants.gradients || wants.squares)
        made["gradients"] = to_json(with_gradients());
      else
        for (int l = 0; l < int(anatomy_.layers.size()); ++l)
          for (const LinearPlan& linear : anatomy_.layers[size_t(l)].linears)
            measure(l, linear, {}, {});
      made["importance"] = importance_;
      return made;
    };
    const Json made = settings_.shares.empty() || !wants.text() ? make() : kept(key, make);
    importance_ = made.at("importance").get<std::vector<double>>();
    if (made.contains("gradients")) result.gradients = statistics_from_json(made.at("gradients"));
  }

  GradientStatistics with_gradients() {
    std::map<std::string, std::pair<int, const LinearPlan*>> linears;
    for (int l = 0; l < int(anatomy_.layers.size()); ++l)
      for (const LinearPlan& linear : anatomy_.layers[size_t(l)].linears)
        linears[linear.name + ".weight"] = {l, &linear};
    const auto gradients = tools_.gradients();
    return weight_gradients(
        *gradients, tools_.sequences,
        {settings_.batch, settings_.wants.squares, tools_.bytes, tools_.threads},
        [&](const TensorGradient& g) {
          const auto found = linears.find(g.name);
          if (found == linears.end()) return;
          measure(found->second.first, *found->second.second, g.mean, g.mean_square);
        },
        [&](double share) { tools_.progress(0.8 * share, "gradients"); });
  }

  void look_at_inputs(double share) {
    watcher_.emplace(settings_.wants.inputs, settings_.wants.influence);
    watch(tools_.engine, tools_.sequences, *watcher_,
          [&](double done) { tools_.progress(share * done, "inputs of the layers"); });
  }

  void measure(int layer, const LinearPlan& linear, std::span<const float> gradient,
               std::span<const float> square) {
    const LinearWeight& weight = tools_.engine.blocks().weight(layer, linear.role);
    std::vector<float> w(size_t(weight.scalars()));
    weight.decode(0, weight.out(), w.data());
    const Shape& shape = anatomy_.layers[size_t(layer)].shape;
    const Block block = block_of(linear.role);
    const InputMeans means =
        settings_.wants.inputs ? watcher_->means(layer, linear.input) : InputMeans{};
    std::vector<double> given(size_t(groups_of(shape, block)));
    method_.measure({layer, linear, share_of(shape, linear.role), w.data(), gradient, square,
                     means.mean, means.mean_square},
                    given);
    const size_t first = first_.at({layer, block});
    for (size_t i = 0; i < given.size(); ++i) importance_[first + i] += given[i];
  }

  void measure_layers(Pruned& result) {
    if (settings_.wants.removal) {
      const int64_t all = int64_t(tools_.sequences.size());
      const int64_t n = std::clamp<int64_t>(
          settings_.removal_sequences > 0 ? settings_.removal_sequences : all / 5, 1, all);
      const Json made = kept({{"what", "removal"}, {"of", tools_.identity}, {"sequences", n}},
                             [&] { return removal(tools_.sequences.first(size_t(n))); });
      result.removal.whole = made.at("whole").get<double>();
      made.at("attention").get_to(result.removal.attention);
      made.at("mlp").get_to(result.removal.mlp);
      made.at("layer").get_to(result.removal.layer);
    }
    if (settings_.wants.influence) {
      const Json made = kept({{"what", "influence"}, {"of", tools_.identity}}, [&]() -> Json {
        if (!watcher_) look_at_inputs(1);
        return {{"influence", watcher_->influence()}};
      });
      made.at("influence").get_to(result.influence);
    }
  }

  // Mean growths of the loss over the sequences.
  Json removal(Sequences sequences) const {
    const auto gradients = tools_.gradients();
    RemovalLosses sum;
    const auto add = [&](std::vector<double>& to, const std::vector<double>& losses, double whole) {
      to.resize(losses.size());
      for (size_t l = 0; l < losses.size(); ++l)
        to[l] += (losses[l] - whole) / double(sequences.size());
    };
    for (size_t i = 0; i < sequences.size(); ++i) {
      const RemovalLosses one = gradients->removal_losses(sequences[i]);
      sum.whole += one.whole / double(sequences.size());
      add(sum.attention, one.attention, one.whole);
      add(sum.mlp, one.mlp, one.whole);
      add(sum.layer, one.layer, one.whole);
      tools_.progress(0.8 + 0.2 * double(i + 1) / double(sequences.size()), "removed layers");
    }
    return {
        {"whole", sum.whole}, {"attention", sum.attention}, {"mlp", sum.mlp}, {"layer", sum.layer}};
  }

  Json kept(const Json& key, const std::function<Json()>& make) const {
    return tools_.kept.get(key, make, [&] { tools_.progress(0, "waiting for another cell"); });
  }

  Method& method_;
  Settings settings_;
  const Tools& tools_;
  Anatomy anatomy_;
  std::vector<Group> groups_;
  std::vector<double> importance_;                 // [groups]
  std::map<std::pair<int, Block>, size_t> first_;  // the first group of a block
  std::optional<Watcher> watcher_;
};

}  // namespace prune_detail

// Errors: a score that has no place, what the method refuses, a token id out of range.
inline Pruned prune(Method& method, const Tools& tools) {
  return prune_detail::Measurement(method, tools).run();
}

}  // namespace ptq::prune
