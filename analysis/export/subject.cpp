#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>

#include "analysis/export/export.hpp"

namespace ptq::report {
namespace {

constexpr double kNoBound = std::numeric_limits<double>::infinity();

// Of the share of right answers, the exact interval; none is known of an absolute perplexity, whose
// windows differ among themselves more than methods do.
Measure headline_measure(const Cell& cell, double value) {
  const Headline& headline = cell.headline;
  Measure out{headline.key,
              headline.title.empty() ? cell.evaluation : headline.title,
              headline.share ? "proportion" : "",
              value,
              headline.higher,
              headline.share ? 1 : kNoBound,
              {},
              {},
              {}};
  const auto correct = cell.number({"correct"}), total = cell.number({"total"});
  if (headline.share && correct && total && *total > 0) {
    out.interval = clopper_pearson95(int64_t(*correct), int64_t(*total));
    out.how = "exact (Clopper-Pearson)";
    out.samples = *total;
  } else {
    out.samples = cell.number({"tokens_scored"});
  }
  return out;
}

}  // namespace

std::string Subject::file_name() const {
  std::string out = board->model + "__" + row->method;
  for (char& c : out)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_') c = '-';
  return out;
}

std::vector<Subject> subjects_of(const Report& report, std::string_view model,
                                 std::string_view method) {
  std::vector<Subject> out;
  for (size_t b = 0; b < report.boards.size(); ++b) {
    const Board& board = report.boards[b];
    if (!model.empty() && board.model != model) continue;
    for (const Row& row : board.rows) {
      const bool measured = std::any_of(row.cells.begin(), row.cells.end(),
                                        [](const auto& entry) { return entry.second->figure(); });
      if (measured && (method.empty() || row.method == method))
        out.push_back({&board, &report.statistics[b], &row});
    }
  }
  return out;
}

std::vector<Measure> measures_of(const Subject& subject, const Cell& cell) {
  std::vector<Measure> out;
  const auto value = cell.figure();
  if (value && std::isfinite(*value)) out.push_back(headline_measure(cell, *value));
  const Fidelity* fidelity = subject.statistics->fidelity_of(&cell);
  const auto kl = fidelity ? std::optional(fidelity->kl.value) : cell.number({"kl_mean"});
  if (kl && std::isfinite(*kl)) {
    Measure measure{
        "kl_mean", "KL divergence from full precision", "nats per token", *kl, false, kNoBound, {},
        {},        cell.number({"kl_tokens"})};
    if (fidelity && fidelity->kl.interval.known()) {
      measure.interval = fidelity->kl.interval;
      measure.how = "block bootstrap over tokens";
      measure.samples = double(fidelity->tokens);
    }
    out.push_back(std::move(measure));
  }
  if (const auto top1 = cell.number({"top1_agreement"}))
    out.push_back({"top1_agreement",
                   "tokens with the most likely token of full precision",
                   "proportion",
                   *top1,
                   true,
                   1,
                   {},
                   {},
                   cell.number({"kl_tokens"})});
  const Comparison* c = subject.statistics->of(&cell);
  if (c && c->n > 0 && !c->answers && std::isfinite(std::exp(c->delta))) {
    Measure measure{"ppl_ratio", "perplexity over that of " + subject.board->reference(),
                    "ratio",     std::exp(c->delta),
                    false,       kNoBound,
                    {},          "paired bootstrap",
                    double(c->n)};
    if (c->interval.known() && std::isfinite(std::exp(c->interval.high)))
      measure.interval = {std::exp(c->interval.low), std::exp(c->interval.high)};
    out.push_back(std::move(measure));
  }
  return out;
}

std::string method_in_words(const Cell& cell) {
  std::string out;
  for (const Record::Part& part : cell.parts) {
    out += (out.empty() ? "" : " + ") + part.method;
    if (!part.options.is_object()) continue;
    for (const auto& [key, value] : part.options.items())
      out += " " + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return one_line(out.empty() ? cell.method : out);
}

std::string dataset_of(const Cell& cell) {
  for (const char* key : {"text", "texts", "data", "dataset"}) {
    const Json value = cell.settings.value(key, Json());
    if (value.is_string()) return one_line(value.get<std::string>());
  }
  return cell.evaluation;
}

int64_t epoch_of(const std::string& iso8601) {
  int year, month, day, hour, minute, second;
  if (std::sscanf(iso8601.c_str(), "%d-%d-%dT%d:%d:%d", &year, &month, &day, &hour, &minute,
                  &second) != 6)
    return 0;
  using namespace std::chrono;
  const sys_days days{std::chrono::year(year) / month / day};
  return days.time_since_epoch() / seconds(1) + hour * 3600 + minute * 60 + second;
}

}  // namespace ptq::report
