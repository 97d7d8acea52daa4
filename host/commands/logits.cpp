// ptq-host logits: the logits of one sequence, for comparison with other implementations.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "host/commands/commands.hpp"
#include "host/commands/one_sequence.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/safetensors_write.hpp"

namespace ptq {
namespace {

const std::string kLogitsHelp =
    std::string(
        R"(Writes the logits of a sequence of tokens to a safetensors file.

  ptq-host logits --model models/tiny-qwen2 --ids 1,2,3 --out logits.safetensors
  ptq-host logits --model models/tiny-qwen2 --text story.txt --method kivi --set bits=2 \
      --regime streaming --out kivi.safetensors
  ptq-host logits --model models/tiny-qwen2 --ids 1,2,3 --method kvquant \
      --calibration datasets/embedded/calib.txt --out kvquant.safetensors

usage: ptq-host logits --model DIR (--ids 1,2,3 | --text FILE) --out FILE [options]

  --out FILE       tensors `logits` f32 [tokens, vocab] and `ids` i64 [tokens]
)") +
    kOneSequenceHelp;

// Computes the logits, writes the file, and gives the line to print.
std::string write_logits(const Arguments& arguments) {
  OneSequence one = open_one_sequence(arguments);
  Engine& engine = one.subject->engine();
  const int64_t tokens = int64_t(one.ids.size()), vocab = engine.config().vocab_size;
  std::vector<float> logits(size_t(tokens * vocab));
  const auto sequence = engine.start(one.subject->kv());
  engine.forward(*sequence, one.ids, one.regime, 0,
                 [&](int64_t first, int64_t rows, const float* values) {
                   std::copy(values, values + rows * vocab, logits.begin() + first * vocab);
                 });
  const std::vector<int64_t> wide(one.ids.begin(), one.ids.end());
  write_safetensors(text_of(arguments, "out"),
                    {{"logits", DType::f32, {tokens, vocab}, logits.data()},
                     {"ids", DType::i64, {tokens}, wide.data()}});
  print_warnings(*one.subject);
  return fmt::format("{} tokens x {} logits, regime {}, compute {}, exposure {:.3f}: {}\n", tokens,
                     vocab, regime_word(one.regime), compute_word(one.compute),
                     sequence->reads().exposure(), text_of(arguments, "out"));
}

}  // namespace

int logits_command(const std::vector<std::string>& args) {
  if (wants_help(args, kLogitsHelp.c_str())) return 0;
  const Arguments arguments = parse_one_sequence(args, {.with_value = {"out"}});
  if (text_of(arguments, "out").empty()) {
    throw usage_error("--out is missing", "", "--help shows examples");
  }
  fmt::print("{}", compute_apart(arguments, "logits", [&] { return write_logits(arguments); }));
  return 0;
}

}  // namespace ptq
