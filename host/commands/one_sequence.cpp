// What the commands about one sequence have in common.
#include "host/commands/one_sequence.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <map>
#include <new>
#include <optional>
#include <sstream>
#include <utility>

#include "host/machine.hpp"
#include "host/plugin_folders.hpp"
#include "host/setting.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/run/apart.hpp"
#include "ptq/run/cancel.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/grid.hpp"
#include "ptq/run/locate.hpp"

namespace ptq {
namespace {

std::vector<int32_t> ids_from_list(const std::string& list) {
  std::vector<int32_t> ids;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    char* end = nullptr;
    const long long id = std::strtoll(word.c_str(), &end, 10);
    if (word.empty() || *end != 0 || id < 0 || id > std::numeric_limits<int32_t>::max()) {
      throw usage_error("`" + word + "` is not a token id", "--ids", "for example --ids 1,2,3");
    }
    ids.push_back(int32_t(id));
  }
  return ids;
}

// The methods as an experiment would have them: one variant, of one part for each --method.
GridMethod read_method(const Arguments& arguments) {
  const std::vector<std::string> names = list_of(arguments, "method");
  ConfigNode given;
  for (const std::string& setting : list_of(arguments, "set")) apply_setting(given, setting);
  if (names.empty() && !given.members.empty()) {
    throw usage_error("--set needs --method", "--set", "for example --method kivi --set bits=2");
  }
  MethodVariant variant;
  variant.where = "--method";
  for (const std::string& name : names) {
    const ConfigNode* options = names.size() == 1 ? &given : given.find(name);
    variant.label += (variant.label.empty() ? "" : " + ") + name;
    variant.parts.push_back(
        {name, options != nullptr ? to_json(*options) : Json::object(), "--method", "--set"});
  }
  for (const auto& [key, value] : given.members) {
    if (names.size() < 2 || std::find(names.begin(), names.end(), key) != names.end()) continue;
    throw usage_error("`" + key + "` is none of the methods", "--set",
                      "with two methods: --set " + names[0] + ".KEY=VALUE");
  }
  if (names.empty()) return {};
  const PluginSet plugins = PluginSet::scan(plugin_folders(list_of(arguments, "plugins")));
  std::map<std::string, std::string> hashes;
  Problems problems;
  GridMethod method =
      resolve_method(variant, plugins.methods(), skipped_text(plugins), hashes, problems);
  problems.throw_if_any();
  return method;
}

std::optional<calibrate::CalibrationSource> read_calibration(const Arguments& arguments) {
  calibrate::CalibrationSource source;
  calibrate::CalibrationSettings& s = source.settings;
  s.text = text_of(arguments, "calibration");
  if (s.text.empty()) return {};
  s.sequences = integer_of(arguments, "calibration-sequences", s.sequences, 1, 4096);
  s.length = integer_of(arguments, "calibration-length", s.length, 2, kLongestContext);
  source.file = find_data_file(s.text, {working_folder()}, "--calibration").string();
  source.sha256 = sha256_file(source.file);
  return source;
}

SubjectRequest read_subject(const Arguments& arguments) {
  SubjectRequest request;
  request.build = code_build();
  request.device = resolve_device(text_of(arguments, "device"), request.build);
  GridMethod method = read_method(arguments);
  request.method = std::move(method.record);
  request.plugin_files = std::move(method.plugin_files);
  request.seed = uint64_t(integer_of(arguments, "seed", 0, 0, std::numeric_limits<int64_t>::max()));
  request.model.folder =
      find_model(text_of(arguments, "model"), {working_folder()}, "--model").folder;
  if (const std::string compute = text_of(arguments, "compute"); !compute.empty()) {
    request.model.compute = compute_from_word(compute, "--compute");
    check_compute(request.device, request.model.compute, "--compute");
  }
  request.model.random_seed = random_weights_seed(request.model.folder, false, 0);
  request.threads = int(integer_of(arguments, "threads", 0, 1, 4096));
  request.calibration = read_calibration(arguments);
  request.calibration_where = "--calibration";
  request.calibration_hint = "add --calibration FILE, for example datasets/embedded/calib.txt";
  request.with_tokenizer = arguments.count("text") > 0;
  return request;
}

}  // namespace

const char* const kOneSequenceHelp =
    R"(  --model DIR      a Hugging Face folder, a GGUF file, or the id of a model that was downloaded
  --ids LIST       token ids, used as given
  --text FILE      a text; the tokenizer adds its special tokens
  --method NAME    an installed method; default full precision. Twice: one for the weights and
                   one for the cache
  --set KEY=VALUE  an option of the method, repeatable; of two methods METHOD.KEY=VALUE
  --calibration FILE              the text of a method that learns from one
  --calibration-sequences N       pieces of it, default 16
  --calibration-length N          tokens of a piece, default 2048
  --regime NAME    independent (default without --method): one pass without a cache;
                   streaming (default with --method): every token reads the cache;
                   prefill-exact: the tokens read each other in full precision;
                   prefill-encoded: all tokens read the cache as it is after the last
  --compute NAME   fp32 (default); bf16: rounded to bfloat16 where the reference
                   implementation rounds when it runs in it; or int8: inputs of linear layers
                   whose weights are stored as integers become integers, a scale for 32 of them
  --seed N         of the method; default 0
  --device NAME, --threads N, --plugins DIR: as in ptq-host run
)";

Arguments parse_one_sequence(const std::vector<std::string>& args, const OwnOptions& own) {
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  for (const char* name : {"model", "ids", "text", "regime", "seed", "threads", "compute",
                           "calibration", "calibration-sequences", "calibration-length"}) {
    add(name, po::value<std::string>());
  }
  for (const char* name : own.with_value) add(name, po::value<std::string>());
  for (const char* name : own.flags) add(name, po::bool_switch());
  for (const char* name : {"method", "set", "plugins"}) {
    add(name, po::value<std::vector<std::string>>());
  }
  add("device", po::value<std::string>()->default_value("auto"));
  const Arguments arguments = parse_arguments(args, options);
  if (text_of(arguments, "model").empty()) {
    throw usage_error("--model is missing", "", "--help shows examples");
  }
  const size_t given = arguments.count("ids") + arguments.count("text");
  if (given > 1 || (given == 0 && own.needs_tokens)) {
    throw usage_error("either --ids or --text must be given", "", "--help shows examples");
  }
  return arguments;
}

OneSequence open_one_sequence(const Arguments& arguments) {
  SubjectRequest request = read_subject(arguments);
  OneSequence one;
  one.compute = request.model.compute;
  const std::string word = text_of(arguments, "regime");
  one.regime = request.method.parts.empty() ? Regime::independent : Regime::streaming;
  if (!word.empty()) one.regime = regime_from_word(word, "--regime");
  std::string text;
  if (arguments.count("ids") > 0) {
    one.ids = ids_from_list(text_of(arguments, "ids"));
  } else if (arguments.count("text") > 0) {
    text = read_utf8_file(text_of(arguments, "text"));
  }
  if (const auto seed = request.model.random_seed)
    fmt::print(stderr, "note: {}\n", random_weights_note(*seed));
  one.subject = std::make_unique<OpenSubject>(std::move(request), SubjectReports{});
  if (arguments.count("text") > 0) one.ids = one.subject->tokenizer().encode(text);
  const bool given = arguments.count("ids") + arguments.count("text") > 0;
  if (given && one.ids.empty()) throw usage_error("there are no tokens", "--ids or --text");
  return one;
}

void print_warnings(OpenSubject& subject) {
  std::vector<std::string> warnings = subject.warnings();
  for (std::string& change : subject.methods().settle()) warnings.push_back(std::move(change));
  for (const std::string& warning : warnings) fmt::print(stderr, "warning: {}\n", warning);
}

std::string compute_apart(const Arguments& arguments, const std::string& what,
                          const std::function<std::string()>& compute) {
  ApartSettings settings;
  settings.quiet = false;
  const ApartEnd end = Apart::run(settings, [&] {
    ::dup2(2, 1);  // what a plugin prints is no answer of ours
    Cancel::install_handlers();
    Json answer;
    try {
      answer["text"] = compute();
    } catch (const Error& e) {
      answer = {{"code", int(e.code())},
                {"message", e.message()},
                {"where", e.where()},
                {"hint", e.hint()}};
    } catch (const std::bad_alloc&) {
      answer = {{"code", int(ExitCode::resources)},
                {"message", "out of memory"},
                {"where", ""},
                {"hint", ""}};
    }
    return json_text(answer);
  });
  if (end.how != ApartEnd::How::answered) {
    std::string method;
    for (const std::string& name : list_of(arguments, "method"))
      method += (method.empty() ? "" : " + ") + name;
    throw Error(ExitCode::cells_failed,
                method.empty()
                    ? "the process that computes the " + what + " has no answer: it " + end.reason()
                    : "method `" + method + "` " + end.reason(),
                "",
                "no " + what + " was written" +
                    std::string(method.empty() ? "" : "; ptq-host check says more of a plugin"));
  }
  const Json answer = Json::parse(end.answer);
  if (answer.contains("text")) return answer["text"].get<std::string>();
  throw Error(ExitCode(answer["code"].get<int>()), answer["message"].get<std::string>(),
              answer["where"].get<std::string>(), answer["hint"].get<std::string>());
}

}  // namespace ptq
