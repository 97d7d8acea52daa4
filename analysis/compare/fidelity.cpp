#include "analysis/compare/fidelity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "ptq/stats/bootstrap.hpp"
#include "ptq/stats/quantiles.hpp"
#include "ptq/stats/units.hpp"

namespace ptq::report {
namespace {

// A bucket without this many tokens has no row.
constexpr size_t kLeastTokens = 8;

// The tokens that count, as columns; runs are those of the file without void tokens.
struct Columns {
  std::vector<stats::Run> runs;
  std::vector<float> kl, change;          // nats; of the loss
  std::vector<uint32_t> token, position;  // index in the file, place in the context
};

Columns columns_of(const TokenFile& file) {
  Columns out;
  size_t at = 0;
  for (const TokenRun& run : file.runs) {
    out.runs.push_back({run.cluster, 0});
    for (uint32_t i = 0; i < run.count; ++i, ++at) {
      const TokenScore& token = file.tokens[at];
      if (!token.finite() || !std::isfinite(token.kl) || !token.has_reference()) continue;
      out.kl.push_back(token.kl);
      out.change.push_back(token.nll - token.nll_reference);
      out.token.push_back(uint32_t(at));
      out.position.push_back(run.position + i);
      ++out.runs.back().length;
    }
  }
  std::erase_if(out.runs, [](const stats::Run& run) { return run.length == 0; });
  return out;
}

// The mean of value(i) over the tokens i of `columns` with wanted(i).
template <class Value, class Wanted>
stats::MeanEstimate mean_over(const stats::Units& units, const Value& value, const Wanted& wanted) {
  std::vector<double> sums(units.count(), 0.0), sizes(units.count(), 0.0);
  for (size_t u = 0; u < units.count(); ++u) {
    for (size_t i = units.border[u]; i < units.border[u + 1]; ++i) {
      if (!wanted(i)) continue;
      sums[u] += value(i);
      sizes[u] += 1;
    }
  }
  return stats::estimate_ratio(sums, sizes);
}

Estimate estimate(const stats::MeanEstimate& mean) { return {mean.value, mean.interval(0.95)}; }

Estimate share(const stats::MeanEstimate& mean, size_t n) {
  return {mean.value, stats::share_interval(mean, double(n))};
}

// Rows of tokens by bucket: key(i) is the bucket of token i, below names.size().
template <class Key>
std::vector<Fidelity::Part> parts(const TokenFile& file, const Columns& columns,
                                  const stats::Units& units, const std::vector<std::string>& names,
                                  const Key& key) {
  std::vector<size_t> counts(names.size(), 0);
  for (size_t i = 0; i < columns.kl.size(); ++i) ++counts[key(i)];
  std::vector<Fidelity::Part> out;
  for (size_t b = 0; b < names.size(); ++b) {
    if (counts[b] < kLeastTokens) continue;
    const auto wanted = [&](size_t i) { return key(i) == b; };
    const auto kl = [&](size_t i) { return double(columns.kl[i]); };
    const auto same = [&](size_t i) { return double(!file.tokens[columns.token[i]].flip()); };
    out.push_back({names[b], counts[b], estimate(mean_over(units, kl, wanted)),
                   share(mean_over(units, same, wanted), counts[b])});
  }
  return out;
}

void add_parts(const TokenFile& file, const Columns& columns, const stats::Units& units,
               Fidelity& out) {
  static const std::vector<std::string> kConfidence = {"below 0.25", "0.25 to 0.5", "0.5 to 0.75",
                                                       "0.75 to 0.95", "0.95 and more"};
  out.by_confidence = parts(file, columns, units, kConfidence, [&](size_t i) {
    const double p = file.tokens[columns.token[i]].confidence_share();
    return size_t(p >= 0.25) + size_t(p >= 0.5) + size_t(p >= 0.75) + size_t(p >= 0.95);
  });
  // Places 1, 2 and 3, 4 to 7, ...: the first of a context is never predicted.
  std::vector<std::string> names = {"0"};
  for (uint32_t first = 1; names.size() <= 32; first *= 2) {
    names.push_back(first == 1 ? "1" : fmt::format("{} to {}", first, first * 2 - 1));
  }
  out.by_position = parts(file, columns, units, names,
                          [&](size_t i) { return size_t(std::bit_width(columns.position[i])); });
}

void add_quantiles(const Columns& columns, const stats::Units& units, Fidelity& out) {
  std::vector<float> sorted = columns.kl;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double fraction) {
    return Estimate{stats::quantile_of_sorted(sorted, fraction),
                    stats::quantile_interval(columns.kl, sorted, fraction, units)};
  };
  out.kl_median = quantile(0.5);
  out.kl_p90 = quantile(0.9);
  out.kl_p99 = quantile(0.99);
  out.kl_max = double(sorted.back());
}

}  // namespace

std::optional<Fidelity> fidelity_of(const TokenFile& file, std::optional<double> floor) {
  const Columns columns = columns_of(file);
  const size_t n = columns.kl.size();
  if (n == 0) return {};
  Fidelity out;
  out.tokens = n;
  // One cut for all figures, by the memory of the divergence, which is the longest of them.
  const stats::Units units = stats::cut(columns.kl, columns.runs);
  const auto all = [](size_t) { return true; };
  const auto mean = [&](const auto& value) {
    return mean_over(
        units, [&](size_t i) { return value(file.tokens[columns.token[i]]); }, all);
  };
  out.kl = estimate(stats::estimate_mean(columns.kl, units));
  out.kl_reverse = estimate(mean([](const TokenScore& t) { return double(t.kl_reverse); }));
  out.ear = estimate(mean([](const TokenScore& t) { return t.overlap_share(); }));
  out.top1 = share(mean([](const TokenScore& t) { return double(!t.flip()); }), n);
  const Estimate squares =
      estimate(mean([](const TokenScore& t) { return t.delta_p() * t.delta_p(); }));
  out.rms_delta_p.value = std::sqrt(squares.value);
  if (squares.interval.known()) {
    out.rms_delta_p.interval = {std::sqrt(std::max(0.0, squares.interval.low)),
                                std::sqrt(squares.interval.high)};
  }
  add_quantiles(columns, units, out);
  add_parts(file, columns, units, out);

  out.floor = floor;
  const bool known = out.kl.interval.known();
  out.below_floor = floor && (known ? out.kl.interval.low : out.kl.value) <= *floor;
  // Where full precision is calibrated, the loss of a method is higher by its KL on average; a loss
  // that falls while the predictions move away says that this text cannot judge.
  const Estimate change =
      estimate(stats::estimate_mean(columns.change, stats::cut(columns.change, columns.runs)));
  out.ppl_unreliable = known && change.interval.known() && change.interval.high < 0 &&
                       out.kl.interval.low > floor.value_or(0);
  return out;
}

}  // namespace ptq::report
