// Reading GGUF files, the container of llama.cpp.
//
// Format: ggml/docs/gguf.md. "GGUF" | u32 version | u64 tensors | u64 keys | keys with their values
// | what each tensor is | padding | data. Files come from strangers: every field is checked against
// the bytes that are there before it is used, and a file is either accepted as a whole or refused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/model/gguf_parts.hpp"
#include "ptq/model/tensor.hpp"

namespace ptq {

// The bytes of one GGUF file, checked as a whole. Values and tensors point into `bytes`, which must
// outlive this object; `name` is what error messages call the file.
class GgufContent {
 public:
  GgufContent(std::span<const uint8_t> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {
    using namespace gguf_detail;
    Cursor cursor(bytes_, name_);
    read_header(cursor);
    const uint64_t tensors = cursor.count("tensors", 33, kMaxTensors);
    const uint64_t keys = cursor.count("keys", 14, kMaxKeys);
    for (uint64_t i = 0; i < keys; ++i) read_key(cursor);
    const uint64_t alignment = uint64_t(
        integer("general.alignment", 1, int64_t(kMaxAlignment)).value_or(kDefaultAlignment));
    if ((alignment & (alignment - 1)) != 0) {
      throw error("general.alignment", std::to_string(alignment) + " is not a power of two");
    }
    std::vector<uint64_t> offsets;
    std::set<std::string_view> names;
    tensors_.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) {
      offsets.push_back(read_tensor(cursor, alignment));
      const std::string& tensor = tensors_.back().name;
      if (!names.insert(tensor).second) {
        throw environment_error("the tensor `" + tensor + "` appears twice", name_);
      }
    }
    place_tensors(offsets, cursor.at(), alignment);
  }

  const std::string& name() const { return name_; }
  // In the order of the file; shapes have the fastest dimension last.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* tensor(std::string_view name) const {
    for (const TensorInfo& t : tensors_)
      if (t.name == name) return &t;
    return nullptr;
  }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  bool contains(const std::string& key) const { return metadata_.count(key) > 0; }

  // An error about the value of a key.
  Error error(const std::string& key, const std::string& message,
              const std::string& hint = {}) const {
    return environment_error(message, name_ + ": " + key, hint);
  }

  // Values by key; nothing or an empty list where the key is absent. Errors: another type than is
  // asked for, integers outside [low, high].
  std::optional<int64_t> integer(const std::string& key, int64_t low, int64_t high) const {
    const GgufValue* value = scalar(key);
    if (!value) return {};
    int64_t x = 0;
    switch (value->type) {
      case GgufType::u8: x = as<uint8_t>(*value, 0); break;
      case GgufType::i8: x = as<int8_t>(*value, 0); break;
      case GgufType::u16: x = as<uint16_t>(*value, 0); break;
      case GgufType::i16: x = as<int16_t>(*value, 0); break;
      case GgufType::u32: x = as<uint32_t>(*value, 0); break;
      case GgufType::i32: x = as<int32_t>(*value, 0); break;
      case GgufType::u64:
        x = int64_t(std::min<uint64_t>(as<uint64_t>(*value, 0), uint64_t(INT64_MAX)));
        break;
      case GgufType::i64: x = as<int64_t>(*value, 0); break;
      default: throw error(key, "an integer is expected");
    }
    if (x < low || x > high) {
      throw error(key, std::to_string(x) + " is not in " + std::to_string(low) + " .. " +
                           std::to_string(high));
    }
    return x;
  }
  std::optional<double> number(const std::string& key) const {
    const GgufValue* value = scalar(key);
    if (!value) return {};
    if (value->type == GgufType::f32) return as<float>(*value, 0);
    if (value->type == GgufType::f64) return as<double>(*value, 0);
    const auto whole = integer(key, INT64_MIN, INT64_MAX);
    return double(*whole);
  }
  std::optional<bool> boolean(const std::string& key) const {
    const GgufValue* value = scalar(key);
    if (!value) return {};
    if (value->type != GgufType::boolean) throw error(key, "true or false is expected");
    return as<uint8_t>(*value, 0) != 0;
  }
  std::optional<std::string_view> text(const std::string& key) const {
    const GgufValue* value = scalar(key);
    if (!value) return {};
    if (value->type != GgufType::string) throw error(key, "a text is expected");
    return text_at(value->bytes.data());
  }
  std::vector<std::string> texts(const std::string& key) const {
    std::vector<std::string> list;
    const GgufValue* value = array(key, GgufType::string, "texts");
    if (!value) return list;
    list.reserve(value->count);
    const uint8_t* p = value->bytes.data();
    for (uint64_t i = 0; i < value->count; ++i) {
      const std::string_view text = text_at(p);
      list.emplace_back(text);
      p += 8 + text.size();
    }
    return list;
  }
  std::vector<float> floats(const std::string& key) const {
    return numbers<float>(key, GgufType::f32, "32-bit floats");
  }
  std::vector<int32_t> integers(const std::string& key) const {
    return numbers<int32_t>(key, GgufType::i32, "32-bit integers");
  }

 private:
  template <class T>
  static T as(const GgufValue& value, uint64_t index) {
    T x;
    std::memcpy(&x, value.bytes.data() + index * sizeof x, sizeof x);
    return x;
  }
  // A string whose length was checked.
  static std::string_view text_at(const uint8_t* p) {
    uint64_t n;
    std::memcpy(&n, p, 8);
    return {reinterpret_cast<const char*>(p + 8), n};
  }
  const GgufValue* scalar(const std::string& key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return nullptr;
    if (found->second.is_array) throw error(key, "one value is expected, the file has a list");
    return &found->second;
  }
  const GgufValue* array(const std::string& key, GgufType type, const char* what) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return nullptr;
    const GgufValue& value = found->second;
    if (!value.is_array || (value.type != type && value.count > 0))
      throw error(key, "a list of " + std::string(what) + " is expected");
    return &value;
  }
  template <class T>
  std::vector<T> numbers(const std::string& key, GgufType type, const char* what) const {
    std::vector<T> list;
    const GgufValue* value = array(key, type, what);
    if (!value) return list;
    list.resize(value->count);
    if (value->count > 0) std::memcpy(list.data(), value->bytes.data(), value->count * sizeof(T));
    return list;
  }

  void read_header(gguf_detail::Cursor& cursor) {
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    if (is_git_lfs_pointer(text)) {
      throw environment_error("this is a Git LFS pointer, the model was not downloaded", name_,
                              "run `git lfs pull` in the folder");
    }
    if (!text.starts_with("GGUF")) {
      throw environment_error("the file does not begin with `GGUF`", name_ + ": byte 0",
                              "is this a GGUF file?");
    }
    cursor.take(4, "the header");
    const std::string place = cursor.where();
    const auto version = cursor.number<uint32_t>("the header");
    if ((version & 0xFFFF) == 0 && version != 0) {
      throw environment_error("the file is big-endian, which is not supported", place);
    }
    if (version != 2 && version != 3) {
      throw environment_error("the version " + std::to_string(version) + " is not supported", place,
                              "supported: 2, 3; convert the model again");
    }
  }

  void read_key(gguf_detail::Cursor& cursor) {
    using namespace gguf_detail;
    const std::string place = cursor.where();
    const std::string key = cursor.name("a key");
    const auto read_type = [&] {
      const auto type = cursor.number<uint32_t>("the type of a value");
      if (type > uint32_t(GgufType::f64))
        throw error(key, "the type " + std::to_string(type) + " of the value is unknown");
      return GgufType(type);
    };
    GgufValue value;
    value.type = read_type();
    if (value.type == GgufType::array) {
      value.is_array = true;
      value.type = read_type();
      if (value.type == GgufType::array) throw error(key, "lists of lists are not supported");
      const uint64_t bytes = type_bytes(value.type);
      value.count = cursor.count("elements of a list", bytes == 0 ? 8 : bytes, UINT64_MAX);
    }
    if (value.type == GgufType::string) {
      const uint64_t begin = cursor.at();
      for (uint64_t i = 0; i < value.count; ++i) cursor.text("a text");
      value.bytes = bytes_.subspan(begin, cursor.at() - begin);
    } else {
      value.bytes = cursor.take(value.count * type_bytes(value.type), "a value");
    }
    if (value.type == GgufType::boolean &&
        std::any_of(value.bytes.begin(), value.bytes.end(), [](uint8_t b) { return b > 1; })) {
      throw error(key, "a truth value is neither 0 nor 1");
    }
    if (!metadata_.emplace(key, value).second) {
      throw environment_error("the key " + shown(key) + " appears twice", place);
    }
  }

  // What one tensor is; gives its offset in the data. place_tensors() fills in where it lies.
  uint64_t read_tensor(gguf_detail::Cursor& cursor, uint64_t alignment) {
    using namespace gguf_detail;
    TensorInfo tensor;
    tensor.name = cursor.name("the name of a tensor");
    const std::string where = name_ + ": tensor `" + tensor.name + "`";
    const auto rank = cursor.number<uint32_t>("the description of a tensor");
    if (rank < 1 || rank > kMaxRank) {
      throw environment_error("has " + std::to_string(rank) + " dimensions, not 1 .. 4", where);
    }
    uint64_t numbers = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      const auto n = cursor.number<uint64_t>("the description of a tensor");
      if (n == 0 || __builtin_mul_overflow(numbers, n, &numbers) || numbers >> 48 != 0) {
        throw environment_error("the dimension " + std::to_string(n) + " is 0 or too large", where);
      }
      tensor.shape.insert(tensor.shape.begin(), int64_t(n));  // the file has the fastest one first
    }
    const auto id = cursor.number<uint32_t>("the description of a tensor");
    const auto* type = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                    [&](const StoredType& t) { return t.id == id; });
    if (type == std::end(kStoredTypes)) {
      std::string known;
      for (const StoredType& t : kStoredTypes) {
        known += std::string(known.empty() ? "" : ", ") + (t.blocks    ? t.blocks->name
                                                           : t.id == 0 ? "F32"
                                                           : t.id == 1 ? "F16"
                                                                       : "BF16");
      }
      throw environment_error("the number format " + other_type_name(id) + " is not supported",
                              where, "supported: " + known);
    }
    tensor.dtype = type->dtype;
    tensor.blocks = type->blocks;
    if (tensor.blocks && tensor.shape.back() % tensor.blocks->numbers != 0) {
      throw environment_error("rows of " + std::to_string(tensor.shape.back()) +
                                  " numbers do not divide into blocks of " +
                                  std::to_string(tensor.blocks->numbers),
                              where);
    }
    if (tensor.blocks && rank == 1)
      throw environment_error(
          "a vector in the format " + std::string(tensor.blocks->name) + " is not supported", where,
          "norms and biases are kept in F32, F16 or BF16");
    tensor.bytes = tensor.blocks
                       ? numbers / uint64_t(tensor.blocks->numbers) * uint64_t(tensor.blocks->bytes)
                       : numbers * uint64_t(dtype_bytes(tensor.dtype));
    const auto offset = cursor.number<uint64_t>("the description of a tensor");
    if (offset % alignment != 0) {
      throw environment_error("the offset " + std::to_string(offset) + " is no multiple of " +
                                  std::to_string(alignment),
                              where);
    }
    tensors_.push_back(std::move(tensor));
    return offset;
  }

  // In the order of the data each tensor begins at the first aligned byte behind the one before.
  void place_tensors(const std::vector<uint64_t>& offsets, uint64_t described, uint64_t alignment) {
    const auto aligned = [&](uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
    const uint64_t begin = aligned(described), size = bytes_.size();
    std::vector<size_t> order(offsets.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return offsets[a] < offsets[b]; });
    uint64_t expected = 0;
    for (const size_t i : order) {
      TensorInfo& tensor = tensors_[i];
      const std::string where = name_ + ": tensor `" + tensor.name + "`";
      if (offsets[i] != expected) {
        throw environment_error(offsets[i] < expected
                                    ? "the tensor overlaps the one before it"
                                    : "there are unused bytes in front of the tensor",
                                where);
      }
      if (begin > size || tensor.bytes > size - begin || expected > size - begin - tensor.bytes) {
        throw environment_error(
            "the tensor needs " + std::to_string(tensor.bytes) + " bytes, and the file ends before",
            where, gguf_detail::kDownloadHint);
      }
      tensor.data = bytes_.data() + begin + expected;
      expected = aligned(expected + tensor.bytes);
    }
    const uint64_t end = begin + expected;
    if (size > end) {
      throw environment_error(
          "there are " + std::to_string(size - end) + " bytes behind the last tensor",
          name_ + ": byte " + std::to_string(end));
    }
  }

  std::span<const uint8_t> bytes_;
  std::string name_;
  std::map<std::string, GgufValue> metadata_;
  std::vector<TensorInfo> tensors_;
};

// One mapped file; values and tensors live as long as this object.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path)
      : file_(path), content_({file_.data(), file_.size()}, path.string()) {}

  const std::filesystem::path& path() const { return file_.path(); }
  const GgufContent& content() const { return content_; }

 private:
  MappedFile file_;
  GgufContent content_;
};

// Is this a file that names itself a GGUF file, by its ending or by how it begins?
inline bool is_gguf(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  if (path.extension() == ".gguf") return true;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, 4);
  return std::string_view(magic, 4) == "GGUF";
}

}  // namespace ptq
