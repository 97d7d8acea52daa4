// The weights of a model, a folder or a GGUF file: which files are read, and whether they are those
// of its configuration.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq {

// model.safetensors.index.json: which file of the folder holds which tensor.
struct SafetensorsIndex {
  std::map<std::string, std::vector<std::string>> tensors_of_file;  // plain file names
  std::optional<double> total_size;  // bytes as declared by the writer, informative
};

// Reads the text of an index; `name` is what error messages call it.
inline SafetensorsIndex parse_safetensors_index(std::string_view json, const std::string& name) {
  const auto document = JsonDocument::parse(json, name,
                                            {.max_bytes = safetensors_detail::kMaxHeaderBytes,
                                             .max_depth = safetensors_detail::kMaxDepth,
                                             .allow_duplicate_keys = false});
  const JsonValue root = document.root(), map = root.get("weight_map");
  SafetensorsIndex index;
  map.for_each_member([&](std::string_view tensor, const JsonValue& file) {
    const std::string_view plain = file.as_string();
    if (plain.empty() || plain == "." || plain == ".." ||
        plain.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos) {
      throw file.error(shown(plain) + " is not a plain file name");
    }
    index.tensors_of_file[std::string(plain)].emplace_back(tensor);
  });
  if (index.tensors_of_file.empty()) throw map.error("the index names no files");
  const auto metadata = root.find("metadata");
  // Some writers store the size as a float.
  if (const auto declared = metadata ? metadata->find("total_size") : std::nullopt) {
    index.total_size = declared->as_number();
  }
  return index;
}

// One sentence when the size declared by the index is not the `total` bytes of the files.
inline std::optional<std::string> total_size_warning(const SafetensorsIndex& index,
                                                     uint64_t total) {
  if (!index.total_size || *index.total_size == static_cast<double>(total)) return {};
  // Nothing keeps the writer from a negative or huge number, which no integer type can hold.
  char declared[32];
  std::snprintf(declared, sizeof declared, "%.15g", *index.total_size);
  return std::string("the index declares a total size of ") + declared + " bytes, the files hold " +
         std::to_string(total);
}

// Which weights of a folder are read, in the order of transformers' from_pretrained:
// model.safetensors, else the files that model.safetensors.index.json names. Other *.safetensors
// files are not read, since folders also carry the same weights under other names
// (consolidated.safetensors).
enum class WeightLayout { single_file, index, none };

inline const char* const kSingleFile = "model.safetensors";
inline const char* const kIndexFile = "model.safetensors.index.json";

inline WeightLayout weight_layout(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / kSingleFile, ignored)) return WeightLayout::single_file;
  if (std::filesystem::exists(folder / kIndexFile, ignored)) return WeightLayout::index;
  return WeightLayout::none;
}

// The names of those files, sorted.
inline std::set<std::string> weight_file_names(const std::filesystem::path& folder) {
  if (weight_layout(folder) != WeightLayout::index) return {kSingleFile};
  const std::filesystem::path index = folder / kIndexFile;
  std::set<std::string> names;
  for (const auto& [file, tensors] :
       parse_safetensors_index(read_text_file(index, safetensors_detail::kMaxHeaderBytes),
                               index.string())
           .tensors_of_file) {
    names.insert(file);
  }
  return names;
}

// All weights of a model.
class WeightFiles {
 public:
  explicit WeightFiles(const std::filesystem::path& folder) : folder_(folder) {
    if (is_gguf(folder)) {
      open_gguf();
      return;
    }
    require_model_folder(folder);
    switch (weight_layout(folder)) {
      case WeightLayout::single_file: {
        add_file(kSingleFile);
        std::error_code ignored;
        if (std::filesystem::exists(folder / kIndexFile, ignored)) {
          warnings_.push_back(
              "model.safetensors is read; model.safetensors.index.json and its files, which are "
              "there too, are not");
        }
        break;
      }
      case WeightLayout::index: open_index(folder / kIndexFile); break;
      case WeightLayout::none: fail_without_weights();
    }
  }

  // Findings that do not stop the work, one sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }

  size_t size() const { return by_name_.size(); }
  // fn(const TensorInfo&) for all tensors, in no order.
  template <class Fn>
  void for_each(const Fn& fn) const {
    for (const auto& [name, located] : by_name_) fn(*located.tensor);
  }
  bool contains(const std::string& name) const { return by_name_.count(name) > 0; }

  // The weight `name`, which must have this shape and be F32, F16 or BF16.
  const TensorInfo& get(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw environment_error("the tensor `" + name + "` is missing", folder_.string(),
                              "the folder has " + first_names());
    }
    const TensorInfo& tensor = *found->second.tensor;
    const std::string where = found->second.file->string() + ": tensor `" + name + "`";
    if (tensor.shape != shape) {
      const std::string configuration = gguf_ ? "its metadata" : "config.json";
      throw environment_error("the shape is " + shape_text(tensor.shape) + ", " + configuration +
                                  " needs " + shape_text(shape),
                              where, configuration + " and the weights belong to different models");
    }
    if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16) {
      throw environment_error(std::string("the number format ") +
                                  safetensors_detail::stored_name(tensor.dtype) +
                                  " is not one of F32, F16, BF16",
                              where, "use the folder of the original, unquantized model");
    }
    return tensor;
  }

  // Did another program pack the linear layer `module`?
  bool is_packed(const PackedWeights& how, const std::string& module) const {
    const auto found = by_name_.find(module + how.codes());
    return found != by_name_.end() && found->second.tensor->dtype == how.code_type();
  }
  // Its matrix; nothing where it is stored plainly.
  std::optional<PackedMatrix> packed(const PackedWeights& how, const std::string& module,
                                     int64_t rows, int64_t columns) const {
    if (!is_packed(how, module)) return {};
    return unpack_weight(how, module, rows, columns, [&](const char* part) {
      const auto found = by_name_.find(module + part);
      return found == by_name_.end() ? nullptr : found->second.tensor;
    });
  }

  // Checks the whole folder against the configuration before anything is computed. A head stored
  // next to tied embeddings is not used and leaves a warning.
  void check_tensors(const ModelConfig& config) {
    std::set<std::string> expected;
    for (const ExpectedTensor& tensor : anatomy_of(config).tensors()) {
      const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
      if (config.packed && is_packed(*config.packed, module)) {
        expected.insert(module + config.packed->codes());
        for (const char* part : kPackedParts) expected.insert(module + part);
        continue;  // their shapes are checked when they are unpacked
      }
      get(tensor.name, tensor.shape);
      expected.insert(tensor.name);
    }
    if (config.packed && config.packed->activations) {
      warnings_.push_back(
          "the checkpoint wants its activations quantized, too; here only its weights are, and "
          "activations keep their precision");
    }
    for (const auto& [name, located] : by_name_) {
      if (expected.count(name) > 0 || name.ends_with(".rotary_emb.inv_freq")) continue;
      if (name == "lm_head.weight") {
        warnings_.push_back(
            "lm_head.weight is stored but config.json ties it to the embedding; the stored tensor "
            "is ignored");
        continue;
      }
      throw environment_error("the tensor `" + name + "` does not belong to a " +
                                  std::string(architecture_name(config.architecture)) + " model",
                              located.file->string());
    }
  }

 private:
  struct Located {
    const std::filesystem::path* file;
    const TensorInfo* tensor;
  };

  void open_gguf() {
    gguf_ = std::make_unique<GgufFile>(folder_);
    gguf_tensors_ = gguf_weights(gguf_->content(), gguf_config(gguf_->content()));
    for (const TensorInfo& tensor : gguf_tensors_) add_tensor(gguf_->path(), tensor);
  }

  void add_tensor(const std::filesystem::path& file, const TensorInfo& tensor) {
    const auto [other, added] = by_name_.try_emplace(tensor.name, Located{&file, &tensor});
    if (added) return;
    throw environment_error("the tensor `" + tensor.name + "` is in two files",
                            other->second.file->string() + " and " + file.string());
  }

  // Opens a file of the folder and registers its tensors.
  const SafetensorsFile& add_file(const std::string& name) {
    check_stays_inside(folder_ / name);
    files_.push_back(std::make_unique<SafetensorsFile>(folder_ / name));
    const SafetensorsFile& file = *files_.back();
    for (const TensorInfo& tensor : file.tensors()) add_tensor(file.path(), tensor);
    return file;
  }

  // Links are followed inside the folder and into the blob store of a Hugging Face cache, whose
  // snapshots are links to ../../blobs/<hash>.
  void check_stays_inside(const std::filesystem::path& path) const {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path target = fs::canonical(path, error);
    if (error) throw environment_error("cannot open the file: " + error.message(), path.string());
    const fs::path root = fs::canonical(folder_);
    const fs::path blobs = fs::weakly_canonical(root / ".." / ".." / "blobs");
    const fs::path parent = target.parent_path();
    if (parent != root && parent != blobs) {
      throw environment_error(
          "the file is a link that leaves the model folder, to " + target.string(), path.string(),
          "put the file itself into the folder");
    }
  }

  void open_index(const std::filesystem::path& index) {
    const SafetensorsIndex content = parse_safetensors_index(
        read_text_file(index, safetensors_detail::kMaxHeaderBytes), index.string());
    uint64_t total = 0;
    for (const auto& [name, tensors] : content.tensors_of_file) {
      std::error_code ignored;
      if (!std::filesystem::exists(folder_ / name, ignored)) {
        throw environment_error("the weight file `" + name + "` named by the index is missing",
                                index.string(), "the download may be incomplete, fetch it again");
      }
      const SafetensorsFile& file = add_file(name);
      for (const std::string& tensor : tensors) {
        const auto found = by_name_.find(tensor);
        if (found == by_name_.end() || found->second.file != &file.path()) {
          throw environment_error(
              "the index places tensor " + shown(tensor) + " in `" + name + "`, where it is not",
              index.string());
        }
      }
      const std::set<std::string> named(tensors.begin(), tensors.end());
      for (const TensorInfo& tensor : file.tensors()) {
        total += tensor.bytes;
        if (named.count(tensor.name) == 0) {
          throw environment_error("the tensor `" + tensor.name + "` is not named by the index",
                                  file.path().string());
        }
      }
    }
    if (auto warning = total_size_warning(content, total)) warnings_.push_back(*warning);
  }

  [[noreturn]] void fail_without_weights() const {
    bool pickle = false, shards = false, consolidated = false;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      const std::string extension = entry.path().extension().string();
      pickle |= extension == ".bin" || extension == ".pt" || extension == ".pth";
      consolidated |= name.starts_with("consolidated") && extension == ".safetensors";
      shards |= name.starts_with("model-") && extension == ".safetensors";
    }
    if (shards) {
      throw environment_error("model.safetensors.index.json is missing next to the weight files",
                              folder_.string(), "fetch the index of the same model");
    }
    if (consolidated) {
      throw environment_error(
          "the folder has only consolidated.safetensors, whose tensors are named and ordered "
          "differently",
          folder_.string(), "fetch model.safetensors.index.json and the files it names");
    }
    if (pickle) {
      throw environment_error(
          "the folder has only pickle weights (*.bin, *.pt, *.pth), which can run code when read",
          folder_.string(), "convert them with save_pretrained(..., safe_serialization=True)");
    }
    if (const std::filesystem::path gguf = gguf_in(folder_); !gguf.empty()) {
      throw environment_error("the model folder has no weights but a GGUF file", folder_.string(),
                              "name the GGUF file itself: " + gguf.string());
    }
    throw environment_error("the model folder has no weights", folder_.string(),
                            "expected: model.safetensors, or model.safetensors.index.json with "
                            "the files it names; model.random = true runs the shape alone");
  }

  std::string first_names() const {
    std::vector<std::string> names;
    for (const auto& [name, located] : by_name_) names.push_back(name);
    std::sort(names.begin(), names.end());
    std::string text = std::to_string(names.size()) + " tensors";
    for (size_t i = 0; i < names.size() && i < 3; ++i) {
      text += (i == 0 ? ", the first are " : ", ") + shown(names[i]);
    }
    return text;
  }

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unique_ptr<GgufFile> gguf_;
  std::vector<TensorInfo> gguf_tensors_;
  std::unordered_map<std::string, Located> by_name_;
  std::vector<std::string> warnings_;
};

}  // namespace ptq
