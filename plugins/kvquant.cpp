// KVQuant: calibrated non-uniform quantization of the cache (arXiv 2401.18079).
//
// Keys are taken before rotation, where each channel keeps its range, and scaled per channel by
// ranges found in calibration; values are scaled per token over all heads. Codes point into levels
// ("signposts") that a k-means weighted by the Fisher information found for a layer and side; the
// few numbers outside the range are kept exactly (dense-and-sparse); the first token, the attention
// sink, stays in full precision. After SqueezeAILab/KVQuant (quant/kvquant/
// simquant_module_quantizer.py): every token is read quantized, the query's own included.
//   keys    thresholds lo, up = quantiles of the channel's sample; outliers x <= lo or x >= up
//   values  the same quantiles of the token itself; the range is that of the other numbers
//   nuq     offset = (up + lo) / 2, range = (up - lo) / 2, x ~ level * range + offset
//   uniform x ~ q (up - lo) / (2^bits - 1) + lo
//   Q-norm  levels are shifted and scaled once, so that mean and deviation of what is read equal
//           those of the sample (section 3.6 of the paper)
//
// outlier_share lies half on each side of the range. cap_outliers keeps those farthest out; the
// original has 21. Without nuq no gradients are needed.
#include <algorithm>
#include <cmath>
#include <functional>

#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Invalid;
using ptq::plugin::Options;
using ptq::plugin::set_flags;
using ptq::plugin::tensor;

// The share-quantile of values, linear between its two neighbours. A few of the values from the
// nearer end are all that is looked at.
float quantile(const std::vector<float>& values, double share) {
  const double at = share * double(values.size() - 1), fraction = at - std::floor(at);
  const size_t low = size_t(at), high = std::min(low + 1, values.size() - 1);
  thread_local std::vector<float> sorted;
  double below = 0, above = 0;
  if (share <= 0.5) {
    sorted.resize(high + 1);
    std::partial_sort_copy(values.begin(), values.end(), sorted.begin(), sorted.end());
    below = sorted[low], above = sorted[high];
  } else {
    sorted.resize(values.size() - low);
    std::partial_sort_copy(values.begin(), values.end(), sorted.begin(), sorted.end(),
                           std::greater<float>());
    below = sorted[values.size() - 1 - low], above = sorted[values.size() - 1 - high];
  }
  return float(below + fraction * (above - below));
}

// What a channel, or a token, is scaled by; `scale` and `offset` are float16 numbers.
struct Range {
  float lo, up;         // numbers at and beyond them are outliers
  float scale, offset;  // x = level * scale + offset
  bool outlier(float x) const { return lo < up && (x <= lo || x >= up); }
  float normal(float x) const { return scale > 0 ? (x - offset) / scale : 0.0f; }
};

// Levels in ascending order, and what is read in their place (Q-norm).
struct Levels {
  std::vector<float> chosen, read;
  // Codes of n numbers: how many midpoints lie below each.
  void encode(const float* x, int64_t n, uint8_t* code) const {
    std::fill_n(code, n, uint8_t(0));
    for (size_t i = 1; i < chosen.size(); ++i) {
      const float middle = 0.5f * (chosen[i - 1] + chosen[i]);
      for (int64_t c = 0; c < n; ++c) code[c] = uint8_t(code[c] + (x[c] > middle));
    }
  }
};

// Weighted k-means of numbers in about [-1, 1] on a fine histogram, and their moments.
class Histogram {
 public:
  void add(float x, double weight) {
    const int bin = std::clamp(int((double(x) + 1.25) / 2.5 * kBins), 0, kBins - 1);
    Bin& b = bins_[size_t(bin)];
    b.weight += weight;
    b.sum += weight * x;
    b.count += 1;
    b.plain += x;
    b.square += double(x) * x;
  }

  // Lloyd's iterations from the weighted quantiles; at most 50, as the original.
  std::vector<float> levels(int count) const {
    double total = 0;
    for (const Bin& b : bins_) total += b.weight;
    std::vector<double> level;
    double below = 0;
    for (const Bin& b : bins_) {
      below += b.weight;
      while (b.weight > 0 && int(level.size()) < count &&
             below >= (double(level.size()) + 0.5) / count * total)
        level.push_back(b.sum / b.weight);
    }
    while (int(level.size()) < count) level.push_back(level.empty() ? 0.0 : level.back());
    for (int iteration = 0; iteration < 50; ++iteration) {
      std::vector<double> weight(level.size()), sum(level.size());
      for (const Bin& b : bins_)
        if (b.weight > 0) {
          const size_t c = nearest(level, b.sum / b.weight);
          weight[c] += b.weight;
          sum[c] += b.sum;
        }
      bool moved = false;
      for (size_t c = 0; c < level.size(); ++c)
        if (weight[c] > 0) {
          moved |= std::abs(sum[c] / weight[c] - level[c]) > 1e-9;
          level[c] = sum[c] / weight[c];
        }
      if (!moved) break;
    }
    std::sort(level.begin(), level.end());
    return std::vector<float>(level.begin(), level.end());
  }

  // Levels with which quantized numbers have the mean and the standard deviation of the sample.
  std::vector<float> normalised(const std::vector<float>& level) const {
    const std::vector<double> levels(level.begin(), level.end());
    double n = 0, m1 = 0, s1 = 0, m2 = 0, s2 = 0;
    for (const Bin& b : bins_)
      if (b.count > 0) {
        const double q = levels[nearest(levels, b.plain / b.count)];
        n += b.count;
        m1 += b.plain, s1 += b.square;
        m2 += b.count * q, s2 += b.count * q * q;
      }
    if (n == 0) return level;
    m1 /= n, m2 /= n;
    const double d1 = std::sqrt(std::max(0.0, s1 / n - m1 * m1)),
                 d2 = std::sqrt(std::max(0.0, s2 / n - m2 * m2));
    if (!(d2 > 0)) return level;
    std::vector<float> out;
    for (const double l : levels) out.push_back(float(l * d1 / d2 + (m1 - m2 * d1 / d2)));
    return out;
  }

 private:
  static constexpr int kBins = 1 << 15;
  static size_t nearest(const std::vector<double>& level, double x) {
    size_t best = 0;
    for (size_t i = 1; i < level.size(); ++i)
      if (std::abs(level[i] - x) < std::abs(level[best] - x)) best = i;
    return best;
  }
  struct Bin {
    double weight = 0, sum = 0;               // with the Fisher weights
    double count = 0, plain = 0, square = 0;  // without
  };
  std::vector<Bin> bins_ = std::vector<Bin>(kBins);
};

class Kvquant {
 public:
  static constexpr About about = {
      "kvquant", "1.0.0", "KV cache: calibrated levels, keys before rotation, exact outliers",
      "KVQuant (arXiv 2401.18079)"};

  explicit Kvquant(Options& o) {
    int bits = 2;
    o.integer("bits", bits, "bits per code, keys and values").among({1, 2, 3, 4, 8});
    o.integer("key_bits", bits_[PTQ_KEYS], "bits of keys; 0 = bits").among({0, 1, 2, 3, 4, 8});
    o.integer("value_bits", bits_[PTQ_VALUES], "bits of values; 0 = bits")
        .among({0, 1, 2, 3, 4, 8});
    o.number("outlier_share", outlier_share_, "share of numbers kept exactly; 0 = none")
        .between(0, 0.5);
    o.integer("cap_outliers", cap_,
              "keys: numbers of a token kept exactly above and below, at most; 0 = no cap")
        .between(0, 65536);
    o.flag("nuq", nuq_, "levels from Fisher-weighted k-means; false: uniform");
    o.flag("q_norm", q_norm_, "with nuq: correct mean and deviation of what is read");
    o.integer("sink", sink_, "first tokens kept in full precision").between(0, 4096);

    for (int& side : bits_)
      if (side == 0) side = bits;
  }

  void policy(const ptq_kv_shape& shape, ptq_kv_policy& keys, ptq_kv_policy& values) {
    keys.key_space = PTQ_PRE_ROPE;
    keys.sink = values.sink = sink_;
    set_flags(keys, PTQ_KV_CURRENT);
    set_flags(values, PTQ_KV_CURRENT);
    for (auto& side : learned_) side.assign(size_t(shape.layers), Learned());
  }

  uint32_t wants() const { return nuq_ ? PTQ_WANT_SAMPLES | PTQ_WANT_FISHER : PTQ_WANT_SAMPLES; }

  void calibrate(const Call&, const ptq_kv_block& rows, const ptq_tensor& x,
                 const ptq_tensor* fisher) {
    if (nuq_ && !fisher) throw Invalid("the sample came without Fisher information");
    const int64_t tokens = x.shape[0], width = x.shape[1] * x.shape[2];
    const std::vector<float> sample = ptq::plugin::copy_of(x);
    const std::vector<float> weights =
        fisher ? ptq::plugin::copy_of(*fisher) : std::vector<float>();
    std::vector<int64_t> used;  // the sinks of each sequence are left out
    for (int64_t t = 0; t < tokens; ++t)
      if (t % std::max<int64_t>(rows.tokens, 1) >= sink_) used.push_back(t);
    if (used.empty()) throw Invalid("the calibration sample has no token behind the sinks");

    Learned& l = learned(rows);
    const bool keys = rows.side == PTQ_KEYS;
    if (keys) {
      std::vector<float> channel(used.size());
      for (int64_t c = 0; c < width; ++c) {
        for (size_t i = 0; i < used.size(); ++i) channel[i] = sample[size_t(used[i] * width + c)];
        l.channels.push_back(channel_range(channel, bits_[0]));
      }
    }
    if (!nuq_) {
      for (int q = 0; q < 1 << bits_[rows.side]; ++q) l.levels.chosen.push_back(float(q));
      l.levels.read = l.levels.chosen;
      return;
    }
    Histogram histogram;
    std::vector<float> row(static_cast<size_t>(width));
    for (const int64_t t : used) {
      std::copy_n(sample.begin() + t * width, width, row.begin());
      const Range token = keys ? Range{} : token_range(row, bits_[1]);
      for (int64_t c = 0; c < width; ++c) {
        const Range& r = keys ? l.channels[size_t(c)] : token;
        if (outlier_share_ == 0 || !r.outlier(row[size_t(c)]))
          histogram.add(r.normal(row[size_t(c)]), double(weights[size_t(t * width + c)]));
      }
    }
    l.levels.chosen = histogram.levels(1 << bits_[rows.side]);
    l.levels.read = q_norm_ ? histogram.normalised(l.levels.chosen) : l.levels.chosen;
  }

  void encode(const Call& call, const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
    const std::vector<float> rows = ptq::plugin::copy_of(x);
    const int64_t heads = x.shape[0], tokens = x.shape[1], dim = x.shape[2], width = heads * dim;
    const Learned& l = learned(block);
    const bool keys = block.side == PTQ_KEYS;
    if (l.levels.read.empty())
      throw Invalid(
          "kvquant has no calibration sample for layer " + std::to_string(block.layer) +
          "; give the experiment a calibration text, or use kvquant_lite, which needs none");
    if (keys && int64_t(l.channels.size()) != width)
      throw Invalid("calibrated for " + std::to_string(l.channels.size()) + " channels, not " +
                    std::to_string(width));

    std::vector<uint8_t> codes(rows.size());
    std::vector<float> scale, offset, row(static_cast<size_t>(width)),
        normal(static_cast<size_t>(width));
    std::vector<uint8_t> exact(static_cast<size_t>(width));
    std::vector<Outlier> outliers;
    if (keys)
      for (const Range& r : l.channels) scale.push_back(r.scale), offset.push_back(r.offset);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < heads; ++h)
        std::copy_n(rows.begin() + (h * tokens + t) * dim, dim, row.begin() + h * dim);
      Range token{};
      if (!keys) {
        token = token_range(row, bits_[1]);
        scale.push_back(token.scale);
        offset.push_back(token.offset);
      }
      for (int64_t i = 0; i < width; ++i) {
        const Range& r = keys ? l.channels[size_t(i)] : token;
        normal[size_t(i)] = r.normal(row[size_t(i)]);
        exact[size_t(i)] = outlier_share_ > 0 && r.outlier(row[size_t(i)]);
      }
      if (keys && cap_ > 0) cap(normal, exact);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t place = h * tokens + t;
        for (int64_t c = 0; c < dim; ++c) {
          const size_t i = size_t(h * dim + c);
          if (!exact[i]) continue;
          normal[i] = 0.0f;
          outliers.push_back({place, int32_t(c), row[i]});
        }
        l.levels.encode(normal.data() + h * dim, dim, codes.data() + place * dim);
      }
    }
    const ptq_tensor offsets = tensor(offset.data(), {int64_t(offset.size())});
    call.codebook(tensor(codes.data(), {heads, tokens, dim}),
                  tensor(l.levels.read.data(), {int64_t(l.levels.read.size())}),
                  tensor(scale.data(), {int64_t(scale.size())}), &offsets, bits_[block.side],
                  keys ? PTQ_SCALE_PER_COLUMN : PTQ_SCALE_PER_TOKEN, out);
    if (outlier_share_ > 0) add_outliers(call, outliers, heads, tokens, out);
  }

 private:
  // Leaves the marks of the cap_ numbers farthest above, and of as many below.
  void cap(const std::vector<float>& normal, std::vector<uint8_t>& exact) const {
    const float middle = nuq_ ? 0.0f : 0.5f * float((1 << bits_[0]) - 1);
    for (const float sign : {1.0f, -1.0f}) {
      std::vector<size_t> marked;
      for (size_t i = 0; i < exact.size(); ++i)
        if (exact[i] && sign * normal[i] > sign * middle) marked.push_back(i);
      if (int64_t(marked.size()) <= cap_) continue;
      std::nth_element(marked.begin(), marked.begin() + cap_, marked.end(),
                       [&](size_t a, size_t b) { return sign * normal[a] > sign * normal[b]; });
      for (size_t k = size_t(cap_); k < marked.size(); ++k) exact[marked[k]] = 0;
    }
  }

  struct Learned {
    std::vector<Range> channels;  // keys: [kv_heads * head_dim]
    Levels levels;
  };
  Learned& learned(const ptq_kv_block& block) {
    auto& side = learned_[block.side == PTQ_KEYS ? 0 : 1];
    if (block.layer < 0 || block.layer >= int64_t(side.size()))
      throw Invalid("layer " + std::to_string(block.layer) + " of a model with " +
                    std::to_string(side.size()));
    return side[size_t(block.layer)];
  }

  // Range of numbers between lo and up, with scale and offset as they are stored.
  Range range(float lo, float up, float from, float to, int bits) const {
    using ptq::plugin::round_float16;
    const float span = to - from;
    const float scale = nuq_ ? span / 2 : span / float((1 << bits) - 1);
    return {lo, up, span > 0 ? std::max(round_float16(scale), 0x1p-24f) : 0.0f,
            round_float16(nuq_ ? (to + from) / 2 : from)};
  }
  Range channel_range(const std::vector<float>& sample, int bits) const {
    const float lo = quantile(sample, outlier_share_ / 2),
                up = quantile(sample, 1 - outlier_share_ / 2);
    return range(lo, up, lo, up, bits);
  }
  Range token_range(const std::vector<float>& row, int bits) const {
    const float lo = quantile(row, outlier_share_ / 2), up = quantile(row, 1 - outlier_share_ / 2);
    if (outlier_share_ == 0) return range(lo, up, lo, up, bits);
    // The range of what is no outlier. The original puts the median in the place of outliers, which
    // matters only where nothing else is left.
    float from = up, to = lo;
    for (const float x : row)
      if (x > lo && x < up) from = std::min(from, x), to = std::max(to, x);
    if (from > to) from = to = quantile(row, 0.5);
    return range(lo, up, from, to, bits);
  }

  // A number that is kept exactly: `place` is head * tokens + token.
  struct Outlier {
    int64_t place;
    int32_t column;
    float value;
  };
  static void add_outliers(const Call& call, const std::vector<Outlier>& outliers, int64_t heads,
                           int64_t tokens, ptq_encoding* out) {
    std::vector<int64_t> count(size_t(heads * tokens));
    int64_t k = 1;
    for (const Outlier& o : outliers) k = std::max(k, ++count[size_t(o.place)]);
    std::vector<int32_t> index(count.size() * size_t(k), -1);
    std::vector<float> value(index.size());
    std::fill(count.begin(), count.end(), 0);
    for (const Outlier& o : outliers) {
      const size_t at = size_t(o.place * k + count[size_t(o.place)]++);
      index[at] = o.column;
      value[at] = o.value;
    }
    call.outliers(tensor(index.data(), {heads, tokens, k}),
                  tensor(value.data(), {heads, tokens, k}), false, out);
  }

  int bits_[2] = {0, 0};  // keys, values
  double outlier_share_ = 0.01;
  int64_t cap_ = 0;
  bool nuq_ = true, q_norm_ = true;
  int64_t sink_ = 1;
  std::vector<Learned> learned_[2];  // [side][layer]
};

}  // namespace

PTQ_PLUGIN("kvquant", "Apache-2.0", Kvquant)
