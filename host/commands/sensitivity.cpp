// ptq-host sensitivity: which layer a method hurts.
#include "ptq/eval/sensitivity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "host/commands/commands.hpp"
#include "host/commands/one_sequence.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/model/anatomy.hpp"

namespace ptq {
namespace {

const std::string kSensitivityHelp =
    std::string(
        R"(Says which part of a model a method hurts: the divergence from full precision when only the keys or
only the values of one layer go through it, or for methods of the weights only one layer's; beside
them all parts at once. One pass over the tokens for each part.

  ptq-host sensitivity --model models/tiny-qwen2 --method kivi --set bits=2 --text story.txt
  ptq-host sensitivity --model models/tiny-qwen2 --method rtn --set bits=3 --text story.txt --by linear

usage: ptq-host sensitivity --model DIR --method NAME (--ids 1,2,3 | --text FILE) [options]

  --tokens N       the first N tokens, default 512
  --by WHAT        layer (default), or for methods of the weights also linear: each matrix apart
  --json           the figures as JSON
)") +
    kOneSequenceHelp;

constexpr uint64_t kMostLogits = uint64_t{4} << 30;  // bytes of the reference's

struct Part {
  int layer;  // -1: lm_head, or no layer
  std::string name;
  double kl, top1;
};

Part part_of(int layer, const std::string& name, const eval::Divergence& d) {
  return {layer, name, d.kl_mean(), d.top1_agreement()};
}

// Keys and values of every layer, and `nothing`: what the method's policy alone does.
std::vector<Part> cache_parts(OneSequence& one, const eval::StoredReference& reference) {
  Engine& engine = one.subject->engine();
  KvMethod& method = *one.subject->kv();
  if (method.policy(KvSide::keys).evicts || method.policy(KvSide::values).evicts) {
    throw usage_error("the method drops rows of the cache, in all layers alike", "--method",
                      "a sensitivity is of what is encoded");
  }
  const Anatomy anatomy = anatomy_of(engine.config());
  const DType dense = one.compute == Compute::bf16 ? DType::bf16 : DType::f16;
  std::vector<Part> parts;
  const auto measure = [&](int layer, KvSide side, const std::string& name) {
    eval::OnlySide only(method, anatomy, dense, layer, side);
    parts.push_back(part_of(layer, name, reference.divergence(engine, &only)));
  };
  measure(-1, KvSide::keys, "nothing");
  for (int l = 0; l < int(anatomy.layers.size()); ++l) {
    measure(l, KvSide::keys, "keys");
    measure(l, KvSide::values, "values");
  }
  return parts;
}

// Every layer, or every linear layer, that the method encodes.
std::vector<Part> weight_parts(OneSequence& one, const eval::StoredReference& reference,
                               bool by_linear) {
  const Anatomy anatomy = anatomy_of(one.subject->engine().config());
  std::vector<Part> parts;
  const auto measure = [&](int layer, const std::string& linear, const std::string& shown) {
    eval::OnlyLinears only(*one.subject->methods().weights, layer, linear);
    const auto engine = one.subject->another_engine();
    one.subject->encode(*engine, only);
    if (!only.encoded()) return;
    parts.push_back(part_of(layer, shown, reference.divergence(*engine, nullptr)));
  };
  for (int l = 0; l < int(anatomy.layers.size()); ++l) {
    if (!by_linear) {
      measure(l, "", "all linear layers");
      continue;
    }
    for (const LinearPlan& linear : anatomy.layers[size_t(l)].linears)
      measure(l, linear.name, linear.name.substr(linear.name.rfind('.') + 1));
  }
  if (!anatomy.tied) measure(-1, "", "lm_head");
  return parts;
}

Json figures(const Arguments& arguments, OneSequence& one) {
  const int64_t most = integer_of(arguments, "tokens", 512, 2, kLongestContext);
  one.ids.resize(std::min(one.ids.size(), size_t(most)));
  if (one.ids.size() < 2) throw usage_error("at least two tokens are needed", "--ids or --text");
  const uint64_t vocab = uint64_t(one.subject->engine().config().vocab_size);
  if (one.ids.size() * vocab * sizeof(float) > kMostLogits) {
    throw usage_error("the reference's logits of " + std::to_string(one.ids.size()) +
                          " tokens do not fit into 4 GiB",
                      "--tokens", "use fewer tokens");
  }
  const std::string by = text_of(arguments, "by");
  if (!by.empty() && by != "layer" && by != "linear")
    throw usage_error("unknown part `" + by + "`", "--by", "layer or linear");
  if (list_of(arguments, "method").size() != 1)
    throw usage_error("exactly one method is needed", "--method", "ptq-host methods lists them");
  if (one.subject->pruned() != nullptr)
    throw usage_error("a method that prunes has no parts to be tried alone", "--method",
                      "ptq-host prune --json says what each layer loses");
  const bool cache = one.subject->kv() != nullptr;
  if (cache && by == "linear")
    throw usage_error("the method encodes the cache, which has no linear layers", "--by linear");
  if (cache && one.regime == Regime::independent)
    throw usage_error("this regime does not read the cache", "--regime", "use streaming");

  const eval::StoredReference reference(one.subject->reference(), one.ids, one.regime);
  const std::vector<Part> parts =
      cache ? cache_parts(one, reference) : weight_parts(one, reference, by == "linear");
  if (parts.empty()) throw usage_error("the method encodes nothing of this model", "--method");
  const eval::Divergence all = reference.divergence(one.subject->engine(), one.subject->kv());
  Json rows = Json::array();
  double sum = 0;
  for (const Part& part : parts) {
    rows.push_back({{"layer", part.layer},
                    {"part", part.name},
                    {"kl_mean", part.kl},
                    {"top1_agreement", part.top1}});
    if (part.name != "nothing") sum += part.kl;
  }
  return {{"method", list_of(arguments, "method")[0]},
          {"tokens", one.ids.size() - 1},
          {"regime", regime_word(one.regime)},
          {"parts", rows},
          {"kl_sum", sum},
          {"kl_all", all.kl_mean()},
          {"top1_agreement_all", all.top1_agreement()}};
}

std::string sensitivity_table(const Json& f) {
  const double sum = f["kl_sum"].get<double>(), all = f["kl_all"].get<double>();
  std::string text =
      fmt::format("{}: {} tokens, regime {}\n\n{:>5} {:<18} {:>12} {:>8} {:>8}\n",
                  f["method"].get<std::string>(), f["tokens"].get<size_t>(),
                  f["regime"].get<std::string>(), "layer", "part", "KL, nats", "of sum", "top-1");
  for (const Json& part : f["parts"]) {
    const int layer = part["layer"].get<int>();
    const double kl = part["kl_mean"].get<double>();
    const bool nothing = part["part"] == "nothing";
    text += fmt::format("{:>5} {:<18} {:>12.3e} {:>8} {:>8.4f}\n",
                        layer < 0 ? "-" : std::to_string(layer), part["part"].get<std::string>(),
                        kl, nothing || sum <= 0 ? "" : fmt::format("{:.1f} %", 100 * kl / sum),
                        part["top1_agreement"].get<double>());
  }
  text += fmt::format("\nsum of the parts {:.3e}, all at once {:.3e}", sum, all);
  if (sum > 0) text += fmt::format(" ({:.2f} of the sum)", all / sum);
  return text + fmt::format(", top-1 {:.4f}\n", f["top1_agreement_all"].get<double>());
}

std::string compute_sensitivity(const Arguments& arguments) {
  OneSequence one = open_one_sequence(arguments);
  const Json answer = figures(arguments, one);
  print_warnings(*one.subject);
  return arguments["json"].as<bool>() ? json_text(answer, 2) + "\n" : sensitivity_table(answer);
}

}  // namespace

int sensitivity_command(const std::vector<std::string>& args) {
  if (wants_help(args, kSensitivityHelp.c_str())) return 0;
  const Arguments arguments =
      parse_one_sequence(args, {.with_value = {"tokens", "by"}, .flags = {"json"}});
  fmt::print("{}", compute_apart(arguments, "sensitivity",
                                 [&] { return compute_sensitivity(arguments); }));
  return 0;
}

}  // namespace ptq
