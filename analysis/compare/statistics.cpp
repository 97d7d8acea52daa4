#include "analysis/compare/statistics.hpp"

#include <algorithm>
#include <array>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <map>
#include <numeric>
#include <random>
#include <utility>

namespace ptq::report {
namespace {

// The middle 95 % of resampled values.
Interval percentile95(std::vector<double> values) {
  if (values.empty()) return {};
  const size_t low = size_t(0.025 * double(values.size())), high = values.size() - 1 - low;
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(low), values.end());
  const double lower = values[low];
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(high), values.end());
  return {lower, values[high]};
}

}  // namespace

McNemar mcnemar(int64_t gained, int64_t lost) {
  const int64_t discordant = gained + lost, least = std::min(gained, lost);
  if (discordant == 0) return {};
  const boost::math::binomial_distribution<double> half(double(discordant), 0.5);
  const double at = boost::math::pdf(half, double(least));
  McNemar p;
  p.exact = std::min(1.0, 2 * boost::math::cdf(half, double(least)));
  p.mid = gained == lost ? 1 - at / 2 : p.exact - at;
  return p;
}

Interval bootstrap_counts(const std::vector<PairedCounts>& strata) {
  std::mt19937_64 random(kBootstrapSeed);
  int64_t n = 0;
  for (const PairedCounts& stratum : strata) n += stratum.n;
  if (n == 0) return {};
  std::vector<double> sums(kResamples, 0.0);
  std::vector<int64_t> drawn(kResamples), differences(kResamples);
  for (const PairedCounts& stratum : strata) {
    if (stratum.gained + stratum.lost == 0) continue;  // always 0
    const double changed = double(stratum.gained + stratum.lost);
    std::binomial_distribution<int64_t> changes(stratum.n, changed / double(stratum.n));
    for (int64_t& count : drawn) count = changes(random);
    // Of the questions that changed, each is a gain with its share. In order of their number, so
    // that a distribution is set up once for each number; the resamples are then paired at random
    // with those of other strata by a shuffle.
    std::sort(drawn.begin(), drawn.end());
    std::binomial_distribution<int64_t> gains;
    for (size_t r = 0; r < drawn.size(); ++r) {
      if (r == 0 || drawn[r] != drawn[r - 1]) {
        gains.param(decltype(gains)::param_type(drawn[r], double(stratum.gained) / changed));
      }
      differences[r] = 2 * gains(random) - drawn[r];
    }
    if (strata.size() > 1) std::shuffle(differences.begin(), differences.end(), random);
    for (size_t r = 0; r < sums.size(); ++r) sums[r] += double(differences[r]);
  }
  for (double& sum : sums) sum /= double(n);
  return percentile95(std::move(sums));
}

Bootstrap::Bootstrap(size_t units)
    : units_(units),
      block_(std::max<size_t>(1, (units + kBlocks - 1) / kBlocks)),
      blocks_((units + block_ - 1) / block_),
      counts_(size_t(kResamples) * blocks_) {
  std::mt19937_64 random(kBootstrapSeed);
  for (int r = 0; r < kResamples; ++r) {
    uint8_t* row = counts_.data() + size_t(r) * blocks_;
    for (size_t b = 0; b < blocks_; ++b) {
      // Lemire's reduction of 32 random bits; the bias of 2^-23 is below the resampling noise.
      ++row[size_t((uint64_t(uint32_t(random())) * blocks_) >> 32)];
    }
  }
}

Interval Bootstrap::mean(const std::vector<double>& values) const {
  if (values.size() != units_ || blocks_ < 2) return {};
  std::vector<float> sums(blocks_, 0.0f), sizes(blocks_, 0.0f);
  for (size_t i = 0; i < units_; ++i) {
    sums[i / block_] += float(values[i]);
    sizes[i / block_] += 1.0f;
  }
  std::vector<double> means(kResamples);
  for (size_t r = 0; r < size_t(kResamples); ++r) {
    const uint8_t* row = counts_.data() + r * blocks_;
    float sum = 0, size = 0;
    for (size_t b = 0; b < blocks_; ++b) {
      sum += float(row[b]) * sums[b];
      size += float(row[b]) * sizes[b];
    }
    means[r] = double(sum) / double(size);
  }
  return percentile95(std::move(means));
}

const Bootstrap& bootstrap_of(size_t units) {
  static std::map<size_t, Bootstrap> tables;
  return tables.try_emplace(units, units).first->second;
}

double mean_of(const std::vector<double>& values) {
  return values.empty()
             ? std::numeric_limits<double>::quiet_NaN()
             : std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

double standard_error_of(const std::vector<double>& values) {
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double mean = mean_of(values), n = double(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (n - 1) / n);
}

double paired_t(const std::vector<double>& differences) {
  const double error = standard_error_of(differences);
  if (!(error > 0)) return 1;
  const boost::math::students_t_distribution<double> t(double(differences.size() - 1));
  return 2 * boost::math::cdf(boost::math::complement(t, std::abs(mean_of(differences)) / error));
}

std::vector<double> holm(const std::vector<double>& p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double highest = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    highest = std::max(highest, std::min(1.0, double(p.size() - i) * p[order[i]]));
    adjusted[order[i]] = highest;
  }
  return adjusted;
}

double pearson(const std::vector<double>& x, const std::vector<double>& y) {
  const double mean_x = mean_of(x), mean_y = mean_of(y);
  double both = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    both += (x[i] - mean_x) * (y[i] - mean_y);
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
  }
  return xx > 0 && yy > 0 ? both / std::sqrt(xx * yy) : std::numeric_limits<double>::quiet_NaN();
}

std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t i = 0; i < order.size();) {
    size_t end = i;
    while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
    for (size_t k = i; k < end; ++k) ranks[order[k]] = double(i + end + 1) / 2;
    i = end;
  }
  return ranks;
}

double spearman(const std::vector<double>& x, const std::vector<double>& y) {
  return pearson(ranks_of(x), ranks_of(y));
}

FiniteCorrelation finite_correlation(const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<double> a, b;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) continue;
    a.push_back(x[i]);
    b.push_back(y[i]);
  }
  FiniteCorrelation out{pearson(a, b), {}, a.size(), x.size() - a.size()};
  if (a.size() < 4 || !std::isfinite(out.r)) return out;
  std::mt19937_64 random(kBootstrapSeed);
  std::uniform_int_distribution<size_t> pick(0, a.size() - 1);
  std::vector<double> drawn, u(a.size()), v(a.size());
  for (int r = 0; r < kResamples; ++r) {
    for (size_t i = 0; i < a.size(); ++i) {
      const size_t at = pick(random);
      u[i] = a[at];
      v[i] = b[at];
    }
    const double value = pearson(u, v);
    if (std::isfinite(value)) drawn.push_back(value);
  }
  out.interval = percentile95(std::move(drawn));
  return out;
}

double within_groups(std::vector<double> x, std::vector<double> y, const std::vector<int>& group) {
  std::map<int, std::array<double, 3>> sums;
  for (size_t i = 0; i < x.size(); ++i) {
    auto& [sum_x, sum_y, n] = sums[group[i]];
    sum_x += x[i];
    sum_y += y[i];
    n += 1;
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const auto& [sum_x, sum_y, n] = sums[group[i]];
    x[i] -= sum_x / n;
    y[i] -= sum_y / n;
  }
  return pearson(x, y);
}

}  // namespace ptq::report
