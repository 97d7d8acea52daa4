#include "analysis/read/headline.hpp"

#include <cmath>
#include <limits>
#include <string_view>

#include "ptq/core/safe_text.hpp"

namespace ptq::report {
namespace {

// The kinds of schema 1 and of the earlier study. Frozen: a new kind says what it is in its
// records.
struct Frozen {
  std::string_view kind;
  const char *key, *title;
  bool share;
};
constexpr Frozen kFrozen[] = {{"perplexity", "ppl", "perplexity", false},
                              {"cached-decode", "ppl", "perplexity of long documents", false},
                              {"choices", "", "", true},
                              {"passkey", "", "passkeys found", true},
                              {"retrieval", "", "right answers", true},
                              {"generation", "ppl_pooled", "perplexity of continuations", false}};

bool is_number(const Json& metrics, const std::string& key) {
  const auto found = metrics.find(key);
  return found != metrics.end() && found->is_number();
}

// Where the share of right answers stands. Multiple choice: the metric that the record names as
// primary, else the one that divides by length where answers differ in it, else the plain one.
std::string share_key(const std::string& evaluation, const Json& metrics) {
  const Json primary = metrics.value("primary", Json());
  if (primary.is_string() && is_number(metrics, primary.get<std::string>()))
    return primary.get<std::string>();
  const bool by_length =
      evaluation == "hellaswag" || evaluation == "arc_challenge" || evaluation == "openbookqa";
  if (by_length && is_number(metrics, "acc_norm,none")) return "acc_norm,none";
  for (const char* key : {"accuracy", "acc,none", "acc", "exact", "exact_match,strict-match",
                          "exact_match,none", "partial"}) {
    if (is_number(metrics, key)) return key;
  }
  return {};
}

// The value at a dotted path, or null.
const Json* value_at(const Json& metrics, std::string_view path) {
  const Json* value = &metrics;
  for (;;) {
    if (!value->is_object()) return nullptr;
    const size_t dot = path.find('.');
    const auto found = value->find(std::string(path.substr(0, dot)));
    if (found == value->end()) return nullptr;
    value = &*found;
    if (dot == path.npos) return value;
    path = path.substr(dot + 1);
  }
}

}  // namespace

Headline frozen_headline(const std::string& kind, const std::string& evaluation,
                         const Json& metrics) {
  if (!metrics.is_object()) return frozen_headline(kind, evaluation, Json::object());
  for (const Frozen& known : kFrozen) {
    if (known.kind != kind) continue;
    return {known.share ? share_key(evaluation, metrics) : known.key, known.title, known.share,
            known.share};
  }
  return {share_key(evaluation, metrics), kind, true, true};
}

Headline headline_of(const Record& record) {
  const std::string kind = one_line(record.evaluation.kind);
  if (!record.headline) {
    return frozen_headline(kind, one_line(record.evaluation.name), record.metrics);
  }
  Headline out{record.headline->key, one_line(record.headline->title),
               record.headline->direction == "higher"};
  if (out.title.empty()) out.title = kind;
  out.share =
      out.higher && is_number(record.metrics, "correct") && is_number(record.metrics, "total");
  return out;
}

std::optional<double> figure_at(const Json& metrics, const Headline& headline) {
  const Json* value = value_at(metrics, headline.key);
  if (value && value->is_number()) return value->get<double>();
  const bool too_large = value && !headline.higher && is_number(metrics, "nll") &&
                         !std::isfinite(std::exp(metrics["nll"].get<double>()));
  if (too_large) return std::numeric_limits<double>::infinity();
  return {};
}

}  // namespace ptq::report
