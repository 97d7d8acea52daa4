// The gradients of the weights over a calibration set, tensor by tensor, and what they look like.
//
// The gradient of a batch is that of its mean loss; gradients of the batches are added up. A
// model's gradients are as large as its weights in float32, so they are formed for as many tensors
// at a time as the caller's bound allows, with one pass over the set for each such part, and each
// is dropped when the consumer has seen it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/engine/backward.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq::prune {

using Sequences = std::span<const std::vector<int32_t>>;

// Of one layer: over its tensors (norms and biases too) and over the batches, the mean of what is
// taken of the gradient accumulated so far: mean, deviation (n - 1) and largest of its magnitudes,
// and its norm. The gradient is a sum over the batches here.
struct LayerGradients {
  double mean = 0, deviation = 0, largest = 0, norm = 0;
};

struct GradientStatistics {
  std::vector<LayerGradients> layers;
  int64_t batches = 0, nonfinite = 0;  // numbers that were not finite, after the last batch
  double loss = 0;                     // mean over the sequences
};

// Ratio and range over the layers of one of the four: max / (min + 1e-10), max - min.
inline std::pair<double, double> ratio_and_range(const GradientStatistics& s,
                                                 double LayerGradients::*what) {
  if (s.layers.empty()) return {std::nan(""), std::nan("")};
  double lo = HUGE_VAL, hi = -HUGE_VAL;
  for (const LayerGradients& layer : s.layers) {
    if (std::isnan(layer.*what)) return {std::nan(""), std::nan("")};
    lo = std::min(lo, layer.*what);
    hi = std::max(hi, layer.*what);
  }
  return {hi / (lo + 1e-10), hi - lo};
}

// The gradient of one tensor, [rows, columns]: means over the batches of the gradient and, where
// they are wanted, of its square.
struct TensorGradient {
  const std::string& name;
  int layer;
  std::span<const float> mean, mean_square;
};

struct GradientOptions {
  int64_t batch = 4;  // sequences whose mean loss is one gradient
  bool squares = false;
  uint64_t bytes = uint64_t{4} << 30;  // of gradients that are kept at a time
  int threads = 0;                     // 0 = all cores
};

namespace gradients_detail {

// Magnitudes of numbers.
struct Magnitudes {
  double sum = 0, squares = 0, largest = 0;
  int64_t count = 0, nonfinite = 0;
  void add(const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const double v = std::fabs(double(x[i]));
      nonfinite += !std::isfinite(v);
      sum += v;
      squares += v * v;
      largest = std::max(largest, v);
    }
    count += n;
  }
  void add(const Magnitudes& other) {
    sum += other.sum;
    squares += other.squares;
    largest = std::max(largest, other.largest);
    count += other.count;
    nonfinite += other.nonfinite;
  }
  double mean() const { return sum / double(count); }
  double deviation() const {
    if (count < 2) return 0;
    return std::sqrt(std::max(squares - double(count) * mean() * mean(), 0.0) / double(count - 1));
  }
};

// A tensor that is asked for.
struct Asked {
  std::string name;
  int layer;
  int64_t numbers;
};

inline std::vector<Asked> tensors_of(const Anatomy& anatomy) {
  std::vector<Asked> list;
  for (int l = 0; l < int(anatomy.layers.size()); ++l) {
    const LayerPlan& layer = anatomy.layers[size_t(l)];
    if (layer.attention()) list.push_back({layer.input_norm.name + ".weight", l, anatomy.hidden});
    if (layer.mlp()) list.push_back({layer.post_norm.name + ".weight", l, anatomy.hidden});
    for (const auto& norm : {layer.q_norm, layer.k_norm})
      if (norm) list.push_back({norm->name + ".weight", l, layer.shape.head_dim});
    for (const LinearPlan& linear : layer.linears) {
      list.push_back({linear.name + ".weight", l, linear.rows * linear.columns});
      if (linear.bias) list.push_back({linear.name + ".bias", l, linear.rows});
    }
  }
  return list;
}

// Adds up the gradients of some tensors.
class Sums final : public GradientVisitor<float> {
 public:
  Sums(std::span<const Asked> asked, bool squares, ThreadPool& pool)
      : asked_(asked), squares_(squares), pool_(pool) {
    for (const Asked& a : asked) {
      Tensor& t = tensors_[a.name];
      t.sum.resize(size_t(a.numbers));
      if (squares) t.batch.resize(t.sum.size());
      if (squares) t.squares.resize(t.sum.size());
    }
  }
  // Of a sequence of the batch; the batch's gradient is the mean over its sequences.
  void begin_sequence(int64_t in_batch) { weight_ = 1.0f / float(in_batch); }
  bool wants(const std::string& tensor) override { return tensors_.contains(tensor); }
  void gradient(const std::string& tensor, const float* d, int64_t, int64_t) override {
    Tensor& t = tensors_.at(tensor);
    std::vector<float>& to = squares_ ? t.batch : t.sum;
    pieces(int64_t(to.size()), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[size_t(i)] += weight_ * d[i];
    });
  }
  void end_batch(GradientStatistics& statistics) {
    statistics.nonfinite = 0;
    for (const Asked& a : asked_) {
      Tensor& t = tensors_.at(a.name);
      if (squares_) add_batch(t);
      const Magnitudes m = magnitudes(t.sum);
      LayerGradients& layer = statistics.layers[size_t(a.layer)];
      layer.mean += m.mean();
      layer.deviation += m.deviation();
      layer.largest += m.largest;
      layer.norm += std::sqrt(m.squares);
      statistics.nonfinite += m.nonfinite;
    }
  }
  // As a mean over the batches; the tensor is gone afterwards.
  template <class Use>
  void hand_over(int64_t batches, const Use& use) {
    for (const Asked& a : asked_) {
      Tensor t = std::move(tensors_.at(a.name));
      const float by = 1.0f / float(batches);
      for (std::vector<float>* x : {&t.sum, &t.squares})
        for (float& v : *x) v *= by;
      use(TensorGradient{a.name, a.layer, t.sum, t.squares});
    }
  }

 private:
  struct Tensor {
    std::vector<float> sum, batch, squares;
  };
  // Pieces of a fixed size, so that sums do not depend on the number of threads.
  static constexpr int64_t kPiece = 1 << 16;
  template <class Fn>
  void pieces(int64_t n, const Fn& fn) {
    const int64_t count = (n + kPiece - 1) / kPiece;
    const auto one = [&](int64_t p) { fn(p, p * kPiece, std::min((p + 1) * kPiece, n)); };
    if (count == 1) return one(0);
    pool_.for_each(count, one);
  }
  void add_batch(Tensor& t) {
    pieces(int64_t(t.sum.size()), [&](int64_t, int64_t begin, int64_t end) {
      for (size_t i = size_t(begin); i < size_t(end); ++i) {
        t.sum[i] += t.batch[i];
        t.squares[i] += t.batch[i] * t.batch[i];
        t.batch[i] = 0;
      }
    });
  }
  Magnitudes magnitudes(const std::vector<float>& x) {
    std::vector<Magnitudes> parts((x.size() + kPiece - 1) / kPiece);
    pieces(int64_t(x.size()), [&](int64_t p, int64_t begin, int64_t end) {
      parts[size_t(p)].add(x.data() + begin, end - begin);
    });
    Magnitudes all;
    for (const Magnitudes& part : parts) all.add(part);
    return all;
  }

  std::span<const Asked> asked_;
  bool squares_;
  ThreadPool& pool_;
  std::map<std::string, Tensor> tensors_;
  float weight_ = 1;
};

// The length of the first part of `left` that fits.
inline size_t first_part(std::span<const Asked> left, const GradientOptions& options) {
  uint64_t bytes = 0;
  size_t n = 0;
  for (; n < left.size(); ++n) {
    bytes += uint64_t(left[n].numbers) * (options.squares ? 12 : 4);
    if (n > 0 && bytes > options.bytes) break;
  }
  return n;
}

}  // namespace gradients_detail

// use(gradient) for every tensor of the layers, once. Sequences are of one length. progress: share
// that is done.
inline GradientStatistics weight_gradients(Gradients<float>& gradients, Sequences sequences,
                                           const GradientOptions& options,
                                           const std::function<void(const TensorGradient&)>& use,
                                           const std::function<void(double)>& progress) {
  using namespace gradients_detail;
  const Anatomy anatomy = anatomy_of(gradients.config());
  const std::vector<Asked> all = tensors_of(anatomy);
  const int64_t n = int64_t(sequences.size());
  ThreadPool pool(options.threads);
  GradientStatistics s;
  s.layers.resize(anatomy.layers.size());
  s.batches = (n + options.batch - 1) / options.batch;
  int64_t nonfinite = 0;
  for (size_t at = 0; at < all.size();) {
    const std::span<const Asked> left = std::span(all).subspan(at);
    const std::span<const Asked> part = left.first(first_part(left, options));
    Sums sums(part, options.squares, pool);
    double loss = 0;
    for (int64_t first = 0; first < n; first += options.batch) {
      const int64_t end = std::min(first + options.batch, n);
      sums.begin_sequence(end - first);
      for (int64_t i = first; i < end; ++i) {
        loss += gradients.backward(sequences[size_t(i)], sums);
        progress((double(at) + double(part.size()) * double(i + 1) / double(n)) /
                 double(all.size()));
      }
      sums.end_batch(s);
    }
    s.loss = loss / double(n);
    nonfinite += s.nonfinite;
    sums.hand_over(s.batches, use);
    at += part.size();
  }
  s.nonfinite = nonfinite;
  std::vector<int64_t> tensors(s.layers.size());
  for (const Asked& a : all) ++tensors[size_t(a.layer)];
  for (size_t l = 0; l < s.layers.size(); ++l) {
    const double count = double(std::max<int64_t>(tensors[l], 1) * s.batches);
    for (double LayerGradients::*what : {&LayerGradients::mean, &LayerGradients::deviation,
                                         &LayerGradients::largest, &LayerGradients::norm})
      s.layers[l].*what /= count;
  }
  return s;
}

}  // namespace ptq::prune
