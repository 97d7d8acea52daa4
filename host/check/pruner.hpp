// A pruning method (ptq.prune/1) at work on a made-up model of two layers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "host/check/session.hpp"

namespace ptq::check {

// An instance that prunes the model; SKIP where it does not with these options.
class Pruner {
 public:
  Pruner(const ptq_method& method, const Subject& subject)
      : Pruner(method, subject, default_options(method)) {}
  Pruner(const ptq_method& method, const Subject& subject, const OptionValues& options)
      : session_(method, subject, options), seed_(subject.seed) {
    if (session_.create().status != PTQ_OK) skip("its options are refused");
    table_ = static_cast<const ptq_prune*>(session_.get(PTQ_PRUNE_1));
    if (!table_) skip("with these options it does not prune");
  }
  Session& session() { return session_; }
  const ptq_prune& table() const { return *table_; }
  // A host that measures nothing, whatever is asked for.
  bool silent = false;

  // The scores, or the sentence with which one of the functions refused.
  std::pair<std::vector<double>, std::string> scores() {
    std::vector<double> importance;
    std::string refused;
    for (int32_t l = 0; l < kLayers && refused.empty(); ++l) {
      std::vector<double> of_block[2];
      for (int64_t i = 0; i < int64_t(linears().size()) && refused.empty(); ++i) {
        const Linear& linear = linears()[size_t(i)];
        std::vector<double>& sums = of_block[linear.block];
        sums.resize(size_t(groups_of(linear.block)));
        Numbers given(groups_of(linear.block));
        refused = measure(l, linear, uint64_t(16 * l + i), given);
        for (size_t g = 0; g < sums.size(); ++g) sums[g] += given.values()[g];
      }
      for (const auto& sums : of_block)
        importance.insert(importance.end(), sums.begin(), sums.end());
    }
    if (!refused.empty()) return {{}, refused};
    for (const double x : importance)
      if (std::isnan(x)) fail("measure gave an importance that is not a number");
    Numbers score(kGroups);
    refused = make_scores(importance, score);
    return {score.values(), refused};
  }

 private:
  static constexpr int64_t kLayers = 2, kHidden = 16, kHeads = 2, kPerHead = 3, kDim = 4,
                           kChannels = 9;
  static constexpr int64_t kGroups = kLayers * (kHeads + kChannels);

  // One linear of a layer, its groups and everything that can be measured of it.
  struct Linear {
    std::string kind;
    int block, axis;
    int64_t rows, columns, size;
  };
  static const std::vector<Linear>& linears() {
    constexpr int64_t kQueries = kHeads * kPerHead * kDim;
    static const std::vector<Linear> list = {
        {"q_proj", PTQ_PRUNE_ATTENTION, 0, kQueries, kHidden, kPerHead * kDim},
        {"k_proj", PTQ_PRUNE_ATTENTION, 0, kHeads * kDim, kHidden, kDim},
        {"v_proj", PTQ_PRUNE_ATTENTION, 0, kHeads * kDim, kHidden, kDim},
        {"o_proj", PTQ_PRUNE_ATTENTION, 1, kHidden, kQueries, kPerHead * kDim},
        {"gate_proj", PTQ_PRUNE_MLP, 0, kChannels, kHidden, 1},
        {"up_proj", PTQ_PRUNE_MLP, 0, kChannels, kHidden, 1},
        {"down_proj", PTQ_PRUNE_MLP, 1, kHidden, kChannels, 1}};
    return list;
  }
  static int64_t groups_of(int block) { return block == PTQ_PRUNE_ATTENTION ? kHeads : kChannels; }

  // [n] zeros that the plugin fills.
  class Numbers {
   public:
    explicit Numbers(int64_t n)
        : memory_("its answer", size_t(n) * sizeof(double), alignof(double)) {
      std::memset(memory_.data(), 0, memory_.size());
    }
    double* data() { return reinterpret_cast<double*>(memory_.data()); }
    std::vector<double> values() { return {data(), data() + memory_.size() / sizeof(double)}; }
    void check(const char* function) const {
      if (const std::string where = memory_.written(); !where.empty())
        fail("{} wrote {} its answer", function, where);
    }

   private:
    Guarded memory_;
  };

  bool wants(uint32_t bit) const { return !silent && (table_->wants & bit) != 0; }

  std::string measure(int32_t layer, const Linear& l, uint64_t salt, Numbers& given) {
    if (!table_->measure) return {};
    const auto bell = [&](int64_t rows, uint64_t more, bool squared) {
      std::vector<float> x = bell_curve(1, rows, l.columns, seed_ + 1000 * more + salt);
      if (squared)
        for (float& v : x) v *= v;
      return Input(1, rows, l.columns, x);
    };
    Input weight = bell(l.rows, 1, false), gradient = bell(l.rows, 2, false),
          square = bell(l.rows, 3, true), mean = bell(1, 4, false), mean_square = bell(1, 5, true);
    const ptq_tensor tensors[] = {weight.tensor(true), gradient.tensor(true), square.tensor(true),
                                  mean.vector(), mean_square.vector()};
    const std::string name = "model.layers." + std::to_string(layer) + ".x." + l.kind;
    const ptq_linear linear{sizeof linear,  layer,       name.c_str(),
                            l.kind.c_str(), &tensors[0], nullptr};
    const bool gradients = wants(PTQ_PRUNE_GRADIENT) || wants(PTQ_PRUNE_GRADIENT_SQUARE);
    const ptq_prune_linear shown{sizeof shown,
                                 l.axis,
                                 &linear,
                                 groups_of(l.block),
                                 l.size,
                                 gradients ? &tensors[1] : nullptr,
                                 wants(PTQ_PRUNE_GRADIENT_SQUARE) ? &tensors[2] : nullptr,
                                 wants(PTQ_PRUNE_INPUTS) ? &tensors[3] : nullptr,
                                 wants(PTQ_PRUNE_INPUTS) ? &tensors[4] : nullptr};
    const Answer answer = session_.call("measure", [&](void* method, const ptq_call* call) {
      return table_->measure(method, call, session_.host().lend(shown, "the ptq_prune_linear"),
                             given.data());
    });
    given.check("measure");
    return answer.status == PTQ_OK ? std::string() : answer.sentence;
  }

  std::string make_scores(const std::vector<double>& importance, Numbers& score) {
    std::vector<int32_t> layer, block;
    std::vector<int64_t> cost;
    for (int32_t l = 0; l < kLayers; ++l)
      for (const int32_t b : {PTQ_PRUNE_ATTENTION, PTQ_PRUNE_MLP})
        for (int64_t i = 0; i < groups_of(b); ++i) {
          layer.push_back(l);
          block.push_back(b);
          cost.push_back(b == PTQ_PRUNE_ATTENTION ? 2 * kHidden * (kPerHead + 1) * kDim
                                                  : 3 * kHidden);
        }
    const std::vector<double> growth = {0.5, -0.01}, of_attention = {0.3, 0.1}, of_mlp = {0.2, 2.0},
                              influence = {0.4, 0.1};
    const auto losses = [&](const std::vector<double>& x) {
      return wants(PTQ_PRUNE_LOSSES) ? x.data() : nullptr;
    };
    const ptq_prune_groups groups{sizeof groups,
                                  0,
                                  kLayers,
                                  kGroups,
                                  10000,
                                  layer.data(),
                                  block.data(),
                                  cost.data(),
                                  importance.data(),
                                  losses(growth),
                                  losses(of_attention),
                                  losses(of_mlp),
                                  wants(PTQ_PRUNE_INFLUENCE) ? influence.data() : nullptr};
    const Answer answer = session_.call("score", [&](void* method, const ptq_call* call) {
      return table_->score(method, call, session_.host().lend(groups, "the ptq_prune_groups"),
                           score.data());
    });
    score.check("score");
    return answer.status == PTQ_OK ? std::string() : answer.sentence;
  }

  Session session_;
  uint64_t seed_;
  const ptq_prune* table_ = nullptr;
};

}  // namespace ptq::check
