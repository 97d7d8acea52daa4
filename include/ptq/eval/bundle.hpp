// A reference in 400 bytes a token: of every row of the full-precision model the 64 likeliest
// tokens, and of the rest, the tail, its mass and its entropy. The divergence of anything from that
// reference is then known as an interval that contains it, without the reference being run again.
//
// p of the reference, q of a method, T the tail, P and Q its masses:
//   KL(p || q) = sum over the top of p log(p / q) + sum over T of p log p - sum over T of p log q
// The first sum is known, and so is the second. q is known everywhere, so the third is bounded by
//   below  P log(P / Q) for both tail sums together: the log-sum inequality (Cover and Thomas,
//          Elements of Information Theory, theorem 2.7.1)
//   above  the most that -log q can be weighted with, given what is known of p on T: no p above the
//          smallest of the top, or the entropy (Gibbs' inequality with the weights q^-t); the
//          smaller of the two
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "ptq/eval/log_softmax.hpp"

namespace ptq::eval {

inline constexpr int kBundleTop = 64;
// Log-probabilities are kept in steps of 2^-19 nats, 24 bits; below -32 a token belongs to the
// tail.
inline constexpr double kBundleStep = 0x1p-19;
inline constexpr uint32_t kBundleMost = (uint32_t{1} << 24) - 1;
inline constexpr uint32_t kNoToken = (uint32_t{1} << 24) - 1;  // of a place that is not used

// One row as it is kept, little endian.
struct PackedRow {
  uint8_t ids[kBundleTop][3];    // likeliest first, of equal ones the lower id; then kNoToken
  uint8_t codes[kBundleTop][3];  // -log p / kBundleStep, rounded
  float tail_mass;               // sum of p over the tail
  float tail_entropy;            // sum of -p log p over the tail, nats
  float nll;                     // of the token that follows, nats
};
static_assert(sizeof(PackedRow) == 396);

// The same to compute with.
struct BundleRow {
  int top = 0;  // places that are used
  std::array<int32_t, kBundleTop> ids;
  std::array<double, kBundleTop> log_p;
  double tail_mass = 0, tail_entropy = 0, nll = 0;
};

namespace bundle_detail {

inline void put24(uint8_t (&to)[3], uint32_t value) {
  for (int i = 0; i < 3; ++i) to[i] = uint8_t(value >> 8 * i);
}
inline uint32_t get24(const uint8_t (&from)[3]) {
  return uint32_t(from[0]) | uint32_t(from[1]) << 8 | uint32_t(from[2]) << 16;
}

// The first kBundleTop ids by falling logit.
inline std::vector<int32_t> likeliest(const LogitRow& row) {
  std::vector<int32_t> ids(static_cast<size_t>(row.vocab));
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<int64_t>(kBundleTop, row.vocab);
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    return row.logits[a] != row.logits[b] ? row.logits[a] > row.logits[b] : a < b;
  });
  ids.erase(end, ids.end());
  return ids;
}

// visit(first, end) for every stretch of tokens between those of the top.
template <class Visit>
void for_tail(std::vector<int32_t> top, int64_t vocab, const Visit& visit) {
  std::sort(top.begin(), top.end());
  int64_t first = 0;
  for (const int32_t id : top) {
    if (first < id) visit(first, int64_t(id));
    first = id + 1;
  }
  if (first < vocab) visit(first, vocab);
}

}  // namespace bundle_detail

// row: finite; vocab below 2^24 - 1. target: the token that follows.
inline PackedRow pack_row(const LogitRow& row, int32_t target) {
  using namespace bundle_detail;
  PackedRow out{};
  std::vector<int32_t> top;
  for (const int32_t id : likeliest(row)) {
    const double code = std::nearbyint(-row.log_prob(id) / kBundleStep);
    if (code > kBundleMost) break;
    put24(out.ids[top.size()], uint32_t(id));
    put24(out.codes[top.size()], uint32_t(std::max(code, 0.0)));
    top.push_back(id);
  }
  for (size_t i = top.size(); i < kBundleTop; ++i) {
    put24(out.ids[i], kNoToken);
    put24(out.codes[i], kBundleMost);
  }
  double mass = 0, entropy = 0;
  for_tail(top, row.vocab, [&](int64_t first, int64_t end) {
    for (int64_t v = first; v < end; ++v) {
      const double log_p = double(row.logits[v]) - row.log_sum_exp, p = exp_nonpositive(log_p);
      mass += p;
      entropy -= p * log_p;
    }
  });
  out.tail_mass = float(mass);
  out.tail_entropy = float(entropy);
  out.nll = float(row.nll(target));
  return out;
}

inline BundleRow unpack_row(const PackedRow& packed) {
  using bundle_detail::get24;
  BundleRow row;
  while (row.top < kBundleTop && get24(packed.ids[row.top]) != kNoToken) {
    row.ids[size_t(row.top)] = int32_t(get24(packed.ids[row.top]));
    row.log_p[size_t(row.top)] = -double(get24(packed.codes[row.top])) * kBundleStep;
    ++row.top;
  }
  row.tail_mass = double(packed.tail_mass);
  row.tail_entropy = double(packed.tail_entropy);
  row.nll = double(packed.nll);
  return row;
}

struct Bounds {
  double low = 0, high = 0;
};

// What is known of a method's row beside the reference's.
struct BundleScore {
  Bounds kl;       // KL(reference || method), nats
  Bounds overlap;  // sum of min(p, q)
  bool flip = false;
  double nll = 0, nll_reference = 0;  // of the token that follows, nats
};

namespace bundle_detail {

// -log q over the tail, as a histogram whose bins are named by their upper ends.
class TailCosts {
 public:
  void add(double cost) {
    const int bin = cost < kLast / kPerNat ? int(cost * kPerNat) : kLast;
    ++counts_[size_t(bin)];
    most_ = std::max(most_, cost);
  }
  double most() const { return most_; }

  // The largest sum of p * cost, for p of mass `mass` with none above `cap`.
  double most_weighted(double mass, double cap) const {
    double sum = 0;
    for (int bin = kLast; bin >= 0 && mass > 0; --bin) {
      const double share = std::min(mass, counts_[size_t(bin)] * cap);
      sum += share * end_of(bin);
      mass -= share;
    }
    return sum + std::max(mass, 0.0) * most_;  // rounding of the last share
  }
  // The largest mean cost under any distribution of at least this entropy (nats): for every t > 0
  //   mean cost <= (log sum of e^(t cost) - entropy) / t
  double most_mean(double entropy) const {
    double best = most_;
    for (const double t : {0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0}) {
      double sum = 0;
      for (int bin = 0; bin <= kLast; ++bin)
        if (counts_[size_t(bin)] > 0)
          sum += counts_[size_t(bin)] * std::exp(t * (end_of(bin) - most_));
      best = std::min(best, most_ + (std::log(sum) - entropy) / t);
    }
    return best;
  }

 private:
  static constexpr int kPerNat = 32, kLast = 64 * kPerNat;
  double end_of(int bin) const {
    return bin == kLast ? most_ : std::min(most_, double(bin + 1) / kPerNat);
  }
  std::vector<double> counts_ = std::vector<double>(kLast + 1);
  double most_ = 0;
};

}  // namespace bundle_detail

// method: finite, of the same vocabulary; target: the token that follows. The bounds hold for the
// row that was packed, whatever was rounded when it was.
inline BundleScore score_against(const BundleRow& row, const LogitRow& method, int32_t target) {
  using namespace bundle_detail;
  BundleScore out;
  double kl = 0, slack = 0, overlap = 0, overlap_slack = 0;
  for (int i = 0; i < row.top; ++i) {
    const double log_p = row.log_p[size_t(i)], log_q = method.log_prob(row.ids[size_t(i)]);
    const double p = std::exp(log_p), d = log_p - log_q;
    kl += p * d;
    slack += p * (1 + std::abs(d));  // of the derivative by log p
    overlap += std::min(p, std::exp(log_q));
    overlap_slack += p;
  }
  const double half = kBundleStep / 2 * 1.0001;
  slack *= half;
  overlap_slack *= half;

  double q_mass = 0;
  TailCosts costs;
  int64_t tail = 0;
  for_tail({row.ids.begin(), row.ids.begin() + row.top}, method.vocab,
           [&](int64_t first, int64_t end) {
             for (int64_t v = first; v < end; ++v) {
               const double cost = method.log_sum_exp - double(method.logits[v]);
               q_mass += exp_nonpositive(-cost);
               costs.add(cost);
             }
             tail += end - first;
           });
  const double mass = row.tail_mass;
  double low = 0, high = 0;
  if (mass > 0 && tail > 0) {
    low = mass * std::log(mass / q_mass);
    const double cap = row.top > 0 ? std::exp(row.log_p[size_t(row.top - 1)] + half) : 1;
    const double entropy = row.tail_entropy / mass + std::log(mass);  // of p / P
    const double cross = std::min(costs.most_weighted(mass, cap), mass * costs.most_mean(entropy));
    high = std::max(cross - row.tail_entropy, low);
    // What float32 rounded of mass and entropy: 2^-24 of each, through t = 1/4 four times as much.
    slack +=
        0x1p-20 *
        (mass * (2 + std::abs(std::log(mass / q_mass)) + costs.most() + std::abs(std::log(mass))) +
         row.tail_entropy);
  }
  slack += 1e-12;  // of the sums in float64
  // The ends are in order even where a row says what no row is.
  out.kl.low = std::max(0.0, kl + low - slack);
  out.kl.high = std::max(out.kl.low, kl + high + slack);
  out.overlap.low = std::clamp(overlap - overlap_slack, 0.0, 1.0);
  const double shared = std::min(mass, q_mass) * (1 + 1e-6);
  out.overlap.high = std::clamp(overlap + shared + overlap_slack, out.overlap.low, 1.0);
  out.flip = row.top == 0 || row.ids[0] != method.argmax;
  out.nll = method.nll(target);
  out.nll_reference = row.nll;
  return out;
}

}  // namespace ptq::eval
