// Reading safetensors files.
//
// Format: 8 bytes N (u64 little-endian) | N bytes of JSON | tensor data up to the end of the file,
// see huggingface/safetensors. Files come from strangers: every field is checked against the bytes
// that are there before it is used, and a file is either accepted as a whole or refused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/model/tensor.hpp"

namespace ptq {

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
    {"I64", DType::i64}, {"I8", DType::i8},   {"U8", DType::u8},     {"F8_E4M3", DType::f8_e4m3}};

inline DType read_dtype(const JsonValue& value) {
  const std::string_view name = value.as_string();
  for (const StoredType& type : kStoredTypes) {
    if (name == type.name) return type.dtype;
  }
  static const std::set<std::string_view> other = {
      "BOOL", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",     "U16",
      "U32",  "C64",     "F64",     "U64",         "F4",          "F6_E2M3", "F6_E3M2"};
  throw value.error(other.count(name) > 0 ? "the number format " + shown(name) +
                                                " is part of safetensors but not supported here"
                                          : "unknown number format " + shown(name),
                    "supported: F32, F16, BF16, I32, I64, I8, U8, F8_E4M3");
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

}  // namespace ptq
