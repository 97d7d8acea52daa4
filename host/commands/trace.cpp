// ptq-host trace: every point of a pass, to find the operation that makes a logit wrong.
#include "ptq/engine/trace.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "host/commands/commands.hpp"
#include "host/commands/one_sequence.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/model/safetensors_write.hpp"

namespace ptq {
namespace {

const std::string kTraceHelp =
    std::string(
        R"(Writes what every module of a model gives for a sequence of tokens, and says where two such
traces part.

  ptq-host trace --model models/tiny-qwen2 --ids 1,2,3 --out trace.safetensors
  ptq-host trace --model models/tiny-qwen2 --ids 1,2,3 --method kivi --set bits=2 \
      --against trace.safetensors

usage: ptq-host trace --model DIR (--ids 1,2,3 | --text FILE) [--out FILE]
                      [--against OTHER.safetensors] [options]

  --out FILE       `ids` i64 [tokens] and, f32 [tokens, width], the output of every module under the
                   name that it has in Hugging Face transformers: model.layers.0.self_attn.q_proj.
                   NAME.input is what a module is given, NAME.rotated are queries and keys after
                   the rotary embedding
  --against FILE   another trace of the same tokens, of this program or of another one; prints every
                   point that both have, and the first that differs; exit code 6 when one does
  --bound X        what counts as different: |a - b| over the largest |b| of a point, default 1e-3
)") +
    kOneSequenceHelp;

// The table of points, and whether the traces part. Errors: no point that both traces have.
Json compare(const Trace& trace, const std::string& path, double bound) {
  const SafetensorsFile file(path);
  const auto other = [&](const std::string& name, int64_t rows,
                         int64_t width) -> std::optional<std::vector<float>> {
    const TensorInfo* tensor = file.find(name);
    if (tensor == nullptr) return {};
    if (tensor->shape != std::vector<int64_t>{rows, width})
      throw usage_error("the point `" + name + "` has the shape " + shape_text(tensor->shape) +
                            ", this trace has " + shape_text({rows, width}),
                        path, "trace the same tokens with the same model");
    std::vector<float> values(size_t(rows * width));
    to_float(tensor->dtype, tensor->data, rows * width, values.data());
    return values;
  };
  const std::vector<PointDifference> points = compare_traces(trace, other);
  if (points.empty())
    throw usage_error("no point of the pass is in the file", path,
                      "its tensors need the names of modules: model.layers.0.self_attn.q_proj");
  std::string text = fmt::format("{:<44} {:>12}\n", "point", "difference");
  const PointDifference* first = nullptr;
  for (const PointDifference& p : points) {
    const bool parts = !(p.relative <= bound);
    if (parts && first == nullptr) first = &p;
    text += fmt::format("{:<44} {:>12.2e}{}\n", p.name, p.relative,
                        &p == first ? "  <- they part here" : "");
  }
  if (first != nullptr)
    text += fmt::format("the traces part at {}: token {}, column {}: {:.6g} here, {:.6g} in {}\n",
                        first->name, first->row, first->column, first->a, first->b, path);
  else
    text += fmt::format("{} points agree within {:g}\n", points.size(), bound);
  return {{"text", text}, {"parts", first != nullptr}};
}

double bound_of(const Arguments& arguments) {
  const std::string text = text_of(arguments, "bound");
  if (text.empty()) return 1e-3;
  char* end = nullptr;
  const double bound = std::strtod(text.c_str(), &end);
  if (*end != 0 || !std::isfinite(bound) || bound < 0)
    throw usage_error("`" + text + "` is no number above 0", "--bound", "for example --bound 1e-3");
  return bound;
}

// {"text": what to print, "parts": do the traces part?}
std::string run_trace(const Arguments& arguments) {
  const double bound = bound_of(arguments);
  OneSequence one = open_one_sequence(arguments);
  Engine& engine = one.subject->engine();
  Trace trace(anatomy_of(engine.config()));
  const auto sequence = engine.start(one.subject->kv());
  engine.forward(
      *sequence, one.ids, one.regime, 0, [](int64_t, int64_t, const float*) {}, &trace);
  Json answer = {{"text", ""}, {"parts", false}};
  const std::string out = text_of(arguments, "out"), against = text_of(arguments, "against");
  if (!against.empty()) answer = compare(trace, against, bound);
  if (!out.empty()) {
    const std::vector<int64_t> wide(one.ids.begin(), one.ids.end());
    std::vector<TensorToWrite> tensors = {{"ids", DType::i64, {int64_t(wide.size())}, wide.data()}};
    for (const Trace::Entry& e : trace.entries())
      tensors.push_back({e.name, DType::f32, {e.rows(), e.width}, e.values.data()});
    write_safetensors(out, tensors);
    answer["text"] =
        answer["text"].get<std::string>() +
        fmt::format("{} points of {} tokens, regime {}, compute {}: {}\n", trace.entries().size(),
                    wide.size(), regime_word(one.regime), compute_word(one.compute), out);
  }
  print_warnings(*one.subject);
  return json_text(answer);
}

}  // namespace

int trace_command(const std::vector<std::string>& args) {
  if (wants_help(args, kTraceHelp.c_str())) return 0;
  const Arguments arguments = parse_one_sequence(args, {.with_value = {"out", "against", "bound"}});
  if (text_of(arguments, "out").empty() && text_of(arguments, "against").empty()) {
    throw usage_error("neither --out nor --against is given", "", "--help shows examples");
  }
  const Json answer =
      Json::parse(compute_apart(arguments, "trace", [&] { return run_trace(arguments); }));
  fmt::print("{}", answer["text"].get<std::string>());
  return int(answer["parts"].get<bool>() ? ExitCode::disagree : ExitCode::ok);
}

}  // namespace ptq
