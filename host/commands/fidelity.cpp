// ptq-host fidelity: writes a reference bundle, and says how far anything is from one.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "host/commands/commands.hpp"
#include "host/commands/one_sequence.hpp"
#include "host/machine.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/output_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/eval/bundle_file.hpp"
#include "ptq/eval/statistics.hpp"

namespace ptq {
namespace {

const std::string kFidelityHelp =
    std::string(
        R"(Writes what a model predicts of a text into a reference bundle (400 bytes a token), or compares a
model with one: the divergence from the reference as an interval that is proven to contain it.

  ptq-host fidelity --model models/tiny-qwen2 --text story.txt --write story.bundle
  ptq-host fidelity --model models/tiny-qwen2 --method kivi --set bits=2 --against story.bundle

usage: ptq-host fidelity --model DIR (--ids 1,2,3 | --text FILE) --write BUNDLE [options]
       ptq-host fidelity --model DIR --against BUNDLE [options]

  --write BUNDLE   token ids, and of every position the likeliest tokens (63 on average) with their
                   log-probabilities, and mass and entropy of the rest
  --against BUNDLE the tokens of the bundle are fed; the model must have its vocabulary and its
                   tokenizer, and with --ids or --text its tokens
  --window N       tokens that are read together, default 2048; every window begins empty
  --tokens N       at most so many tokens of the text
  --json           the figures as JSON
)") +
    kOneSequenceHelp;

constexpr int64_t kMostTokens = int64_t{1} << 31;

// Which text a token id stands for, as a hash; empty without a tokenizer.
std::string tokenizer_hash(OpenSubject& subject) {
  try {
    const Tokenizer& tokenizer = subject.tokenizer();
    Sha256 hash;
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      if (tokenizer.exists(id)) hash.update(std::to_string(id) + " " + tokenizer.token(id) + "\n");
    }
    return hash.hex();
  } catch (const Error& error) {  // a folder without one: the ids are all there is
    fmt::print(stderr, "note: tokenizers are not compared: {}\n", error.message());
    return {};
  }
}

std::string write_bundle(const Arguments& arguments, OneSequence& one) {
  eval::Bundle bundle;
  Engine& engine = one.subject->engine();
  bundle.vocab = engine.config().vocab_size;
  if (bundle.vocab > eval::kMost24) {
    throw usage_error("a bundle holds vocabularies of at most " + std::to_string(eval::kMost24) +
                      " tokens");
  }
  bundle.window = integer_of(arguments, "window", 2048, 2, kLongestContext);
  const int64_t most = integer_of(arguments, "tokens", kMostTokens, 2, kMostTokens);
  one.ids.resize(std::min(one.ids.size(), size_t(most)));
  bundle.tokens = one.ids;
  const uint64_t rows = eval::bundle_rows(one.ids.size(), uint64_t(bundle.window));
  if (rows == 0) throw usage_error("at least two tokens are needed", "--ids or --text");
  eval::BundleRows kept;
  double nll = 0;
  eval::run_bundle(engine, one.subject->kv(), one.ids, bundle.window, one.regime,
                   [&](size_t, const eval::LogitRow& row, int32_t target) {
                     kept.add(row, target);
                     nll += row.nll(target) / double(rows);
                   });
  kept.finish(bundle);
  std::string method;
  for (const std::string& name : list_of(arguments, "method"))
    method += (method.empty() ? "" : " + ") + name;
  bundle.about = {{"model", text_of(arguments, "model")},
                  {"method", method.empty() ? "full precision" : method},
                  {"regime", regime_word(one.regime)},
                  {"compute", compute_word(one.compute)},
                  {"tokenizer_sha256", tokenizer_hash(*one.subject)},
                  {"code", code_build()}};
  const std::string bytes = eval::bundle_bytes(bundle);
  const std::string file = text_of(arguments, "write");
  write_output_file(file, bytes);
  return fmt::format(
      "{} tokens in windows of {}, {:.4f} nats a token, {} bytes ({:.0f} a token): {}\n",
      one.ids.size(), bundle.window, nll, bytes.size(),
      double(bytes.size()) / double(one.ids.size()), file);
}

void require_same(const Arguments& arguments, OneSequence& one, const eval::Bundle& bundle,
                  const std::string& file) {
  const int64_t vocab = one.subject->engine().config().vocab_size;
  if (vocab != bundle.vocab) {
    throw usage_error("the bundle is of a vocabulary of " + std::to_string(bundle.vocab) +
                          " tokens, the model has " + std::to_string(vocab),
                      file, "a divergence needs one vocabulary");
  }
  const std::string theirs = bundle.about.value("tokenizer_sha256", std::string());
  const std::string ours = tokenizer_hash(*one.subject);
  if (!theirs.empty() && !ours.empty() && theirs != ours) {
    throw usage_error("the bundle was written with another tokenizer: its ids mean other tokens",
                      file, "compare models that share a tokenizer");
  }
  const bool given = arguments.count("ids") + arguments.count("text") > 0;
  if (!given) return;
  const int64_t most = integer_of(arguments, "tokens", kMostTokens, 2, kMostTokens);
  one.ids.resize(std::min(one.ids.size(), size_t(most)));
  const auto part =
      std::mismatch(one.ids.begin(), one.ids.end(), bundle.tokens.begin(), bundle.tokens.end());
  if (part.first == one.ids.end() && part.second == bundle.tokens.end()) return;
  throw usage_error("the bundle is of other tokens: they part at number " +
                        std::to_string(part.first - one.ids.begin()) + " (from 0); it has " +
                        std::to_string(bundle.tokens.size()) + ", here are " +
                        std::to_string(one.ids.size()),
                    file, "leave out --ids and --text to use the bundle's own");
}

// A figure of every row of which two bounds are known.
struct BoundedFigure {
  std::vector<double> low, high;
  void add(const eval::Bounds& bounds) {
    low.push_back(bounds.low);
    high.push_back(bounds.high);
  }
  Json mean() const { return {{"low", eval::mean(low)}, {"high", eval::mean(high)}}; }
  // A quantile of the bounds bounds the quantile.
  Json at(double fraction) const {
    return {{"low", eval::quantile(low, fraction)}, {"high", eval::quantile(high, fraction)}};
  }
};

Json compare(const Arguments& arguments, OneSequence& one) {
  const std::string file = text_of(arguments, "against");
  const eval::Bundle bundle = eval::read_bundle(file);
  if (bundle.heads.empty()) throw usage_error("the bundle holds no row", file);
  require_same(arguments, one, bundle, file);
  std::vector<eval::BundleRow> rows;
  bundle.for_each([&](size_t, const eval::BundleRow& row) { rows.push_back(row); });
  BoundedFigure kl, overlap;
  double nll = 0, reference = 0, squares = 0, change = 0, tail = 0, flips = 0;
  eval::run_bundle(one.subject->engine(), one.subject->kv(), bundle.tokens, bundle.window,
                   one.regime, [&](size_t r, const eval::LogitRow& row, int32_t target) {
                     const eval::BundleScore score = eval::score_against(rows[r], row, target);
                     kl.add(score.kl);
                     overlap.add(score.overlap);
                     nll += score.nll;
                     reference += score.nll_reference;
                     const double delta_p = std::exp(-score.nll) - std::exp(-score.nll_reference);
                     change += delta_p;
                     squares += delta_p * delta_p;
                     tail += double(rows[r].head.tail_mass);
                     flips += score.flip;
                   });
  const double n = double(rows.size());
  return {{"bundle", bundle.about},
          {"tokens", rows.size()},
          {"regime", regime_word(one.regime)},
          {"kl_mean", kl.mean()},
          {"kl_median", kl.at(0.5)},
          {"kl_p90", kl.at(0.9)},
          {"kl_p99", kl.at(0.99)},
          {"kl_max", kl.at(1)},
          {"ear_mean", overlap.mean()},
          {"top1_agreement", 1 - flips / n},
          {"delta_p_mean", change / n},
          {"delta_p_rms", std::sqrt(squares / n)},
          {"nll", nll / n},
          {"nll_reference", reference / n},
          {"delta_nll", (nll - reference) / n},
          {"tail_mass_mean", tail / n}};
}

std::string fidelity_table(const Json& figures) {
  const auto number = [&](const char* key) { return figures[key].get<double>(); };
  const auto interval = [&](const char* key) {
    return fmt::format("{:>12.6f} .. {:<12.6f}", figures[key]["low"].get<double>(),
                       figures[key]["high"].get<double>());
  };
  std::string text =
      fmt::format("against {}, {}: {} tokens, regime {}\n\n",
                  figures["bundle"].value("model", std::string("?")),
                  figures["bundle"].value("method", std::string("?")),
                  figures["tokens"].get<size_t>(), figures["regime"].get<std::string>());
  for (const auto& [name, key] : {std::pair{"KL mean (nats)", "kl_mean"},
                                  {"   median", "kl_median"},
                                  {"   90 %", "kl_p90"},
                                  {"   99 %", "kl_p99"},
                                  {"   largest", "kl_max"},
                                  {"EAR", "ear_mean"}}) {
    text += fmt::format("{:<16}{}\n", name, interval(key));
  }
  text += fmt::format("top-1 agreement {:>12.6f}\ndelta p, RMS    {:>12.6f}\n",
                      number("top1_agreement"), number("delta_p_rms"));
  text += fmt::format("loss            {:>12.6f}   reference {:.6f}, change {:+.6f}\n",
                      number("nll"), number("nll_reference"), number("delta_nll"));
  text += fmt::format(
      "\nThe true divergence lies inside of its interval, whatever the {:.2f} % of the "
      "reference's\n"
      "probability that the bundle does not name are spread over. The lower end is its value where "
      "the\n"
      "method keeps the proportions there.\n",
      100 * number("tail_mass_mean"));
  return text;
}

std::string compute_fidelity(const Arguments& arguments) {
  OneSequence one = open_one_sequence(arguments);
  std::string text;
  if (arguments.count("write") > 0) {
    text = write_bundle(arguments, one);
  } else {
    const Json figures = compare(arguments, one);
    text = arguments["json"].as<bool>() ? json_text(figures, 2) + "\n" : fidelity_table(figures);
  }
  print_warnings(*one.subject);
  return text;
}

}  // namespace

int fidelity_command(const std::vector<std::string>& args) {
  if (wants_help(args, kFidelityHelp.c_str())) return 0;
  const Arguments arguments =
      parse_one_sequence(args, {.with_value = {"write", "against", "window", "tokens"},
                                .flags = {"json"},
                                .needs_tokens = false});
  if (arguments.count("write") + arguments.count("against") != 1)
    throw usage_error("either --write or --against must be given", "", "--help shows examples");
  if (arguments.count("write") > 0 && arguments.count("ids") + arguments.count("text") == 0)
    throw usage_error("--write needs --ids or --text", "", "--help shows examples");
  if (arguments.count("against") > 0 && arguments.count("window") > 0)
    throw usage_error("the bundle says how long its windows are", "--window", "leave it out");
  fmt::print("{}",
             compute_apart(arguments, "fidelity", [&] { return compute_fidelity(arguments); }));
  return 0;
}

}  // namespace ptq
