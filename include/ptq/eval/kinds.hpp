// The kinds of evaluation, a line each. To add one, write eval/NAME.hpp, its settings into
// settings.hpp and its line here; experiments, grids, checks before a run, cells and records know
// it then.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "ptq/eval/cached_decode.hpp"
#include "ptq/eval/generation.hpp"
#include "ptq/eval/passkey.hpp"
#include "ptq/eval/perplexity.hpp"
#include "ptq/eval/retrieval.hpp"
#include "ptq/eval/settings.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

// The one figure by which methods are ranked.
struct Headline {
  const char* key;        // in the metrics; a dotted path
  const char* direction;  // "lower" or "higher": which is better
  const char* title;
};

template <class S>
struct Kind {
  const char* word;  // in experiment files and records
  Outcome (*run)(Subject&, const S&, const Progress&);
  // Throws what running it would throw that can be known before the model is loaded.
  void (*check)(const Unloaded&, const S&);
  std::string S::*data_file;  // the setting that names one; nullptr: it reads none
  bool scores_tokens;         // does its outcome have tokens?
  Headline headline;
};

inline constexpr std::tuple kKinds{
    Kind<PerplexitySettings>{"perplexity",
                             perplexity,
                             check_perplexity,
                             &PerplexitySettings::text,
                             true,
                             {"ppl", "lower", "perplexity"}},
    Kind<CachedDecodeSettings>{"cached-decode",
                               cached_decode,
                               check_cached_decode,
                               &CachedDecodeSettings::texts,
                               true,
                               {"ppl", "lower", "perplexity of long documents"}},
    Kind<PasskeySettings>{"passkey",
                          passkey,
                          check_passkey,
                          nullptr,
                          false,
                          {"accuracy", "higher", "passkeys found"}},
    Kind<RetrievalSettings>{"retrieval",
                            retrieval_suite,
                            check_retrieval,
                            nullptr,
                            false,
                            {"accuracy", "higher", "right answers"}},
    Kind<GenerationSettings>{"generation",
                             generation,
                             check_generation,
                             &GenerationSettings::texts,
                             true,
                             {"ppl_pooled", "lower", "perplexity of continuations"}}};

namespace kinds_detail {

template <class... S>
std::variant<S...> settings_of(const std::tuple<Kind<S>...>&);

}  // namespace kinds_detail

// The settings of an evaluation of any kind, by default of the first.
using Settings = decltype(kinds_detail::settings_of(kKinds));

// visit(kind, settings) for the line that the settings belong to.
template <class AnySettings, class Visit>
decltype(auto) with_kind(AnySettings& settings, const Visit& visit) {
  return std::visit(
      [&](auto& own) -> decltype(auto) {
        return visit(std::get<Kind<std::remove_cvref_t<decltype(own)>>>(kKinds), own);
      },
      settings);
}

inline std::vector<std::string> kind_words() {
  return std::apply([](const auto&... kind) { return std::vector<std::string>{kind.word...}; },
                    kKinds);
}

// Default settings of a kind; `word` is one of kind_words().
inline Settings make_settings(const std::string& word) {
  Settings settings;
  std::apply(
      [&](const auto&... kind) {
        const auto take = [&]<class S>(const Kind<S>& one) {
          if (word == one.word) settings = S{};
        };
        (take(kind), ...);
      },
      kKinds);
  return settings;
}

inline Headline headline_of(const Settings& settings) {
  return with_kind(settings, [](const auto& kind, const auto&) { return kind.headline; });
}

inline bool scores_tokens(const Settings& settings) {
  return with_kind(settings, [](const auto& kind, const auto&) { return kind.scores_tokens; });
}

// The setting that names a data file, or nullptr.
inline std::string* data_file_of(Settings& settings) {
  return with_kind(settings, [](const auto& kind, auto& own) -> std::string* {
    return kind.data_file != nullptr ? &(own.*kind.data_file) : nullptr;
  });
}
inline Settings with_data_file(Settings settings, const std::string& file) {
  if (std::string* path = data_file_of(settings)) *path = file;
  return settings;
}

inline Regime regime_of(const Settings& settings) {
  return std::visit([](const auto& own) { return own.regime; }, settings);
}

// Tokens of the longest sequence that the evaluation feeds.
inline int64_t longest_context(const Settings& settings) {
  return std::visit([](const auto& own) { return own.longest_context(); }, settings);
}

inline Outcome evaluate(Subject& subject, const Settings& settings, const Progress& progress) {
  return with_kind(settings, [&](const auto& kind, const auto& own) {
    return kind.run(subject, own, progress);
  });
}

inline void check_unloaded(const Unloaded& model, const Settings& settings) {
  with_kind(settings, [&](const auto& kind, const auto& own) { kind.check(model, own); });
}

template <class Visitor>
void visit_settings(Settings& settings, Visitor& visitor) {
  std::visit([&](auto& own) { visit_settings(own, visitor); }, settings);
}

}  // namespace ptq::eval
