// A reference in 400 bytes a token: of every row of the full-precision model the likeliest tokens,
// and of the rest, the tail, its mass and its entropy. The divergence of anything from that
// reference is then known as an interval that contains it, without the reference being run again.
//
// 63 tokens a row, on average: a row keeps what is likelier than a bound that all rows share, so
// that rows of which little is open leave their room to the others.
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
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ptq/core/own_json.hpp"
#include "ptq/eval/log_softmax.hpp"

namespace ptq::eval {

inline constexpr size_t kBundleMean = 63, kBundleMost = 1024;  // tokens of a row
// Log-probabilities are kept in steps of 2^-19 nats.
inline constexpr double kBundleStep = 0x1p-19;
inline constexpr uint32_t kMost24 = (uint32_t{1} << 24) - 1;

// A token of the top, little endian.
struct BundleEntry {
  uint8_t id_bytes[3], code_bytes[3];  // code: -log p / kBundleStep, rounded

  static BundleEntry of(uint32_t id, uint32_t code) {
    BundleEntry entry;
    for (int i = 0; i < 3; ++i) {
      entry.id_bytes[i] = uint8_t(id >> 8 * i);
      entry.code_bytes[i] = uint8_t(code >> 8 * i);
    }
    return entry;
  }
  uint32_t id() const { return number(id_bytes); }
  uint32_t code() const { return number(code_bytes); }
  double log_p() const { return -double(code()) * kBundleStep; }

 private:
  static uint32_t number(const uint8_t (&bytes)[3]) {
    return uint32_t(bytes[0]) | uint32_t(bytes[1]) << 8 | uint32_t(bytes[2]) << 16;
  }
};
static_assert(sizeof(BundleEntry) == 6);

struct BundleHead {
  float tail_mass;     // sum of p over the tail
  float tail_entropy;  // sum of -p log p over the tail, nats
  float nll;           // of the token that follows, nats
  uint32_t entries;    // of the row, 1 .. kBundleMost
};
static_assert(sizeof(BundleHead) == 16);

struct BundleRow {
  BundleHead head;
  std::span<const BundleEntry> top;  // likeliest first, of equal ones the lower id
};

// A text in windows, each read from an empty sequence, with a row for every token of a window but
// the last, which predicts nothing.
struct Bundle {
  Json about = Json::object();    // what the reference is
  int64_t vocab = 0, window = 0;  // tokens of a window, at least 2
  std::vector<int32_t> tokens;
  std::vector<BundleHead> heads;
  std::vector<BundleEntry> entries;  // of row 0, of row 1, ...

  // visit(row number, row) for all rows.
  template <class Visit>
  void for_each(const Visit& visit) const {
    size_t first = 0;
    for (size_t r = 0; r < heads.size(); ++r) {
      visit(r, BundleRow{heads[r], std::span(entries).subspan(first, heads[r].entries)});
      first += heads[r].entries;
    }
  }
};

namespace bundle_detail {

// Tokens that are kept until it is known how many a row may have: of a probability of at least
// this.
inline constexpr double kLeast = 0x1p-17;

// The first kBundleMost of them by falling logit; at least the likeliest.
inline std::vector<int32_t> likeliest(const LogitRow& row) {
  std::vector<int32_t> ids;
  const double least = row.log_sum_exp + std::log(kLeast);
  for (int64_t v = 0; v < row.vocab; ++v)
    if (double(row.logits[v]) >= least) ids.push_back(int32_t(v));
  if (ids.empty()) ids.push_back(row.argmax);
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return row.logits[a] != row.logits[b] ? row.logits[a] > row.logits[b] : a < b;
  });
  ids.resize(std::min(ids.size(), kBundleMost));
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

// The rows of a bundle from the logits of the reference.
class BundleRows {
 public:
  // The next row: finite, vocab below 2^24. target: the token that follows.
  void add(const LogitRow& row, int32_t target) {
    const std::vector<int32_t> top = bundle_detail::likeliest(row);
    for (const int32_t id : top)
      entries_.push_back(BundleEntry::of(
          uint32_t(id), uint32_t(std::clamp(std::nearbyint(-row.log_prob(id) / kBundleStep), 0.0,
                                            double(kMost24)))));
    Tail tail;
    bundle_detail::for_tail(top, row.vocab, [&](int64_t first, int64_t end) {
      for (int64_t v = first; v < end; ++v) tail.add(double(row.logits[v]) - row.log_sum_exp);
    });
    tails_.push_back(tail);
    heads_.push_back({0, 0, float(row.nll(target)), uint32_t(top.size())});
  }

  // Cuts the rows at the bound that leaves kBundleMean tokens a row, and hands them over.
  void finish(Bundle& bundle) {
    const size_t wanted = kBundleMean * heads_.size();
    uint32_t bound = kMost24 + 1;  // codes from here on go into the tail
    if (entries_.size() > wanted) {
      std::vector<uint32_t> codes;
      size_t first = 0;
      for (const BundleHead& head : heads_) {  // the likeliest of a row stays in any case
        for (size_t i = 1; i < head.entries; ++i) codes.push_back(entries_[first + i].code());
        first += head.entries;
      }
      const auto place = codes.begin() + int64_t(wanted - heads_.size());
      std::nth_element(codes.begin(), place, codes.end());
      bound = *place;
    }
    size_t first = 0;
    for (size_t r = 0; r < heads_.size(); ++r) {
      BundleHead head = heads_[r];
      const auto all = std::span(std::as_const(entries_)).subspan(first, head.entries);
      first += head.entries;
      head.entries = 0;
      for (const BundleEntry& entry : all) {
        if (head.entries == 0 || entry.code() < bound) {
          bundle.entries.push_back(entry);
          ++head.entries;
        } else {
          tails_[r].add(entry.log_p());
        }
      }
      head.tail_mass = float(tails_[r].mass);
      head.tail_entropy = float(tails_[r].entropy);
      bundle.heads.push_back(head);
    }
  }

 private:
  struct Tail {
    double mass = 0, entropy = 0;
    void add(double log_p) {
      const double p = exp_nonpositive(log_p);
      mass += p;
      entropy -= p * log_p;
    }
  };
  std::vector<BundleHead> heads_;
  std::vector<BundleEntry> entries_;
  std::vector<Tail> tails_;
};

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
// row that was kept, whatever was rounded when it was.
inline BundleScore score_against(const BundleRow& row, const LogitRow& method, int32_t target) {
  using namespace bundle_detail;
  BundleScore out;
  double kl = 0, slack = 0, overlap = 0, overlap_slack = 0;
  std::vector<int32_t> top;
  for (const BundleEntry& entry : row.top) {
    top.push_back(int32_t(entry.id()));
    const double log_p = entry.log_p(), log_q = method.log_prob(top.back());
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
  for_tail(top, method.vocab, [&](int64_t first, int64_t end) {
    for (int64_t v = first; v < end; ++v) {
      const double cost = method.log_sum_exp - double(method.logits[v]);
      q_mass += exp_nonpositive(-cost);
      costs.add(cost);
    }
    tail += end - first;
  });
  const double mass = double(row.head.tail_mass), entropy_sum = double(row.head.tail_entropy);
  double low = 0, high = 0;
  if (mass > 0 && tail > 0) {
    low = mass * std::log(mass / q_mass);
    const double cap = row.top.empty() ? 1 : std::exp(row.top.back().log_p() + half);
    const double entropy = entropy_sum / mass + std::log(mass);  // of p / P
    const double cross = std::min(costs.most_weighted(mass, cap), mass * costs.most_mean(entropy));
    high = std::max(cross - entropy_sum, low);
    // What was rounded of mass and entropy: 2^-20 of each for tokens that were cut off the top, and
    // 2^-24 by float32; through t = 1/4 four times as much.
    slack +=
        0x1p-16 *
        (mass * (2 + std::abs(std::log(mass / q_mass)) + costs.most() + std::abs(std::log(mass))) +
         entropy_sum);
  }
  slack += 1e-12;  // of the sums in float64
  // The ends are in order even where a row says what no row is.
  out.kl.low = std::max(0.0, kl + low - slack);
  out.kl.high = std::max(out.kl.low, kl + high + slack);
  out.overlap.low = std::clamp(overlap - overlap_slack, 0.0, 1.0);
  const double shared = std::min(mass, q_mass) * (1 + 1e-6);
  out.overlap.high = std::clamp(overlap + shared + overlap_slack, out.overlap.low, 1.0);
  out.flip = top.empty() || top[0] != method.argmax;
  out.nll = method.nll(target);
  out.nll_reference = double(row.head.nll);
  return out;
}

}  // namespace ptq::eval
