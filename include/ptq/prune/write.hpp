// A pruned model as a folder: the rows and columns that stay, in the number format of the model's
// folder, and a config.json whose `layer_sizes` says how the layers differ. transformers cannot
// read such a folder, this program can.
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/safetensors_write.hpp"
#include "ptq/model/weight_files.hpp"
#include "ptq/prune/plan.hpp"

namespace ptq::prune {

namespace write_detail {

// Rows or columns of the unpruned linear that stay.
inline std::vector<int64_t> places(const std::vector<int64_t>& kept, int64_t size) {
  std::vector<int64_t> list;
  for (const int64_t g : kept)
    for (int64_t i = 0; i < size; ++i) list.push_back(g * size + i);
  return list;
}

struct Tensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;  // empty: those of `whole`
  const uint8_t* whole = nullptr;
};

// The given rows and columns of a matrix; a vector is a matrix of one column. Blocks of a GGUF file
// become float32, which holds their numbers exactly.
inline Tensor part_of(const TensorInfo& from, const std::string& name,
                      const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
                      bool is_vector) {
  const StoredRows stored = from.rows();
  const bool plain = stored.plain();
  Tensor t{name, plain ? from.dtype : DType::f32, {int64_t(rows.size())}, {}};
  if (!is_vector) t.shape.push_back(int64_t(columns.size()));
  const size_t each = size_t(dtype_bytes(t.dtype));
  t.bytes.resize(rows.size() * columns.size() * each);
  std::vector<float> decoded(plain ? 0 : size_t(stored.columns));
  uint8_t* to = t.bytes.data();
  for (const int64_t r : rows) {
    const uint8_t* row = from.data + r * stored.row_bytes();
    if (!plain) {
      stored.decode(r, r + 1, decoded.data());
      row = reinterpret_cast<const uint8_t*>(decoded.data());
    }
    for (const int64_t c : columns) {
      std::memcpy(to, row + size_t(c) * each, each);
      to += each;
    }
  }
  return t;
}

inline std::vector<int64_t> all_of(int64_t n) { return places({0}, n); }

class Writer {
 public:
  Writer(const WeightFiles& files, const ModelConfig& config, const Plan& plan)
      : files_(files), before_(anatomy_of(config)), plan_(plan) {
    for (size_t l = 0; l < before_.layers.size(); ++l)
      for (const LinearPlan& linear : before_.layers[l].linears)
        linears_[linear.name] = {int(l), &linear};
    for (const ExpectedTensor& t : before_.tensors()) shapes_[t.name] = t.shape;
  }

  // The tensors of the pruned model, in its order.
  std::vector<Tensor> tensors(const Anatomy& after) const {
    std::vector<Tensor> list;
    for (const ExpectedTensor& t : after.tensors()) list.push_back(tensor(t));
    return list;
  }

 private:
  Tensor tensor(const ExpectedTensor& wanted) const {
    const size_t dot = wanted.name.rfind('.');
    const std::string module = wanted.name.substr(0, dot);
    const TensorInfo& from = files_.get(wanted.name, shapes_.at(wanted.name));
    const bool is_vector = wanted.shape.size() == 1;
    const int64_t width = is_vector ? 1 : from.shape[1];
    std::vector<int64_t> rows = all_of(from.shape[0]), columns = all_of(width);
    if (const auto found = linears_.find(module); found != linears_.end()) {
      const auto& [layer, linear] = found->second;
      const Share share = share_of(before_.layers[size_t(layer)].shape, linear->role);
      if (share.axis == 0) rows = kept(layer, *linear);
      if (share.axis == 1 && !is_vector) columns = kept(layer, *linear);
    } else if (const std::vector<const LinearPlan*> parts = parts_of(module); !parts.empty()) {
      rows.clear();  // several linears below each other
      for (const LinearPlan* linear : parts)
        for (const int64_t r : kept(linears_.at(linear->name).first, *linear))
          rows.push_back(linear->fused_first + r);
    }
    if (from.rows().plain() && int64_t(rows.size()) == from.shape[0] &&
        int64_t(columns.size()) == width)
      return {wanted.name, from.dtype, from.shape, {}, from.data};
    return part_of(from, wanted.name, rows, columns, is_vector);
  }
  std::vector<int64_t> kept(int layer, const LinearPlan& linear) const {
    const KeptLayer& left = plan_[size_t(layer)];
    const Share share = share_of(before_.layers[size_t(layer)].shape, linear.role);
    return places(block_of(linear.role) == Block::attention ? left.heads : left.channels,
                  share.size);
  }
  std::vector<const LinearPlan*> parts_of(const std::string& module) const {
    std::vector<const LinearPlan*> parts;
    for (const LayerPlan& layer : before_.layers)
      for (const LinearPlan& linear : layer.linears)
        if (linear.fused == module) parts.push_back(&linear);
    return parts;
  }

  const WeightFiles& files_;
  Anatomy before_;
  const Plan& plan_;
  std::map<std::string, std::pair<int, const LinearPlan*>> linears_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

inline Json layer_sizes_json(const ModelConfig& config) {
  Json list = Json::array();
  for (const LayerSize& size : config.layer_sizes)
    list.push_back({{"num_attention_heads", size.attention_heads},
                    {"num_key_value_heads", size.key_value_heads},
                    {"intermediate_size", size.intermediate_size}});
  return list;
}

// What config.json of the model's folder says, or would say for a GGUF file.
inline Json config_json(const std::filesystem::path& model, const ModelConfig& c) {
  if (!is_gguf(model)) {
    const std::filesystem::path file = model / "config.json";
    return parse_json(read_text_file(file, JsonLimits{}.max_bytes), file.string());
  }
  if (c.rope_scaling)
    throw usage_error("a GGUF file with scaled rotary frequencies cannot be pruned", model.string(),
                      "name the folder of the original model");
  return {{"model_type", architecture_name(c.architecture)},
          {"hidden_size", c.hidden_size},
          {"num_hidden_layers", c.num_hidden_layers},
          {"num_attention_heads", c.num_attention_heads},
          {"num_key_value_heads", c.num_key_value_heads},
          {"head_dim", c.head_dim},
          {"intermediate_size", c.intermediate_size},
          {"vocab_size", c.vocab_size},
          {"max_position_embeddings", c.max_position_embeddings},
          {"rms_norm_eps", c.rms_norm_eps},
          {"rope_theta", c.rope_theta},
          {"sliding_window", c.sliding_window > 0 ? Json(c.sliding_window) : Json()},
          {"tie_word_embeddings", c.tie_word_embeddings},
          {"bos_token_id", c.bos_token_id},
          {"eos_token_id", c.eos_token_ids}};
}

}  // namespace write_detail

// Writes config.json and model.safetensors; `out` is made where it is missing. model: a Hugging
// Face folder or a GGUF file, config: its. Returns the bytes of the weights. Errors: a checkpoint
// that another program quantized, a file that cannot be written.
inline uint64_t write_pruned(const std::filesystem::path& model, const ModelConfig& config,
                             const Plan& plan, const std::filesystem::path& out) {
  using namespace write_detail;
  if (config.packed)
    throw usage_error("a model that is quantized already cannot be pruned", model.string(),
                      "name the folder of the original 16-bit model");
  const WeightFiles files(model);
  const ModelConfig after = pruned_config(config, plan);
  const std::vector<Tensor> tensors = Writer(files, config, plan).tensors(anatomy_of(after));
  std::vector<TensorToWrite> list;
  for (const Tensor& t : tensors)
    list.push_back({t.name, t.dtype, t.shape, t.whole ? t.whole : t.bytes.data()});
  make_folders(out);
  write_safetensors(out / kSingleFile, std::move(list));
  Json json = config_json(model, config);
  if (!after.layer_sizes.empty()) json["layer_sizes"] = layer_sizes_json(after);
  write_file_atomic(out / "config.json", json_text(json, 2) + "\n");
  std::error_code ignored;
  return uint64_t(std::filesystem::file_size(out / kSingleFile, ignored));
}

}  // namespace ptq::prune
