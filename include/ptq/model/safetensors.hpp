// Reading and writing safetensors files, and the weight files of a model folder.
//
// Format: 8 bytes N (u64 little-endian) | N bytes of JSON | tensor data up to the end of the file,
// see huggingface/safetensors. Files come from strangers: every field is checked against the bytes
// that are there before it is used, and a file is either accepted as a whole or refused.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/dtype.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/model/config.hpp"

namespace ptq {

// A tensor inside a mapped file, row-major, little-endian. `data` may have any alignment: use
// memcpy or check the address before reading wider types.
struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  const uint8_t* data;
  uint64_t bytes;
};

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

namespace safetensors_detail {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;        // limit of the reference reader
constexpr int64_t kMaxInteger = (int64_t{1} << 48) - 1;  // largest number of the format's schema
// Limits of our own.
constexpr size_t kMaxTensors = 1'000'000, kMaxNameBytes = 1024, kMaxRank = 8, kMaxDepth = 4;

struct StoredType {
  const char* name;
  DType dtype;
};
constexpr StoredType kStoredTypes[] = {
    {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16}, {"I32", DType::i32},
    {"I64", DType::i64}, {"I8", DType::i8},   {"U8", DType::u8}};

inline DType read_dtype(const JsonValue& value) {
  const std::string_view name = value.as_string();
  for (const StoredType& type : kStoredTypes) {
    if (name == type.name) return type.dtype;
  }
  static const std::set<std::string_view> other = {
      "BOOL", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",    "U16",
      "U32",  "C64",     "F64",     "U64",     "F4",          "F6_E2M3",     "F6_E3M2"};
  throw value.error(other.count(name) > 0 ? "the number format " + shown(name) +
                                                " is part of safetensors but not supported here"
                                          : "unknown number format " + shown(name),
                    "supported: F32, F16, BF16, I32, I64, I8, U8");
}

inline const char* stored_name(DType dtype) {
  for (const StoredType& type : kStoredTypes) {
    if (type.dtype == dtype) return type.name;
  }
  return "?";
}

// Number of bytes of a tensor, or nothing if it does not fit 64 bits.
inline std::optional<uint64_t> checked_bytes(const std::vector<int64_t>& shape, DType dtype) {
  uint64_t bytes = static_cast<uint64_t>(dtype_bytes(dtype));
  for (const int64_t n : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes)) return {};
  }
  return bytes;
}

inline void check_name(std::string_view name, const std::string& where) {
  if (name.size() > kMaxNameBytes) {
    throw environment_error("a tensor name has " + std::to_string(name.size()) +
                                " bytes, more than the limit of " + std::to_string(kMaxNameBytes),
                            where);
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 32 || c == 127) {
      throw environment_error("the tensor name " + shown(name) + " has a control character", where);
    }
  }
}

}  // namespace safetensors_detail

// The bytes of one safetensors file, checked as a whole. The tensors point into `bytes`, which must
// outlive this object; `name` is what error messages call the file.
class SafetensorsContent {
 public:
  SafetensorsContent(std::span<const uint8_t> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {
    using namespace safetensors_detail;
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (is_git_lfs_pointer(text)) {
      throw environment_error("this is a Git LFS pointer, the weights were not downloaded", name_,
                              "run `git lfs pull` in the model folder");
    }
    if (bytes.size() < 8) {
      throw environment_error("the file has " + std::to_string(bytes.size()) +
                                  " bytes, shorter than the 8 bytes of the header length",
                              name_ + ": byte 0", kDownloadHint);
    }
    uint64_t header_bytes = 0;
    for (size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8 | bytes[i];
    if (header_bytes > kMaxHeaderBytes) {
      throw environment_error("the header length " + std::to_string(header_bytes) +
                                  " is above the limit of " + std::to_string(kMaxHeaderBytes),
                              name_ + ": byte 0", "is this a safetensors file?");
    }
    if (header_bytes > bytes.size() - 8) {
      throw environment_error("the header length " + std::to_string(header_bytes) +
                                  " exceeds the file of " + std::to_string(bytes.size()) + " bytes",
                              name_ + ": byte 0", kDownloadHint);
    }
    data_begin_ = 8 + header_bytes;
    // The format demands '{' first. The reference reader also lets JSON whitespace pass there; we
    // follow the format.
    if (header_bytes == 0 || bytes[8] != '{') {
      throw environment_error("the header does not start with `{`", name_ + ": byte 8");
    }
    const auto document = JsonDocument::parse(
        text.substr(8, header_bytes), name_ + ": header at byte 8",
        {.max_bytes = kMaxHeaderBytes, .max_depth = kMaxDepth, .allow_duplicate_keys = false});
    read_header(document.root());
    check_layout();
  }

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of the data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  static constexpr const char* kDownloadHint = "the download may be incomplete, fetch it again";

  std::string where(const TensorInfo& tensor) const {
    const uint64_t begin = static_cast<uint64_t>(tensor.data - bytes_.data());
    return name_ + ": tensor `" + tensor.name + "` at byte " + std::to_string(begin);
  }

  void read_header(const JsonValue& root) {
    using namespace safetensors_detail;
    root.for_each_member([&](std::string_view name, const JsonValue& entry) {
      if (name == "__metadata__") {
        entry.for_each_member([&](std::string_view key, const JsonValue& value) {
          metadata_.emplace(key, value.as_string());
        });
        return;
      }
      check_name(name, name_ + ": header at byte 8");
      if (tensors_.size() == kMaxTensors) {
        throw entry.error("more than " + std::to_string(kMaxTensors) + " tensors");
      }
      tensors_.push_back(read_tensor(name, entry));
    });
  }

  TensorInfo read_tensor(std::string_view name, const JsonValue& entry) const {
    using namespace safetensors_detail;
    entry.for_each_member([&](std::string_view key, const JsonValue& value) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        throw value.error("unknown key " + shown(key) + " in a tensor entry");
      }
    });
    TensorInfo tensor;
    tensor.name = name;
    tensor.dtype = read_dtype(entry.get("dtype"));
    entry.get("shape").for_each_element([&](const JsonValue& n) {
      tensor.shape.push_back(n.as_integer(0, kMaxInteger));
      if (tensor.shape.size() > kMaxRank) {
        throw n.error("more than " + std::to_string(kMaxRank) + " dimensions");
      }
    });
    const JsonValue offsets = entry.get("data_offsets");
    std::vector<uint64_t> range;
    offsets.for_each_element([&](const JsonValue& offset) {
      range.push_back(static_cast<uint64_t>(offset.as_integer(0, kMaxInteger)));
    });
    if (range.size() != 2) throw offsets.error("two numbers, begin and end, are expected");
    if (range[1] < range[0]) {
      throw offsets.error("the end " + std::to_string(range[1]) + " is before the begin " +
                          std::to_string(range[0]));
    }
    const uint64_t available = bytes_.size() - data_begin_;
    if (range[1] > available) {
      throw offsets.error("the end " + std::to_string(range[1]) + " is behind the " +
                              std::to_string(available) + " bytes of data in the file",
                          kDownloadHint);
    }
    const std::optional<uint64_t> bytes = checked_bytes(tensor.shape, tensor.dtype);
    if (!bytes) {
      throw entry.error("the size of shape " + shape_text(tensor.shape) + " overflows 64 bits");
    }
    tensor.bytes = range[1] - range[0];
    tensor.data = bytes_.data() + data_begin_ + range[0];
    if (*bytes != tensor.bytes) {
      throw environment_error("shape " + shape_text(tensor.shape) + " of " +
                                  stored_name(tensor.dtype) + " takes " + std::to_string(*bytes) +
                                  " bytes, the offsets give " + std::to_string(tensor.bytes),
                              where(tensor));
    }
    return tensor;
  }

  // The tensors must tile the data without hole or overlap. One rule covers both, and also lets
  // zero-size tensors share an offset without harm: in the order of (begin, end) each begins where
  // the one before it ended.
  void check_layout() {
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return a.data != b.data ? a.data < b.data : a.bytes < b.bytes;
    });
    const uint8_t* expected = bytes_.data() + data_begin_;
    for (const TensorInfo& tensor : tensors_) {
      if (tensor.data != expected) {
        throw environment_error(tensor.data < expected
                                    ? "the tensor overlaps the one before it"
                                    : "there are unused bytes in front of the tensor",
                                where(tensor));
      }
      expected += tensor.bytes;
    }
    const uint64_t used = static_cast<uint64_t>(expected - bytes_.data());
    if (used != bytes_.size()) {
      throw environment_error(
          "there are " + std::to_string(bytes_.size() - used) + " bytes behind the last tensor",
          name_ + ": byte " + std::to_string(used));
    }
  }

  std::span<const uint8_t> bytes_;
  std::string name_;
  uint64_t data_begin_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// One mapped file. The tensors point into the mapping and live as long as this object.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path)
      : file_(path), content_({file_.data(), file_.size()}, path.string()) {}

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return content_.tensors(); }
  const std::map<std::string, std::string>& metadata() const { return content_.metadata(); }

  const TensorInfo* find(std::string_view name) const {
    for (const TensorInfo& tensor : tensors()) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }

 private:
  MappedFile file_;
  SafetensorsContent content_;
};

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

// A tensor every model of this configuration must have.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;  // linear weights are [out, in]
};

inline std::vector<ExpectedTensor> expected_tensors(const ModelConfig& c) {
  const int64_t h = c.hidden_size, q = c.num_attention_heads * c.head_dim,
                kv = c.num_key_value_heads * c.head_dim, m = c.intermediate_size;
  std::vector<ExpectedTensor> list = {{"model.embed_tokens.weight", {c.vocab_size, h}}};
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    list.push_back({layer + "input_layernorm.weight", {h}});
    list.push_back({attention + "q_proj.weight", {q, h}});
    list.push_back({attention + "k_proj.weight", {kv, h}});
    list.push_back({attention + "v_proj.weight", {kv, h}});
    if (c.qkv_bias) {
      list.push_back({attention + "q_proj.bias", {q}});
      list.push_back({attention + "k_proj.bias", {kv}});
      list.push_back({attention + "v_proj.bias", {kv}});
    }
    list.push_back({attention + "o_proj.weight", {h, q}});
    if (c.o_bias) list.push_back({attention + "o_proj.bias", {h}});
    list.push_back({layer + "post_attention_layernorm.weight", {h}});
    list.push_back({mlp + "gate_proj.weight", {m, h}});
    list.push_back({mlp + "up_proj.weight", {m, h}});
    list.push_back({mlp + "down_proj.weight", {h, m}});
  }
  list.push_back({"model.norm.weight", {h}});
  if (!c.tie_word_embeddings) list.push_back({"lm_head.weight", {c.vocab_size, h}});
  return list;
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

// All weights of a model folder.
class WeightFiles {
 public:
  explicit WeightFiles(const std::filesystem::path& folder) : folder_(folder) {
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
  bool contains(const std::string& name) const { return by_name_.count(name) > 0; }

  // The weight `name`, which must have this shape and be F32, F16 or BF16.
  const TensorInfo& get(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw environment_error("the tensor `" + name + "` is missing", folder_.string(),
                              "the folder has " + first_names());
    }
    const TensorInfo& tensor = *found->second.tensor;
    const std::string where = found->second.file->path().string() + ": tensor `" + name + "`";
    if (tensor.shape != shape) {
      throw environment_error(
          "the shape is " + shape_text(tensor.shape) + ", config.json needs " + shape_text(shape),
          where, "config.json and the weights belong to different models");
    }
    if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16) {
      throw environment_error(std::string("the number format ") +
                                  safetensors_detail::stored_name(tensor.dtype) +
                                  " is not one of F32, F16, BF16",
                              where, "use the folder of the original, unquantized model");
    }
    return tensor;
  }

  // Checks the whole folder against the configuration before anything is computed. A head stored
  // next to tied embeddings is not used and leaves a warning.
  void check_tensors(const ModelConfig& config) {
    std::set<std::string> expected;
    for (const ExpectedTensor& tensor : expected_tensors(config)) {
      get(tensor.name, tensor.shape);
      expected.insert(tensor.name);
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
                              located.file->path().string());
    }
  }

 private:
  struct Located {
    const SafetensorsFile* file;
    const TensorInfo* tensor;
  };

  // Opens a file of the folder and registers its tensors.
  const SafetensorsFile& add_file(const std::string& name) {
    check_stays_inside(folder_ / name);
    files_.push_back(std::make_unique<SafetensorsFile>(folder_ / name));
    const SafetensorsFile& file = *files_.back();
    for (const TensorInfo& tensor : file.tensors()) {
      const auto [other, added] = by_name_.try_emplace(tensor.name, Located{&file, &tensor});
      if (!added) {
        throw environment_error(
            "the tensor `" + tensor.name + "` is in two files",
            other->second.file->path().string() + " and " + file.path().string());
      }
    }
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
        if (found == by_name_.end() || found->second.file != &file) {
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
    throw environment_error("the model folder has no weights", folder_.string(),
                            "expected: model.safetensors, or model.safetensors.index.json with "
                            "the files it names");
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
  std::unordered_map<std::string, Located> by_name_;
  std::vector<std::string> warnings_;
};

struct TensorToWrite {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  const void* data;
};

namespace safetensors_detail {

inline std::string json_quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

// A file that appears under its final name only when it is complete and on disk.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path) : path_(path) {
    static std::atomic<unsigned> counter{0};
    temporary_ = path.string() + ".tmp." + std::to_string(::getpid()) + "." +
                 std::to_string(counter.fetch_add(1));
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) fail("cannot create");
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!published_) ::unlink(temporary_.c_str());
  }

  void write(const void* data, uint64_t bytes) {
    const char* p = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t n = ::write(fd_, p, std::min<uint64_t>(bytes, uint64_t{1} << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("cannot write");
      p += n;
      bytes -= static_cast<uint64_t>(n);
    }
  }

  void publish() {
    if (uninterrupted([&] { return ::fsync(fd_); }) != 0 && !sync_is_unsupported(errno)) {
      fail("cannot flush");
    }
    if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail("cannot close");
    if (uninterrupted([&] { return ::rename(temporary_.c_str(), path_.c_str()); }) != 0) {
      fail("cannot rename");
    }
    published_ = true;
    // Makes the new name itself durable.
    sync_path(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
  }

 private:
  [[noreturn]] void fail(const char* action) const {
    const int error = errno;
    const auto code =
        error == ENOSPC || error == EDQUOT ? ExitCode::resources : ExitCode::environment;
    throw Error(code, std::string(action) + " the file: " + std::strerror(error), path_.string());
  }

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
  bool published_ = false;
};

}  // namespace safetensors_detail

// Writes a file in the order of the reference writer: wider elements first, then by name, with the
// header padded to a multiple of 8 so that every tensor is aligned to its element size. The file
// replaces `path` in one step; a reader that has the old one mapped keeps the old bytes.
inline void write_safetensors(const std::filesystem::path& path,
                              std::vector<TensorToWrite> tensors) {
  using namespace safetensors_detail;
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const int wa = dtype_bytes(a.dtype), wb = dtype_bytes(b.dtype);
    return wa != wb ? wa > wb : a.name < b.name;
  });
  // transformers refuses files without this entry.
  std::string header = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  std::set<std::string> names;
  std::vector<uint64_t> sizes;
  for (const TensorToWrite& tensor : tensors) {
    const std::string where = path.string() + ": tensor " + shown(tensor.name);
    check_name(tensor.name, where);
    if (tensor.name == "__metadata__" || utf8_error_offset(tensor.name) != std::string::npos ||
        !names.insert(tensor.name).second) {
      throw usage_error("the tensor name is reserved, used twice or not UTF-8", where);
    }
    const bool negative =
        std::any_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t n) { return n < 0; });
    const auto bytes = checked_bytes(tensor.shape, tensor.dtype);
    if (negative || !bytes || *bytes > static_cast<uint64_t>(kMaxInteger) - offset ||
        tensor.shape.size() > kMaxRank) {
      throw usage_error("the shape " + shape_text(tensor.shape) + " cannot be stored", where);
    }
    sizes.push_back(*bytes);
    header += "," + json_quoted(tensor.name) + ":{\"dtype\":\"" + stored_name(tensor.dtype) +
              "\",\"shape\":" + shape_text(tensor.shape) + ",\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(offset + *bytes) + "]}";
    offset += *bytes;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > kMaxHeaderBytes) {
    throw usage_error("the header would have " + std::to_string(header.size()) + " bytes",
                      path.string());
  }

  AtomicFile file(path);
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(header.size() >> (8 * i));
  file.write(length, sizeof length);
  file.write(header.data(), header.size());
  for (size_t i = 0; i < tensors.size(); ++i) file.write(tensors[i].data, sizes[i]);
  file.publish();
}

}  // namespace ptq
