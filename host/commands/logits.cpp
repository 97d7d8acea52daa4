// ptq-host logits: the logits of one sequence, for comparison with other implementations.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <sstream>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "host/experiment_toml.hpp"
#include "host/machine.hpp"
#include "host/plugin_folders.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/safetensors_write.hpp"
#include "ptq/model/tokenizer.hpp"
#include "ptq/run/apart.hpp"
#include "ptq/run/cancel.hpp"
#include "ptq/run/engine_loader.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/locate.hpp"
#include "ptq/run/plugins.hpp"
#include "ptq/run/random_model.hpp"

namespace ptq {
namespace {

constexpr const char* kHelp =
    R"(Writes the logits of a sequence of tokens to a safetensors file.

  ptq-host logits --model models/tiny-qwen2 --ids 1,2,3 --out logits.safetensors
  ptq-host logits --model models/tiny-qwen2 --text story.txt --method kivi --set bits=2 \
      --regime streaming --out kivi.safetensors

usage: ptq-host logits --model DIR (--ids 1,2,3 | --text FILE) --out FILE [options]

  --model DIR      a Hugging Face folder, or the id of a model that was downloaded
  --ids LIST       token ids, used as given
  --text FILE      a text; the tokenizer adds its special tokens
  --out FILE       tensors `logits` f32 [tokens, vocab] and `ids` i64 [tokens]
  --method NAME    an installed method; default full precision
  --set KEY=VALUE  an option of the method, repeatable
  --regime NAME    independent (default without --method): one pass without a cache;
                   streaming (default with --method): every token reads the cache;
                   prefill-exact: the tokens read each other in full precision;
                   prefill-encoded: all tokens read the cache as it is after the last
  --compute NAME   fp32 (default), or bf16: rounded to bfloat16 where the reference
                   implementation rounds when it runs in it
  --seed N         of the method; default 0
  --device NAME, --threads N, --plugins DIR: as in ptq-host run
)";

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

std::unique_ptr<MethodInstance> make_method(const Arguments& arguments) {
  const std::string name = text_of(arguments, "method");
  if (name.empty()) {
    if (!list_of(arguments, "set").empty()) {
      throw usage_error("--set needs --method", "--set", "for example --method kivi --set bits=2");
    }
    return nullptr;
  }
  const PluginSet plugins = PluginSet::scan(plugin_folders(list_of(arguments, "plugins")));
  std::vector<std::string> names;
  for (const MethodInfo& info : plugins.methods()) names.push_back(info.name);
  const MethodInfo* info = plugins.find(name);
  if (info == nullptr) {
    throw usage_error("no installed plugin has a method `" + name + "`", "--method",
                      did_you_mean(name, names) + skipped_text(plugins));
  }
  ConfigNode given;
  for (const std::string& setting : list_of(arguments, "set")) apply_setting(given, setting);
  const Json options = validate_options(info->options, to_json(given), "--set of `" + name + "`");
  return plugins.create(
      *info, options,
      uint64_t(integer_of(arguments, "seed", 0, 0, std::numeric_limits<int64_t>::max())));
}

// Computes the logits, writes the file, and gives the line to print.
std::string write_logits(const Arguments& arguments) {
  const std::string device = resolve_device(text_of(arguments, "device"), code_build());
  const std::unique_ptr<MethodInstance> method = make_method(arguments);
  const std::string word = text_of(arguments, "regime");
  Regime regime = method ? Regime::streaming : Regime::independent;
  if (!word.empty()) regime = regime_from_word(word, "--regime");

  const auto folder = find_model(text_of(arguments, "model"), {working_folder()}, "--model").folder;
  EngineOptions engine_options;
  engine_options.threads = int(integer_of(arguments, "threads", 0, 1, 4096));
  if (const std::string compute = text_of(arguments, "compute"); !compute.empty()) {
    engine_options.compute = compute_from_word(compute, "--compute");
  }
  const auto random_seed = random_weights_seed(folder, false, 0);
  engine_options.random = make_random_weights(random_seed, engine_options.threads);
  if (random_seed) fmt::print(stderr, "note: {}\n", random_weights_note(*random_seed));
  const std::vector<int32_t> ids = arguments.count("ids") > 0
                                       ? ids_from_list(text_of(arguments, "ids"))
                                       : load_tokenizer(folder, random_seed.has_value())
                                             .encode(read_utf8_file(text_of(arguments, "text")));
  if (ids.empty()) throw usage_error("there are no tokens", "--ids or --text");
  const auto engine = make_engine(device, code_build(), folder.string(), engine_options);
  KvMethod* kv = method ? method->kv(engine->config()) : nullptr;
  if (WeightMethod* weights = method ? method->weights() : nullptr) {
    engine->encode_weights(*weights, {});
  }
  const int64_t tokens = int64_t(ids.size()), vocab = engine->config().vocab_size;
  std::vector<float> logits(size_t(tokens * vocab));
  const auto sequence = engine->start(kv);
  engine->forward(*sequence, ids, regime, 0, [&](int64_t first, int64_t rows, const float* values) {
    std::copy(values, values + rows * vocab, logits.begin() + first * vocab);
  });
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  write_safetensors(text_of(arguments, "out"),
                    {{"logits", DType::f32, {tokens, vocab}, logits.data()},
                     {"ids", DType::i64, {tokens}, wide.data()}});
  if (method) {
    for (const std::string& change : method->settle()) fmt::print(stderr, "warning: {}\n", change);
  }
  return fmt::format("{} tokens x {} logits, regime {}, compute {}, exposure {:.3f}: {}\n", tokens,
                     vocab, regime_word(regime), compute_word(engine_options.compute),
                     sequence->reads().exposure(), text_of(arguments, "out"));
}

// The same in a child process: a plugin that crashes or ends it costs a sentence, not the reason.
std::string write_logits_apart(const Arguments& arguments) {
  ApartSettings settings;
  settings.quiet = false;
  const ApartEnd end = Apart::run(settings, [&] {
    ::dup2(2, 1);  // what a plugin prints is no answer of ours
    Cancel::install_handlers();
    Json answer;
    try {
      answer["text"] = write_logits(arguments);
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
    const std::string method = text_of(arguments, "method");
    throw Error(ExitCode::cells_failed,
                method.empty()
                    ? "the process that computes the logits has no answer: it " + end.reason()
                    : "method `" + method + "` " + end.reason(),
                "",
                "no logits were written" +
                    std::string(method.empty() ? "" : "; ptq-host check says more of a plugin"));
  }
  const Json answer = Json::parse(end.answer);
  if (answer.contains("text")) return answer["text"].get<std::string>();
  throw Error(ExitCode(answer["code"].get<int>()), answer["message"].get<std::string>(),
              answer["where"].get<std::string>(), answer["hint"].get<std::string>());
}

}  // namespace

int logits_command(const std::vector<std::string>& args) {
  if (wants_help(args, kHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  for (const char* name :
       {"model", "ids", "text", "out", "method", "regime", "seed", "threads", "compute"}) {
    add(name, po::value<std::string>());
  }
  add("set", po::value<std::vector<std::string>>())("plugins",
                                                    po::value<std::vector<std::string>>());
  add("device", po::value<std::string>()->default_value("auto"));
  const Arguments arguments = parse_arguments(args, options);
  for (const char* name : {"model", "out"}) {
    if (text_of(arguments, name).empty()) {
      throw usage_error("--" + std::string(name) + " is missing", "", "--help shows two examples");
    }
  }
  if (arguments.count("ids") + arguments.count("text") != 1) {
    throw usage_error("either --ids or --text must be given", "", "--help shows two examples");
  }
  fmt::print("{}", write_logits_apart(arguments));
  return 0;
}

}  // namespace ptq
