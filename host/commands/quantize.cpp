// ptq-host quantize: a model quantized here, as a checkpoint that other programs load.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "host/bytes_text.hpp"
#include "host/commands/commands.hpp"
#include "host/commands/companions.hpp"
#include "host/commands/one_sequence.hpp"
#include "ptq/core/atomic_file.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/model/packed_write.hpp"
#include "ptq/model/safetensors_write.hpp"
#include "ptq/model/weight_files.hpp"
#include "ptq/run/locate.hpp"

namespace ptq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHead = "lm_head";

constexpr const char* kQuantizeHelp =
    R"(Quantizes the weights of a model and writes them as a checkpoint that other programs load.

  ptq-host quantize --model models/tiny-llama --method rtn --set bits=4 --set group_size=64 \
      --set grid=sym_full --format compressed-tensors --out tiny-llama-w4

usage: ptq-host quantize --model DIR --method NAME [--set KEY=VALUE] --format NAME --out DIR [options]

  --format NAME    compressed-tensors: pack-quantized, 4 or 8 bits, symmetric or with zero points
                   gptq: 4 or 8 bits, zero points stored less one; gptq_v2: as they are
                   awq: gemm, 4 bits
                   What a format cannot hold is refused, with those that can.
  --out DIR        a folder that does not exist or is empty
  --model DIR      a Hugging Face folder with 16- or 32-bit weights
  --set KEY=VALUE  an option of the method, repeatable
  --calibration FILE, --calibration-sequences N, --calibration-length N: what a method learns from
  --seed N, --threads N, --plugins DIR: as in ptq-host run

Tensors that the method leaves alone keep their bytes (norms into which it moved scales become
float32), the tokenizer's files are copied. What was
written is read back and held against what the method gave. It runs on the CPU.
)";

struct Place {
  fs::path model, out;
};

// Errors: a model that is no plain folder, an output that is there already.
Place quantized_place(const Arguments& arguments) {
  Place place;
  place.out = text_of(arguments, "out");
  for (const char* needed : {"out", "format", "method"})
    if (arguments.count(needed) == 0)
      throw usage_error(std::string("--") + needed + " is missing", "", "--help shows examples");
  place.model = find_model(text_of(arguments, "model"), {working_folder()}, "--model").folder;
  if (is_gguf(place.model))
    throw usage_error("a GGUF file cannot be written as a Hugging Face folder",
                      place.model.string(), "name the folder of the original model");
  const ModelConfig config = load_config(place.model);
  if (config.packed)
    throw usage_error("the model is quantized already", place.model.string(),
                      "name the folder of the original 16-bit model");
  if (config.fused)
    throw usage_error("models that store several linear layers as one matrix cannot be written",
                      place.model.string());
  std::error_code ignored;
  if (fs::exists(place.out, ignored) && !fs::is_empty(place.out, ignored))
    throw usage_error("the folder is not empty", place.out.string(),
                      "name one that does not exist");
  return place;
}

// What the method made of the model: linear layers in codes, those that stay as they are, and,
// where it moved scales, the new numbers of norms and of layers without codes.
struct Layers {
  std::vector<const LinearWeight*> encoded;
  std::vector<LayerToPack> to_pack;
  std::vector<std::string> plain;
  std::vector<PackedTensor> changed;  // float32
};

PackedTensor changed_tensor(const std::string& name, std::vector<int64_t> shape,
                            const std::vector<float>& numbers) {
  return packed_tensor(name, DType::f32, std::move(shape), numbers);
}

void add_linear(Layers& layers, const LinearWeight& w, const std::string& format) {
  if (w.activation().kind != ActivationKind::full)
    throw usage_error("the format " + format + " holds weights only, and here inputs are rounded",
                      w.name(), "choose a method that leaves activations alone");
  if (w.encoded() && w.packed() == nullptr)
    throw usage_error("the format " + format + " holds codes with a scale and no codebooks",
                      w.name(), "no format of this command can; use rtn, imatrix_mse, gptq or awq");
  if (w.encoded()) {
    layers.encoded.push_back(&w);
    layers.to_pack.push_back({w.name(), w.packed(), w.order()});
    return;
  }
  layers.plain.push_back(w.name());
  if (!w.scaled()) return;
  std::vector<float> numbers(size_t(w.scalars()));
  w.decode(0, w.out(), numbers.data());
  layers.changed.push_back(changed_tensor(w.name() + ".weight", {w.out(), w.in()}, numbers));
}

Layers layers_of(Engine& engine, const std::string& format) {
  Layers layers;
  Blocks& blocks = engine.blocks();
  const Anatomy& anatomy = blocks.anatomy();
  for (int l = 0; l < int(anatomy.layers.size()); ++l)
    for (const LinearPlan& linear : anatomy.layers[size_t(l)].linears)
      add_linear(layers, blocks.weight(l, linear.role), format);
  if (anatomy.tied)
    layers.plain.push_back(kHead);
  else
    add_linear(layers, blocks.weight(-1, Role::q), format);
  for (const auto& [name, numbers] : blocks.divided_norms())
    layers.changed.push_back(changed_tensor(name, {int64_t(numbers.size())}, numbers));
  return layers;
}

// config.json with the entry `quantization_config`, everything else as it was.
std::string config_text(const fs::path& model, const Json& quantization) {
  const fs::path file = model / "config.json";
  Json config = parse_json(read_text_file(file, JsonLimits{}.max_bytes), file.string());
  config["quantization_config"] = quantization;
  return json_text(config, 2) + "\n";
}

uint64_t write_weights(const fs::path& file, const WeightFiles& original, const PackedWeights& how,
                       const Layers& layers) {
  std::set<std::string> replaced;
  std::vector<PackedTensor> packed;
  for (const LayerToPack& layer : layers.to_pack) {
    replaced.insert(layer.name + ".weight");
    for (PackedTensor& tensor : pack_weight(how, layer)) packed.push_back(std::move(tensor));
  }
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const PackedTensor& t) {
    tensors.push_back({t.name, t.dtype, t.shape, t.bytes.data()});
  };
  for (const PackedTensor& t : layers.changed) replaced.insert(t.name);
  for (const PackedTensor& t : layers.changed) add(t);
  for (const PackedTensor& t : packed) add(t);
  original.for_each([&](const TensorInfo& t) {
    if (replaced.count(t.name) == 0) tensors.push_back({t.name, t.dtype, t.shape, t.data});
  });
  write_safetensors(file, std::move(tensors));
  return uint64_t(fs::file_size(file));
}

// Reads the folder as anyone would and compares every number. Errors: any difference.
void check_written(const fs::path& out, const WeightFiles& original, const Layers& layers) {
  const auto fail = [&](const std::string& name) {
    throw Error(ExitCode::internal, "what was written is not what the method gave",
                out.string() + ": " + name, "this is a bug of ptq; please report it");
  };
  const ModelConfig config = load_config(out);
  WeightFiles files(out);
  files.check_tensors(config);
  std::vector<float> a, b;
  for (const LinearWeight* w : layers.encoded) {
    const auto packed = files.packed(*config.packed, w->name(), w->out(), w->in());
    if (!packed) fail(w->name());
    a.resize(size_t(w->scalars()));
    b.resize(a.size());
    w->decode(0, w->out(), a.data());
    packed->decode(0, w->out(), b.data());
    if (a != b) fail(w->name());
  }
  std::set<std::string> changed;
  for (const PackedTensor& t : layers.changed) changed.insert(t.name);
  files.for_each([&](const TensorInfo& t) {
    if (!original.contains(t.name) || changed.count(t.name) > 0) return;
    const TensorInfo& before = original.get(t.name, t.shape);
    if (before.bytes != t.bytes || std::memcmp(before.data, t.data, t.bytes) != 0) fail(t.name);
  });
}

std::string quantize(const Arguments& arguments) {
  const Place place = quantized_place(arguments);
  const std::string format = text_of(arguments, "format");
  const OneSequence one = open_one_sequence(arguments);
  if (one.subject->pruned() != nullptr)
    throw usage_error("a method that prunes cannot be written in a format of others", "--method",
                      "ptq-host prune writes the pruned model; then quantize its folder");
  const Layers layers = layers_of(one.subject->engine(), format);
  const PackedWeights how = choose_packing(format, layers.to_pack);
  const Json quantization = quantization_config(format, how, layers.to_pack, layers.plain);

  make_folders(place.out);
  copy_companions(place.model, place.out);
  const WeightFiles original(place.model);
  const uint64_t bytes = write_weights(place.out / kSingleFile, original, how, layers);
  // Last: a folder without it is no model.
  write_file_atomic(place.out / "config.json", config_text(place.model, quantization));
  check_written(place.out, original, layers);
  print_warnings(*one.subject);
  int64_t borrowing = 0;
  for (const LayerToPack& layer : layers.to_pack) borrowing += borrowing_groups(how, layer);
  if (borrowing > 0)
    fmt::print(stderr,
               "warning: {} groups have the zero point 0, which `gptq` stores as -1 as GPTQModel "
               "does; programs that read each number of a word by itself get it wrong (gptq_v2 has "
               "no such case)\n",
               borrowing);
  return fmt::format("{} layers as {}, {} bits, {}; {} left as they are; {}: {}\n",
                     layers.encoded.size(), format, how.bits,
                     how.group_size > 0 ? fmt::format("groups of {}", how.group_size)
                                        : std::string("a scale for each row"),
                     layers.plain.size(), place.out.string(), bytes_text(bytes));
}

}  // namespace

int quantize_command(const std::vector<std::string>& args) {
  if (wants_help(args, kQuantizeHelp)) return 0;
  if (std::find(args.begin(), args.end(), "--device") != args.end())
    throw usage_error("quantize runs on the CPU", "--device", "leave the option out");
  std::vector<std::string> on_cpu = args;
  on_cpu.insert(on_cpu.end(), {"--device", "cpu"});
  const Arguments arguments =
      parse_one_sequence(on_cpu, {.with_value = {"format", "out"}, .needs_tokens = false});
  quantized_place(arguments);
  fmt::print("{}", compute_apart(arguments, "checkpoint", [&] { return quantize(arguments); }));
  return 0;
}

}  // namespace ptq
