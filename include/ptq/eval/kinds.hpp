// The kinds of evaluation, a line each. To add one, write eval/NAME.hpp, its settings into
// settings.hpp and its line here; experiments, grids, checks before a run, cells and records know
// it then.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "ptq/eval/answers.hpp"
#include "ptq/eval/cached_decode.hpp"
#include "ptq/eval/choices.hpp"
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

// A setting that names a file. A bare word there is short for the file of that name in `folder`.
template <class S>
struct FileSetting {
  std::string S::*member = nullptr;
  const char* key = "";
  const char *folder = "", *extension = "";  // empty: a word is a file
};

// What cells share of the reference: its logits (engine/kept_logits.hpp), or where these are too
// many its scores (score_book.hpp); the latter also let an interrupted cell go on.
enum class Keeps { logits, scores };

template <class S>
struct Kind {
  const char* word;  // in experiment files and records
  Outcome (*run)(Subject&, const S&, const Progress&);
  // Throws what running it would throw that can be known before the model is loaded.
  void (*check)(const Unloaded&, const S&);
  std::array<FileSetting<S>, 4> files;  // those that it reads, the data first
  bool scores_tokens;                   // does its outcome have tokens?
  Keeps keeps;
  Headline headline;
};

inline constexpr std::tuple kKinds{
    Kind<PerplexitySettings>{"perplexity",
                             perplexity,
                             check_perplexity,
                             {{{&PerplexitySettings::text, "text"}}},
                             true,
                             Keeps::logits,
                             {"ppl", "lower", "perplexity"}},
    Kind<CachedDecodeSettings>{"cached-decode",
                               cached_decode,
                               check_cached_decode,
                               {{{&CachedDecodeSettings::texts, "texts"}}},
                               true,
                               Keeps::logits,
                               {"ppl", "lower", "perplexity of long documents"}},
    Kind<PasskeySettings>{"passkey",
                          passkey,
                          check_passkey,
                          {},
                          false,
                          Keeps::logits,
                          {"accuracy", "higher", "passkeys found"}},
    Kind<RetrievalSettings>{"retrieval",
                            retrieval_suite,
                            check_retrieval,
                            {},
                            false,
                            Keeps::logits,
                            {"accuracy", "higher", "right answers"}},
    Kind<GenerationSettings>{"generation",
                             generation,
                             check_generation,
                             {{{&GenerationSettings::texts, "texts"}}},
                             true,
                             Keeps::logits,
                             {"ppl_pooled", "lower", "perplexity of continuations"}},
    Kind<ChoicesSettings>{"choices",
                          choices,
                          check_choices,
                          {{{&ChoicesSettings::data, "data"},
                            {&ChoicesSettings::task, "task", "datasets/tasks/", ".toml"},
                            {&ChoicesSettings::labels, "labels"},
                            {&ChoicesSettings::fewshot_data, "fewshot_data"}}},
                          false,
                          Keeps::scores,
                          {"accuracy", "higher", "right answers"}},
    Kind<AnswersSettings>{"answers",
                          answers,
                          check_answers,
                          {{{&AnswersSettings::data, "data"},
                            {&AnswersSettings::task, "task", "datasets/tasks/", ".toml"},
                            {&AnswersSettings::fewshot_data, "fewshot_data"}}},
                          false,
                          Keeps::scores,
                          {"accuracy", "higher", "right answers"}}};

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
  const auto* perplexity = std::get_if<PerplexitySettings>(&settings);
  if (perplexity != nullptr && perplexity->protocol == "rolling_words")
    return {"word_perplexity", "lower", "perplexity per word"};
  return with_kind(settings, [](const auto& kind, const auto&) { return kind.headline; });
}

inline bool scores_tokens(const Settings& settings) {
  return with_kind(settings, [](const auto& kind, const auto&) { return kind.scores_tokens; });
}

inline Keeps keeps_of(const Settings& settings) {
  return with_kind(settings, [](const auto& kind, const auto&) { return kind.keeps; });
}

// A file that settings name.
struct NamedFile {
  std::string key;   // of the setting
  std::string path;  // as written, a short form written out
  std::string word;  // the short form, where it is one
};

// The files of an evaluation, the data first; without those that are not named.
inline std::vector<NamedFile> files_of(const Settings& settings) {
  return with_kind(settings, [](const auto& kind, const auto& own) {
    std::vector<NamedFile> out;
    for (const auto& file : kind.files) {
      if (file.member == nullptr || (own.*file.member).empty()) continue;
      const std::string& written = own.*file.member;
      const bool word = file.folder[0] != 0 && written.find_first_of("/.") == written.npos;
      out.push_back(
          {file.key, word ? file.folder + written + file.extension : written, word ? written : ""});
    }
    return out;
  });
}
// The settings with other texts in place of those of files_of(), in that order.
inline Settings with_files(Settings settings, const std::vector<std::string>& texts) {
  with_kind(settings, [&](const auto& kind, auto& own) {
    size_t i = 0;
    for (const auto& file : kind.files)
      if (file.member != nullptr && !(own.*file.member).empty() && i < texts.size())
        own.*file.member = texts[i++];
  });
  return settings;
}
// For kinds that read one file: named or not, it is this one.
inline Settings with_data_file(Settings settings, const std::string& path) {
  with_kind(settings, [&](const auto& kind, auto& own) {
    if (kind.files[0].member != nullptr) own.*kind.files[0].member = path;
  });
  return settings;
}

inline Regime regime_of(const Settings& settings) {
  return std::visit([](const auto& own) { return own.regime; }, settings);
}
inline Settings with_regime(Settings settings, Regime regime) {
  std::visit([&](auto& own) { own.regime = regime; }, settings);
  return settings;
}

// Tokens of the longest sequence that the evaluation feeds; 0: the texts say it.
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
