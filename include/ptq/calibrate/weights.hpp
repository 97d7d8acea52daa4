// Encodes the weights of a model, one block at a time: what enters the linears of a block over the
// calibration set is summed up, the method scales, rounds and encodes, and what leaves the block
// becomes the input of the next. In memory are the hidden states of the set (float32 [tokens,
// hidden]) and the sums of one block.
//
// Order over the network: GPTQ (arXiv 2210.17323, IST-DASLab/gptq llama.py), block by block with
// the outputs of the encoded block, and its `true-sequential` option; AWQ (arXiv 2306.00978),
// inputs of the original model.
#pragma once

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/calibrate/block_inputs.hpp"
#include "ptq/core/error.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/weights/linear.hpp"

namespace ptq::calibrate {

struct WeightsOptions {
  std::span<const std::vector<int32_t>> sequences;  // of tokens; empty: no calibration set
  bool layer_errors = false;  // measures what each encoded linear's output loses on the set
};

// What was done.
struct EncodedWeights {
  int64_t encoded = 0;                         // linear layers
  std::vector<std::string> plain;              // those that stay as they are
  std::map<std::string, int64_t> activations;  // how often each rounding of inputs was chosen
  int64_t scaled_sites = 0;
  // How far folding has moved the output of a block, at most: largest difference over the largest
  // contribution of the block, on the first calibration tokens. NaN without a transform.
  double transform_change = std::numeric_limits<double>::quiet_NaN();
  // |X (W - W')^T| / |X W^T| of each encoded linear, X its inputs (Frobenius norms).
  std::vector<std::pair<std::string, double>> errors;
};

inline const char* activation_name(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::int8_token: return "int8 per token";
    case ActivationKind::int8_static: return "int8 static";
    case ActivationKind::fp8_token: return "fp8 per token";
    case ActivationKind::fp8_static: return "fp8 static";
    case ActivationKind::full: break;
  }
  return "full";
}

namespace weights_detail {

// Several sequences that are run together.
struct Chunk {
  int64_t first_row;  // in the hidden states
  std::vector<int64_t> lengths;
};

class Encoder {
 public:
  Encoder(Engine& engine, WeightMethod& method, const WeightsOptions& options,
          const std::function<void(int, int)>& progress)
      : blocks_(engine.blocks()),
        anatomy_(blocks_.anatomy()),
        method_(method),
        options_(options),
        progress_(progress) {}

  EncodedWeights run() {
    gather_wants();
    if (wanted_.any()) embed();
    for (int l = 0; l < int(anatomy_.layers.size()); ++l) {
      if (wanted_.any())
        calibrated_block(l);
      else
        for (const LinearPlan& linear : anatomy_.layers[size_t(l)].linears)
          encode(l, linear, nullptr);
    }
    if (!anatomy_.tied) encode_head();
    return std::move(result_);
  }

 private:
  void gather_wants() {
    InputsWanted all[] = {method_.encode_wants(), method_.scale_wants(),
                          method_.activation_wants()};
    if (!method_.encodes()) all[0] = {};
    if (!method_.scales()) all[1] = {};
    for (const InputsWanted& w : all) {
      wanted_.columns |= w.columns;
      wanted_.gram |= w.gram;
      wanted_.cross |= w.cross;
      wanted_.sample_rows = std::max(wanted_.sample_rows, w.sample_rows);
      if (w.any()) wanted_.order = std::max(wanted_.order, w.order);
    }
    if (wanted_.cross) wanted_.order = InputOrder::blocks;  // a pass beside the original's
    if (method_.scales()) wanted_.columns = true;           // the inputs that the proof runs on
    wanted_.gram |= options_.layer_errors;
    if (options_.sequences.empty()) wanted_ = {};
    if (method_.scales() && options_.sequences.empty())
      throw usage_error("the method moves scales, which takes a calibration set, and there is none",
                        {}, "name a calibration text");
  }

  void embed() {
    const int64_t h = anatomy_.hidden;
    size_t total = 0;
    for (const std::vector<int32_t>& sequence : options_.sequences) total += sequence.size();
    hidden_.resize(total * size_t(h));  // at once: it is most of the memory
    for (const std::vector<int32_t>& sequence : options_.sequences) {
      const int64_t n = int64_t(sequence.size());
      if (n > Blocks::kRows)
        throw usage_error("a calibration sequence of " + std::to_string(n) + " tokens", {},
                          "weights are calibrated on sequences of at most " +
                              std::to_string(Blocks::kRows) + " tokens: calibration.length");
      if (chunks_.empty() || rows_ - chunks_.back().first_row + n > Blocks::kRows)
        chunks_.push_back({rows_, {}});
      chunks_.back().lengths.push_back(n);
      blocks_.embed(sequence, hidden_.data() + rows_ * h);
      rows_ += n;
    }
    if (wanted_.cross) full_hidden_ = hidden_;
  }

  // Runs the block over all chunks; advance: what leaves it replaces what entered.
  void pass(int l, Tap* tap, bool advance) {
    for (const Chunk& chunk : chunks_) {
      float* x = hidden_.data() + chunk.first_row * anatomy_.hidden;
      blocks_.run(l, chunk.lengths, x, advance ? x : nullptr, tap);
      ++passes_done_;
      tell(l);
    }
  }
  // The same beside the full-precision model, whose states advance.
  void pass_beside(int l, BlockInputs& inputs) {
    for (const Chunk& chunk : chunks_) {
      PassRows full(l);
      float* whole = full_hidden_.data() + chunk.first_row * anatomy_.hidden;
      blocks_.run(l, chunk.lengths, whole, whole, &full);
      inputs.beside(&full);
      blocks_.run(l, chunk.lengths, hidden_.data() + chunk.first_row * anatomy_.hidden, nullptr,
                  &inputs);
      inputs.beside(nullptr);
      ++passes_done_;
      tell(l);
    }
  }
  void tell(int layer) const {
    if (!progress_) return;
    const int of_layer = int(chunks_.size()) * passes_of_layer();
    progress_(std::min(passes_done_, (layer + 1) * of_layer),
              std::max(of_layer, 1) * int(anatomy_.layers.size()));
  }
  int passes_of_layer() const {
    return wanted_.order == InputOrder::full ? 1 : wanted_.order == InputOrder::blocks ? 2 : 5;
  }

  void calibrated_block(int l) {
    const bool full = wanted_.order == InputOrder::full;
    const std::vector<float> probe = first_chunk();  // what enters, before it is replaced
    BlockInputs inputs(l, wanted_, rows_);
    const bool groups = wanted_.order == InputOrder::groups;
    std::map<Point, MeanInputs> means;
    if (!groups || method_.scales()) {
      if (wanted_.cross)
        pass_beside(l, inputs);
      else
        pass(l, &inputs, full);
      for (const Point point : points_of(l)) add_means(means, l, point, inputs);
      if (method_.scales()) fold(l, means, probe, full);
    }
    if (!groups) {
      for (const LinearPlan& linear : anatomy_.layers[size_t(l)].linears)
        encode(l, linear, &means.at(linear.input).view());
    } else {
      for (const Point point : points_of(l)) {
        BlockInputs one(l, wanted_, rows_, {point});
        pass(l, &one, false);
        add_means(means, l, point, one);
        for (const LinearPlan& linear : anatomy_.layers[size_t(l)].linears)
          if (linear.input == point) encode(l, linear, &means.at(point).view());
      }
    }
    if (!full && l + 1 < int(anatomy_.layers.size())) pass(l, nullptr, true);
  }

  // Those of kInputPoints that the layer has, in order.
  std::vector<Point> points_of(int l) const {
    std::vector<Point> points;
    for (const LinearPlan& linear : anatomy_.layers[size_t(l)].linears)
      if (points.empty() || points.back() != linear.input) points.push_back(linear.input);
    return points;
  }
  void add_means(std::map<Point, MeanInputs>& means, int l, Point point, BlockInputs& from) {
    means.insert_or_assign(point,
                           MeanInputs(from.take(point), ++last_id_, anatomy_.point_name(l, point)));
  }
  std::vector<float> first_chunk() const {
    if (!method_.scales()) return {};
    const size_t n = size_t(chunk_rows(chunks_.front()) * anatomy_.hidden);
    return {hidden_.begin(), hidden_.begin() + int64_t(n)};
  }
  static int64_t chunk_rows(const Chunk& chunk) {
    int64_t n = 0;
    for (const int64_t length : chunk.lengths) n += length;
    return n;
  }

  // Asks for the factors of every site of the original block, then moves them.
  void fold(int l, std::map<Point, MeanInputs>& means, const std::vector<float>& probe,
            bool advanced) {
    struct Place {
      SitePlace place;
      Point input;
      std::vector<Role> readers;
      std::vector<float> factor;
    };
    const LayerPlan& plan = anatomy_.layers[size_t(l)];
    std::vector<Place> places;
    if (plan.attention())
      places.push_back(
          {SitePlace::attention_in, Point::attention_in, {Role::q, Role::k, Role::v}, {}});
    if (plan.attention() && plan.shape.heads == plan.shape.kv_heads && !plan.at(Role::v).bias)
      places.push_back({SitePlace::heads_out, Point::heads_out, {Role::o}, {}});
    if (plan.mlp()) {
      places.push_back({SitePlace::mlp_in, Point::mlp_in, {Role::gate, Role::up}, {}});
      places.push_back({SitePlace::mlp_inner, Point::mlp_inner, {Role::down}, {}});
    }
    std::vector<float> before(probe.size());
    if (advanced)
      std::copy_n(hidden_.begin(), probe.size(), before.begin());
    else
      blocks_.run(l, chunks_.front().lengths, probe.data(), before.data(), nullptr);

    for (Place& p : places) {
      Site site{l, p.place, {}};
      std::vector<std::vector<float>> weights;
      for (const Role role : p.readers) {
        const LinearPlan& linear = plan.at(role);
        weights.push_back(decoded(blocks_.weight(l, role)));
        site.linears.push_back(view(l, linear, weights.back().data(), &means.at(p.input).view()));
      }
      p.factor.assign(size_t(plan.at(p.readers.front()).columns), 1.0f);
      method_.scale(site, p.factor);
      for (size_t i = 0; i < p.factor.size(); ++i)
        if (!(p.factor[i] > 0) || !std::isfinite(p.factor[i]))
          throw Error(ExitCode::cells_failed,
                      "a factor of a transform is " + std::to_string(p.factor[i]),
                      anatomy_.point_name(l, p.input) + ", channel " + std::to_string(i),
                      "factors are positive and finite");
    }
    for (const Place& p : places) {
      if (std::all_of(p.factor.begin(), p.factor.end(), [](float f) { return f == 1; })) continue;
      ++result_.scaled_sites;
      for (const Role role : p.readers) {
        blocks_.weight(l, role).multiply(p.factor, {});
        blocks_.changed(l, role);
      }
      if (p.place == SitePlace::attention_in || p.place == SitePlace::mlp_in) {
        blocks_.divide_norm(l, p.input, p.factor);
      } else {
        const Role front = p.place == SitePlace::heads_out ? Role::v : Role::up;
        std::vector<float> inverse;
        for (const float f : p.factor) inverse.push_back(1.0f / f);
        blocks_.weight(l, front).multiply({}, inverse);
        blocks_.changed(l, front);
      }
      means.at(p.input).divide(p.factor);
    }
    prove(l, probe, before);
  }
  void prove(int l, const std::vector<float>& probe, const std::vector<float>& before) {
    std::vector<float> after(probe.size());
    blocks_.run(l, chunks_.front().lengths, probe.data(), after.data(), nullptr);
    double most = 0, contribution = 0;
    for (size_t i = 0; i < probe.size(); ++i) {
      most = std::max(most, std::fabs(double(after[i]) - double(before[i])));
      contribution = std::max(contribution, std::fabs(double(before[i]) - double(probe[i])));
    }
    const double change = contribution > 0 ? most / contribution : most;
    if (std::isnan(result_.transform_change) || change > result_.transform_change)
      result_.transform_change = change;
  }

  static std::vector<float> decoded(const LinearWeight& weight) {
    std::vector<float> w(size_t(weight.scalars()));
    weight.decode(0, weight.out(), w.data());
    return w;
  }
  static LinearView view(int l, const LinearPlan& plan, const float* w,
                         const LinearInputs* inputs) {
    return {l,     plan.name, plan.name.substr(plan.name.rfind('.') + 1),
            w,     plan.rows, plan.columns,
            inputs};
  }

  void encode(int l, const LinearPlan& plan, const LinearInputs* inputs) {
    encode(blocks_.weight(l, plan.role), l, plan.role, inputs);
    if (!inputs && progress_) progress_(++linears_done_, int(kRoles * anatomy_.layers.size()));
  }
  void encode_head() { encode(blocks_.weight(-1, Role::q), -1, Role::q, nullptr); }

  void encode(LinearWeight& linear, int l, Role role, const LinearInputs* inputs) {
    const std::vector<float> w = decoded(linear);
    for (size_t e = 0; e < w.size(); ++e)
      if (!std::isfinite(w[e]))
        throw environment_error("a weight is not finite",
                                linear.name() + ".weight, row " +
                                    std::to_string(int64_t(e) / linear.in()) + ", column " +
                                    std::to_string(int64_t(e) % linear.in()),
                                "the file is damaged; download it again");
    const std::string& name = linear.name();
    const LinearView shown{
        l, name, name.substr(name.rfind('.') + 1), w.data(), linear.out(), linear.in(), inputs};
    linear.set_activation(method_.activation(shown));
    if (linear.activation().kind != ActivationKind::full)
      ++result_.activations[activation_name(linear.activation().kind)];
    if (method_.encodes()) method_.encode(shown, linear);
    if (linear.encoded() && linear.filled()) {
      ++result_.encoded;
      if (options_.layer_errors && inputs)
        result_.errors.emplace_back(name, output_error(linear, w, *inputs));
    } else {
      result_.plain.push_back(name);
    }
    blocks_.changed(l, role);
  }

  // sqrt(tr(D G D^T) / tr(W G W^T)), D = W - W', G = XtX / rows.
  static double output_error(const LinearWeight& linear, const std::vector<float>& w,
                             const LinearInputs& inputs) {
    std::vector<float> d = decoded(linear);
    for (size_t i = 0; i < d.size(); ++i) d[i] = w[i] - d[i];
    const int rows = int(linear.out()), n = int(linear.in());
    const auto energy = [&](const std::vector<float>& m) {
      std::vector<float> product(m.size());
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, n, n, 1.0f, m.data(), n,
                  inputs.gram.data(), n, 0.0f, product.data(), n);
      double sum = 0;
      for (size_t i = 0; i < m.size(); ++i) sum += double(product[i]) * double(m[i]);
      return std::max(sum, 0.0);
    };
    const double whole = energy(w);
    return whole > 0 ? std::sqrt(energy(d) / whole) : 0.0;
  }

  Blocks& blocks_;
  const Anatomy& anatomy_;
  WeightMethod& method_;
  WeightsOptions options_;
  const std::function<void(int, int)>& progress_;
  InputsWanted wanted_;
  std::vector<Chunk> chunks_;
  std::vector<float> hidden_, full_hidden_;  // [rows, hidden]
  int64_t rows_ = 0;
  uint64_t last_id_ = 0;
  int passes_done_ = 0, linears_done_ = 0;
  EncodedWeights result_;
};

}  // namespace weights_detail

// Offers every linear layer to the method, in the order of the pass, the head last unless it is
// tied; the engine runs from the encodings afterwards. progress(done, total) may be empty. Errors:
// a weight that is not finite, what the method refuses.
inline EncodedWeights encode_weights(Engine& engine, WeightMethod& method,
                                     const WeightsOptions& options = {},
                                     const std::function<void(int, int)>& progress = {}) {
  return weights_detail::Encoder(engine, method, options, progress).run();
}

}  // namespace ptq::calibrate
