// One cell in its own process: load the model, load the methods, encode, evaluate, write the
// result. Everything it needs to know comes in one JSON file from the supervisor.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/calibrate/kv_samples.hpp"
#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/atomic_file.hpp"
#include "ptq/core/clock.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/cache_report.hpp"
#include "ptq/eval/cached_decode.hpp"
#include "ptq/eval/exercised.hpp"
#include "ptq/eval/generation.hpp"
#include "ptq/eval/passkey.hpp"
#include "ptq/eval/perplexity.hpp"
#include "ptq/eval/retrieval.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/results/record.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/results/record_page.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/plugins.hpp"
#include "ptq/run/random_model.hpp"

namespace ptq {

// What the methods of a cell may calibrate on.
struct CalibrationJob {
  calibrate::CalibrationSettings settings;
  std::string file, sha256;
};

struct CellJob {
  Record record;  // complete but for what is measured
  std::filesystem::path model_folder, attempt;
  Compute compute = Compute::fp32;
  std::optional<uint64_t> random_seed;  // of random weights; nothing: the folder's weights
  std::string data_file;                // empty: the evaluation reads none
  std::optional<CalibrationJob> calibration;
  std::vector<std::string> plugin_files;  // of each part of the method
  std::string device = "cpu";             // or "cuda:N"
  int threads = 0;                        // 0 = all cores
  int64_t supervisor = 0;                 // process id
};

// A path as JSON. Names of files are bytes, strings of JSON are UTF-8: other bytes stand as
// numbers.
inline Json path_json(const std::string& path) {
  if (utf8_error_offset(path) == std::string::npos) return path;
  Json bytes = Json::array();
  for (const char c : path) bytes.push_back(int(static_cast<unsigned char>(c)));
  return bytes;
}
inline std::string path_from_json(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  std::string path;
  for (const Json& byte : json) path += char(byte.get<int>());
  return path;
}

inline Json to_json(const CellJob& job) {
  Json plugin_files = Json::array();
  for (const std::string& file : job.plugin_files) plugin_files.push_back(path_json(file));
  Json json = {{"record", to_json(job.record)},
               {"model_folder", path_json(job.model_folder.string())},
               {"attempt", path_json(job.attempt.string())},
               {"compute", compute_word(job.compute)},
               {"data_file", path_json(job.data_file)},
               {"plugin_files", plugin_files},
               {"device", job.device},
               {"threads", job.threads},
               {"supervisor", job.supervisor}};
  if (job.random_seed) json["random_seed"] = *job.random_seed;
  if (job.calibration) {
    json["calibration"] = {{"settings", settings_to_json(job.calibration->settings)},
                           {"file", path_json(job.calibration->file)},
                           {"sha256", job.calibration->sha256}};
  }
  return json;
}

inline CellJob job_from_json(const Json& json, const std::string& where) {
  CellJob job;
  job.record = record_from_json(json.at("record"), where);
  job.model_folder = path_from_json(json.at("model_folder"));
  job.attempt = path_from_json(json.at("attempt"));
  job.compute = compute_from_word(json.at("compute").get<std::string>(), where);
  if (json.contains("random_seed")) job.random_seed = json.at("random_seed").get<uint64_t>();
  job.data_file = path_from_json(json.at("data_file"));
  if (json.contains("calibration")) {
    const Json& c = json.at("calibration");
    job.calibration = {calibration_from_json(c.at("settings")), path_from_json(c.at("file")),
                       c.at("sha256").get<std::string>()};
  }
  for (const Json& file : json.at("plugin_files")) {
    job.plugin_files.push_back(path_from_json(file));
  }
  job.device = json.at("device").get<std::string>();
  job.threads = json.at("threads").get<int>();
  job.supervisor = json.at("supervisor").get<int64_t>();
  return job;
}

namespace cell_detail {

// The instances of a cell's methods and what they offer.
struct Methods {
  std::vector<std::unique_ptr<MethodInstance>> instances;
  KvMethod* kv = nullptr;
  WeightMethod* weights = nullptr;
};

inline std::unique_ptr<MethodInstance> make_instance(const Record::Part& part,
                                                     const std::string& file, uint64_t seed) {
  if (sha256_file(file) != part.plugin_sha256) {
    throw environment_error("the plugin was changed while the experiment ran", file,
                            "run the experiment again");
  }
  for (const MethodInfo& info : PluginSet::load(file)) {
    if (info.name == part.method) {
      return std::make_unique<MethodInstance>(info, part.options, seed);
    }
  }
  throw environment_error("the plugin has no method `" + part.method + "`", file);
}

// Loads exactly the files of the parts: a plugin that cannot be loaded must not touch other cells.
inline Methods make_methods(const CellJob& job, const ModelConfig& config) {
  Methods methods;
  for (size_t i = 0; i < job.plugin_files.size(); ++i) {
    methods.instances.push_back(
        make_instance(job.record.method.parts.at(i), job.plugin_files[i], job.record.seed));
    MethodInstance& instance = *methods.instances.back();
    if (KvMethod* kv = instance.kv(config)) methods.kv = kv;
    if (WeightMethod* weights = instance.weights()) methods.weights = weights;
  }
  return methods;
}

inline bool wants_calibration(const KvMethod* kv) {
  return kv != nullptr && (kv->wants().samples || kv->wants().fisher);
}

inline Error calibration_is_missing(const std::string& label, const std::string& where) {
  return usage_error(
      "`" + label + "` learns from a calibration text, and the experiment names none", where,
      "add to it:  [calibration]  text = \"datasets/embedded/calib.txt\"");
}

// Shows a cache method what it wants to learn from. Returns what the result says about it.
inline Json calibrate_cache(const CellJob& job, KvMethod& kv, const Tokenizer& tokenizer,
                            const EngineOptions& options, std::vector<std::string>& warnings,
                            const std::function<void(double)>& progress) {
  if (!job.calibration) {
    throw calibration_is_missing(job.record.method.label, job.record.experiment);
  }
  const calibrate::CalibrationSettings& settings = job.calibration->settings;
  const auto gradients = make_cpu_gradients(job.model_folder.string(), options);
  const auto sequences =
      calibrate::read_sequences(tokenizer, job.calibration->file, settings,
                                gradients->config().max_position_embeddings, job.record.seed);
  const calibrate::KvCalibration used = calibrate::calibrate_kv(
      *gradients, kv, sequences, uint64_t(settings.memory_gib * double(1 << 30)), progress);
  if (used.sequences < settings.sequences) {
    warnings.push_back("calibrated on " + std::to_string(used.sequences) + " of " +
                       std::to_string(settings.sequences) +
                       " sequences; calibration.memory_gib allows no more");
  }
  Json json = {{"text", settings.text},
               {"text_sha256", job.calibration->sha256},
               {"join", settings.join},
               {"sequences", used.sequences},
               {"length", used.length},
               {"seed", job.record.seed},
               {"sample_bytes", used.sample_bytes}};
  put_number(json, "loss", used.loss, "the method wants no gradients");
  return json;
}

inline Json weights_json(const WeightBytes& bytes) {
  Json json = {{"bytes", bytes.total()},
               {"bytes_encoded", bytes.encoded},
               {"bytes_dense", bytes.dense},
               {"encoded_scalars", bytes.encoded_scalars},
               {"dense_scalars", bytes.dense_scalars}};
  const bool any = bytes.encoded_scalars > 0;
  put_number(json, "encoded_bits", any ? bytes.encoded_bits() : std::nan(""),
             "no layer is encoded");
  return json;
}

// Hands the layers on to the method and notes what it did with them.
class WeightsWitness : public WeightMethod {
 public:
  explicit WeightsWitness(WeightMethod& method) : method_(method) {}
  void encode(int layer, const std::string& name, const std::string& kind, const float* w,
              int64_t rows, int64_t columns, RowSink& out) override {
    method_.encode(layer, name, kind, w, rows, columns, out);
    if (out.filled()) {
      ++encoded_;
    } else {
      plain_.push_back(name);
    }
  }
  // Nothing where no layer was encoded.
  void write(Json& weights) const {
    if (encoded_ == 0) return;
    weights["layers_encoded"] = encoded_;
    weights["layers_plain"] = plain_;
  }

 private:
  WeightMethod& method_;
  int64_t encoded_ = 0;
  std::vector<std::string> plain_;  // linear layers that stay as they are
};

struct Evaluate {
  eval::Subject& subject;
  const std::string& data_file;
  const eval::Progress& progress;

  eval::Outcome operator()(eval::PerplexitySettings settings) const {
    settings.text = data_file;
    return eval::perplexity(subject, settings, progress);
  }
  eval::Outcome operator()(eval::CachedDecodeSettings settings) const {
    settings.texts = data_file;
    return eval::cached_decode(subject, settings, progress);
  }
  eval::Outcome operator()(const eval::RetrievalSettings& settings) const {
    return eval::retrieval_suite(subject, settings, progress);
  }
  eval::Outcome operator()(const eval::PasskeySettings& settings) const {
    return eval::passkey(subject, settings, progress);
  }
  eval::Outcome operator()(eval::GenerationSettings settings) const {
    settings.texts = data_file;
    return eval::generation(subject, settings, progress);
  }
};

}  // namespace cell_detail

// Runs the cell and writes samples.jsonl, result.md and, last, record.json into job.attempt.
// report(fraction, note): fraction of the whole cell; from any thread.
inline void run_cell(const CellJob& job,
                     const std::function<void(double, const std::string&)>& report) {
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
  progress(0, "loading");
  const Tokenizer tokenizer = load_tokenizer(job.model_folder, job.random_seed.has_value());
  const EngineOptions options{job.threads, job.compute,
                              make_random_weights(job.random_seed, job.threads)};
  const std::string build = record.code.version + "+" + record.code.git;
  const auto open = [&] {
    return make_engine(job.device, build, job.model_folder.string(), options);
  };
  const auto engine = open();
  record.environment["device"] = engine->device();
  cell_detail::Methods methods = cell_detail::make_methods(job, engine->config());
  for (const auto& instance : methods.instances) {
    instance->on_progress([&, name = instance->info().name](double fraction) {
      report(shown, doing + " (" + name + ": " + std::to_string(int(100 * fraction)) + " %)");
    });
  }
  // Divergence is measured against full precision in lock step. Where the method leaves the weights
  // alone, the same engine with a full-precision cache is that reference.
  std::unique_ptr<Engine> second;
  if (methods.weights != nullptr && !record.method.lossless) {
    second = open();
  }
  const double load_seconds = whole.seconds();

  const Stopwatch calibrating;
  const bool calibrates = cell_detail::wants_calibration(methods.kv);
  const double calibrate_share = calibrates ? 0.2 : 0.0;  // of the progress bar
  Json calibration;
  if (calibrates) {
    calibration = cell_detail::calibrate_cache(
        job, *methods.kv, tokenizer, options, record.warnings,
        [&](double share) { progress(calibrate_share * share, "calibrating"); });
  }
  const double calibrate_seconds = calibrates ? calibrating.seconds() : 0.0;

  const Stopwatch quantizing;
  const double encode_share = methods.weights != nullptr ? 0.2 : 0.0;
  Json layers = Json::object();
  if (methods.weights != nullptr) {
    cell_detail::WeightsWitness witness(*methods.weights);
    engine->encode_weights(witness, [&](int done, int total) {
      progress(calibrate_share + encode_share * done / std::max(total, 1), "encoding weights");
    });
    witness.write(layers);
  }
  const double quantize_seconds = quantizing.seconds();

  const Stopwatch evaluating;
  const double begin = calibrate_share + encode_share;
  progress(begin, "evaluating");
  const eval::Progress eval_progress = [&](double fraction, const std::string& note) {
    progress(begin + (1 - begin) * fraction, note);
  };
  const EvaluationSettings settings =
      settings_from_json(record.evaluation.kind, record.evaluation.settings);
  const auto evaluate = [&](Engine* reference) {
    eval::Subject subject{*engine, methods.kv, reference, tokenizer};
    eval::Outcome outcome =
        std::visit(cell_detail::Evaluate{subject, job.data_file, eval_progress}, settings);
    outcome.metrics["weights"] = cell_detail::weights_json(engine->weight_bytes());
    outcome.metrics["weights"].update(layers);
    return outcome;
  };
  // What calls itself full precision needs no reference, unless it turns out to be none.
  const bool says_lossless = record.method.lossless;
  eval::Outcome outcome = evaluate(says_lossless ? nullptr : second ? second.get() : engine.get());
  if (says_lossless && !is_full_precision(outcome.metrics)) {
    record.method.lossless = false;
    record.warnings.push_back(
        "not full precision: the method calls itself lossless, but what is stored of its weights "
        "or cache is not what the model made");
    if (methods.weights != nullptr) second = open();
    outcome = evaluate(second ? second.get() : engine.get());
  }
  const double eval_seconds = evaluating.seconds();

  record.metrics = outcome.metrics;
  if (calibrates) record.metrics["calibration"] = calibration;
  uint64_t scratch = 0, bookkeeping = 0;  // of the plugins
  for (const auto& instance : methods.instances) {
    scratch += instance->peak_scratch();
    bookkeeping += instance->peak_bookkeeping();
    for (const std::string& change : instance->settle()) record.warnings.push_back(change);
  }
  record.metrics["memory"] = {{"peak_resident_bytes", peak_resident_bytes()},
                              {"plugin_scratch_peak_bytes", scratch},
                              {"plugin_bookkeeping_peak_bytes", bookkeeping}};
  record.metrics["time"] = {{"load_seconds", load_seconds},
                            {"calibrate_seconds", calibrate_seconds},
                            {"quantize_seconds", quantize_seconds},
                            {"eval_seconds", eval_seconds}};

  eval::MethodFacts facts;
  facts.lossless = record.method.lossless;
  facts.weights = methods.weights != nullptr;
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
  if (const std::string note = eval::uneven_cache_note(outcome.metrics); !note.empty()) {
    record.warnings.push_back(note);
  }
  record.seconds = whole.seconds();

  std::string samples;
  for (const Json& sample : outcome.samples) samples += json_text(sample) + "\n";
  record.samples_sha256 = sha256_hex(samples);
  write_file_synced(job.attempt / "samples.jsonl", samples);
  write_file_synced(job.attempt / "result.md", result_markdown(record));
  // The supervisor takes a cell for finished when this file is there.
  write_file_synced(job.attempt / "record.json", json_text(to_json(record), 2) + "\n");
}

}  // namespace ptq
