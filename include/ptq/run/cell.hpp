// One cell in its own process: opens the subject, evaluates it, writes the result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/clock.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/kept_logits.hpp"
#include "ptq/engine/kept_prompts.hpp"
#include "ptq/engine/logits_digest.hpp"
#include "ptq/eval/decide.hpp"
#include "ptq/eval/exercised.hpp"
#include "ptq/eval/kinds.hpp"
#include "ptq/eval/measured.hpp"
#include "ptq/eval/score_book.hpp"
#include "ptq/results/record.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/results/record_page.hpp"
#include "ptq/results/token_file.hpp"
#include "ptq/run/cell_job.hpp"
#include "ptq/run/open_subject.hpp"
#include "ptq/run/settings_io.hpp"

namespace ptq {
namespace cell_detail {

inline eval::Settings settings_of(const CellJob& job) {
  return eval::with_files(
      settings_from_json(job.record.evaluation.kind, job.record.evaluation.settings), job.files);
}

// What is kept of a run with noise.
inline Json noise_floor_json(const Json& metrics) {
  Json floor = {{"relative", double(kRoundingNoise)}};
  for (const char* key :
       {"kl_tokens", "kl_mean", "kl_median", "kl_p90", "kl_p99", "kl_max", "kl_reverse_mean",
        "ear_mean", "top1_agreement", "delta_p_mean", "delta_p_rms", "delta_nll"}) {
    if (metrics.contains(key)) floor[key] = metrics[key];
  }
  return floor;
}

// The file of the prompts' keys and values beside that of the reference's logits.
inline std::filesystem::path prompts_file(const CellJob& job) {
  return std::filesystem::path(job.kept_reference).replace_filename("prompts");
}

// What was kept of prompts, for a method that changes nothing but the cache.
inline KeptPrompts kept_prompts(const CellJob& job, OpenSubject& opened) {
  const MethodSet& methods = opened.methods();
  if (job.kept_reference.empty() || methods.weights != nullptr || methods.pruner != nullptr ||
      !std::filesystem::exists(prompts_file(job)))
    return KeptPrompts(uint64_t{0});
  return KeptPrompts(prompts_file(job));
}

// A prompt that was taken costs the method what its pass cost where it was run: the clocks of
// methods that take prompts and of methods that run them can be compared.
inline void note_taken(const PromptedEngine& engine, Record& record, Json& metrics) {
  if (engine.taken() == 0) return;
  record.environment["prompts"] = "kept";
  metrics["seconds"] = metrics.at("seconds").get<double>() + engine.seconds();
  if (metrics.contains("prefill_tokens_per_second"))
    put_number(metrics, "prefill_tokens_per_second", eval::kUnknown,
               "prompts were taken from a pass that all methods share");
}

// Evaluates the subject. What calls itself full precision needs no reference, unless it turns out
// to be none; the record says so then.
inline eval::Outcome evaluate(const CellJob& job, OpenSubject& opened, Record& record,
                              const eval::Progress& progress) {
  const eval::Settings settings = settings_of(job);
  std::optional<eval::ScoreBook> scores, reference_scores;
  if (!job.unfinished.empty()) scores.emplace(job.unfinished, eval::ScoreBook::Use::extend);
  if (!job.kept_reference.empty() && eval::keeps_of(settings) == eval::Keeps::scores)
    reference_scores.emplace(job.kept_reference, eval::ScoreBook::Use::read);
  const KeptPrompts prompts = kept_prompts(job, opened);
  // A run with noise has two sides and comes behind the one without.
  const double noise_share = job.noise_floor && record.method.lossless ? 2.0 / 3 : 0;
  const auto measure = [&](bool with_reference) {
    PromptedEngine prompted(opened.engine(), prompts, opened.kv());
    DigestedEngine digested(prompted);
    eval::Subject subject = opened.subject(digested, with_reference);
    if (scores) subject.scores = &*scores;
    if (reference_scores) subject.reference_scores = &*reference_scores;
    eval::Outcome outcome =
        eval::evaluate(subject, settings, [&](double fraction, const std::string& note) {
          progress((1 - noise_share) * fraction, note);
        });
    outcome.metrics["weights"] = opened.weights();
    note_taken(prompted, record, outcome.metrics);
    // Where scores may come from an interrupted run, so do logits that nobody saw here.
    if (!scores)
      outcome.metrics["logits"] = {{"rows", digested.digest().rows()},
                                   {"xxh3_128", digested.digest().hex()}};
    return outcome;
  };
  const eval::Headline headline = eval::headline_of(settings);
  record.headline = {headline.key, headline.direction, headline.title};
  const bool says_lossless = record.method.lossless;
  eval::Outcome outcome = measure(!says_lossless);
  if (!says_lossless) return outcome;
  if (is_full_precision(outcome.metrics)) {
    if (!job.noise_floor) return outcome;
    eval::Subject subject{opened.engine(),
                          opened.kv(),
                          &opened.engine(),
                          opened.tokenizer(),
                          {kRoundingNoise, record.seed}};
    const eval::Outcome noisy =
        eval::evaluate(subject, settings, [&](double fraction, const std::string& note) {
          progress(1 - noise_share + noise_share * fraction, "noise floor, " + note);
        });
    outcome.metrics["noise_floor"] = noise_floor_json(noisy.metrics);
    return outcome;
  }
  record.method.lossless = false;
  record.warnings.push_back(
      "not full precision: the method calls itself lossless, but what is stored of its weights "
      "or cache is not what the model made");
  return measure(true);
}

// How much of the evaluation's text the method has learnt from: of its files the most.
inline void note_overlap(OpenSubject& opened, const std::vector<std::string>& files,
                         Record& record) {
  double share = 0;
  for (const std::string& file : files) share = std::max(share, opened.calibration_overlap(file));
  Json& metrics = record.metrics;
  (metrics.contains("calibration") ? metrics : metrics["pruning"])["calibration"]["overlap"] =
      share;
  if (share <= 0.01) return;
  record.warnings.push_back(
      "contamination: " + std::to_string(int(std::lround(100 * share))) +
      " % of the runs of 13 tokens of the evaluation's text stand in the calibration too");
}

// What to mistrust of the result, as warnings and status of the record.
inline void judge(const eval::Outcome& outcome, const MethodSet& methods, Record& record) {
  eval::MethodFacts facts;
  facts.lossless = record.method.lossless;
  facts.weights = methods.weights != nullptr || methods.pruner != nullptr;
  facts.kv = methods.kv != nullptr;
  if (methods.kv != nullptr) {
    facts.first_encoded_length = eval::first_encoded_length(*methods.kv);
    facts.evicts = methods.kv->policy(KvSide::keys).evicts;
    if (methods.kv->policy(KvSide::keys).rewrites || methods.kv->policy(KvSide::values).rewrites)
      record.warnings.push_back(
          "a study's preset for reproduction: the whole history is encoded again at every step, so "
          "errors add up");
  }
  for (const eval::Finding& finding : eval::check_exercised(outcome, facts)) {
    record.warnings.push_back(finding.sentence);
    if (finding.severity == eval::Severity::error) record.status = "invalid";
  }
  if (const auto failing = outcome.metrics.value("cells_baseline_fails", int64_t{0})) {
    record.warnings.push_back(
        "baseline fails: full precision answers fewer than 90 % in " + std::to_string(failing) +
        " of " + std::to_string(outcome.metrics.value("cells_total", int64_t{0})) +
        " combinations of task, haystack, length and depth; there the accuracy says nothing about "
        "a method");
  }
  if (const auto lost = outcome.metrics.value("nonfinite_tokens", int64_t{0})) {
    record.status = "invalid";
    record.warnings.push_back(
        "not finite: a logit of " + std::to_string(lost) + " of " +
        std::to_string(lost + outcome.metrics.value("tokens_scored", int64_t{0})) +
        " scored tokens is a NaN or an infinity; these tokens are void, and the figures are those "
        "of the others");
  }
  if (const std::string note = eval::decided_note(outcome.metrics); !note.empty()) {
    record.warnings.push_back(note);
  }
  if (const std::string note = eval::uneven_cache_note(outcome.metrics); !note.empty()) {
    record.warnings.push_back(note);
  }
}

// samples.jsonl, tokens.bin where tokens were scored, result.md and, last, record.json: the
// supervisor takes a cell for finished when that is there.
inline void write_result(const std::filesystem::path& folder, const eval::Outcome& outcome,
                         Record& record) {
  std::string samples;
  for (const Json& sample : outcome.samples) samples += json_text(sample) + "\n";
  record.samples_sha256 = sha256_hex(samples);
  write_file_synced(folder / "samples.jsonl", samples);
  if (!outcome.tokens.tokens.empty()) {
    const std::string tokens = token_file_bytes(outcome.tokens);
    record.tokens_sha256 = sha256_hex(tokens);
    write_file_synced(folder / kTokenFileName, tokens);
  }
  write_file_synced(folder / "result.md", result_markdown(record));
  write_file_synced(folder / "record.json", json_text(to_json(record), 2) + "\n");
}

}  // namespace cell_detail

// Runs the evaluation with full precision, no plugin near, and keeps the logits or scores of the
// reference in job.kept_reference, and beside it keys and values of prompts, for the cells that are
// held against it.
inline void keep_reference(const CellJob& job,
                           const std::function<void(double, const std::string&)>& report) {
  SubjectRequest request = job.subject;
  request.build = job.record.code.version + "+" + job.record.code.git;
  request.with_tokenizer = true;
  OpenSubject opened(std::move(request), {});
  const eval::Settings settings = cell_detail::settings_of(job);
  if (eval::keeps_of(settings) == eval::Keeps::scores) {
    eval::ScoreBook scores(job.kept_reference, eval::ScoreBook::Use::extend);
    eval::Subject subject{opened.engine(), nullptr, nullptr, opened.tokenizer(), {}, &scores};
    eval::evaluate(subject, eval::with_regime(settings, Regime::streaming), report);
    return;
  }
  KeptLogits kept(job.kept_limit);
  KeptPrompts prompts(job.prompts_limit);
  PromptedEngine engine(opened.engine(), prompts, nullptr);
  const auto real = [&]() -> Engine& { return engine; };
  KeptEngine reference(engine.config(), kept, KeptEngine::Use::collect, real);
  // The other side asks for the same calls and finds most of them answered.
  KeptEngine same(engine.config(), kept, KeptEngine::Use::read, real);
  PromptKeeper keeper(same, opened.engine(), prompts);
  eval::Subject subject{keeper, nullptr, &reference, opened.tokenizer()};
  eval::evaluate(subject, settings, report);
  kept.write(job.kept_reference);
  if (prompts.empty()) return;
  const std::filesystem::path file = cell_detail::prompts_file(job);
  try {
    prompts.write(file);
  } catch (const Error&) {  // no room: each cell runs its own prompts
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
  }
}

// Runs the cell and writes its files into job.attempt.
// report(fraction, note): fraction of the whole cell; from any thread.
inline void run_cell(const CellJob& job,
                     const std::function<void(double, const std::string&)>& report) {
  constexpr double kStepShare = 0.2;  // of the cell, for each long step of opening the subject
  Record record = job.record;
  record.started_at = utc_time();
  const Stopwatch whole;

  // What a method reports of one long call is progress of the cell: its share does not move, but
  // the cell is alive.
  double shown = 0;
  std::string doing;
  const auto progress = [&](double fraction, const std::string& note) {
    shown = fraction;
    doing = note;
    report(fraction, note);
  };
  SubjectReports reports;
  reports.step = [&](double steps, const std::string& note) { progress(kStepShare * steps, note); };
  reports.method = [&](const std::string& name, double fraction) {
    report(shown, doing + " (" + name + ": " + std::to_string(int(100 * fraction)) + " %)");
  };
  SubjectRequest request = job.subject;
  request.build = record.code.version + "+" + record.code.git;
  request.with_tokenizer = true;
  request.with_reference = !record.method.lossless;
  const bool kept = !job.kept_reference.empty();
  if (eval::keeps_of(cell_detail::settings_of(job)) == eval::Keeps::logits) {
    request.kept_logits = job.kept_reference;
  } else {
    request.reference_is_spare = kept;
  }
  OpenSubject opened(std::move(request), std::move(reports));
  record.environment["device"] = opened.engine().device();
  if (kept) record.environment["reference"] = "kept";
  record.warnings.insert(record.warnings.end(), opened.warnings().begin(), opened.warnings().end());

  const Stopwatch evaluating;
  const double begin = kStepShare * opened.steps();
  progress(begin, "evaluating");
  const eval::Outcome outcome =
      cell_detail::evaluate(job, opened, record, [&](double fraction, const std::string& note) {
        progress(begin + (1 - begin) * fraction, note);
      });
  const double eval_seconds = evaluating.seconds();

  record.metrics = outcome.metrics;
  if (!opened.calibration().is_null()) record.metrics["calibration"] = opened.calibration();
  if (const PrunedModel* pruned = opened.pruned()) record.metrics["pruning"] = pruned->json();
  const bool learnt =
      !opened.calibration().is_null() || (opened.pruned() && !opened.pruned()->sequences().empty());
  if (learnt && !job.files.empty()) cell_detail::note_overlap(opened, job.files, record);
  MethodSet& methods = opened.methods();
  for (const std::string& change : methods.settle()) record.warnings.push_back(change);
  record.metrics["memory"] = {{"peak_resident_bytes", peak_resident_bytes()},
                              {"plugin_scratch_peak_bytes", methods.peak_scratch()},
                              {"plugin_bookkeeping_peak_bytes", methods.peak_bookkeeping()}};
  record.metrics["time"] = {{"load_seconds", opened.load_seconds()},
                            {"prune_seconds", opened.prune_seconds()},
                            {"calibrate_seconds", opened.calibrate_seconds()},
                            {"quantize_seconds", opened.quantize_seconds()},
                            {"eval_seconds", eval_seconds}};
  cell_detail::judge(outcome, methods, record);
  record.seconds = whole.seconds();
  cell_detail::write_result(job.attempt, outcome, record);
}

}  // namespace ptq
