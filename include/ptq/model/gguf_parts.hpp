// What GGUF files are made of: types of values and tensors, and a cursor that never leaves the
// bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "ptq/core/error.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/encoding/blocks.hpp"

namespace ptq {

enum class GgufType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

// The value of a key as it stands in the file: one number or text, or an array of them.
struct GgufValue {
  GgufType type;  // of the elements where it is an array
  bool is_array = false;
  uint64_t count = 1;
  std::span<const uint8_t> bytes;  // of the elements, behind each other
};

namespace gguf_detail {

// Limits of our own, far above any real file.
constexpr uint64_t kMaxKeys = 100'000, kMaxTensors = 1'000'000, kMaxNameBytes = 1024, kMaxRank = 4,
                   kMaxAlignment = 65536;
constexpr uint64_t kDefaultAlignment = 32;

constexpr const char* kDownloadHint = "the download may be incomplete, fetch it again";

// Bytes of one element; 0: strings, which differ, and arrays.
constexpr uint64_t type_bytes(GgufType t) {
  switch (t) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64: return 8;
    case GgufType::string:
    case GgufType::array: return 0;
  }
  return 0;
}

// The types of tensors (enum ggml_type).
struct StoredType {
  uint32_t id;
  DType dtype;  // f32 where there are blocks
  const BlockFormat* blocks;
};
inline constexpr StoredType kStoredTypes[] = {
    {0, DType::f32, nullptr},
    {1, DType::f16, nullptr},
    {30, DType::bf16, nullptr},
    {2, DType::f32, &blocks_detail::kFormat<blocks_detail::Q4_0>},
    {3, DType::f32, &blocks_detail::kFormat<blocks_detail::Q4_1>},
    {6, DType::f32, &blocks_detail::kFormat<blocks_detail::Q5_0>},
    {7, DType::f32, &blocks_detail::kFormat<blocks_detail::Q5_1>},
    {8, DType::f32, &blocks_detail::kFormat<blocks_detail::Q8_0>},
    {10, DType::f32, &blocks_detail::kFormat<blocks_detail::Q2K>},
    {11, DType::f32, &blocks_detail::kFormat<blocks_detail::Q3K>},
    {12, DType::f32, &blocks_detail::kFormat<blocks_detail::Q4K>},
    {13, DType::f32, &blocks_detail::kFormat<blocks_detail::Q5K>},
    {14, DType::f32, &blocks_detail::kFormat<blocks_detail::Q6K>},
    {20, DType::f32, &blocks_detail::kFormat<blocks_detail::Iq4Nl>},
    {23, DType::f32, &blocks_detail::kFormat<blocks_detail::Iq4Xs>}};

// What the file calls a type that is not among them.
inline std::string other_type_name(uint32_t id) {
  static const std::map<uint32_t, const char*> names = {
      {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
      {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {24, "I8"},     {25, "I16"},
      {26, "I32"},   {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},
      {35, "TQ2_0"}, {39, "MXFP4"}, {40, "NVFP4"}};
  const auto found = names.find(id);
  return found == names.end() ? "with the number " + std::to_string(id) : found->second;
}

// A text of the file for messages; it may be no UTF-8.
inline std::string foreign(std::string_view text) { return "`" + safe_text(text, 64) + "`"; }

// Walks over bytes; `name` is what messages call the file.
class Cursor {
 public:
  Cursor(std::span<const uint8_t> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }
  std::string where() const { return name_ + ": byte " + std::to_string(at_); }

  std::span<const uint8_t> take(uint64_t n, const char* what) {
    if (n > left()) {
      throw environment_error("the file ends inside " + std::string(what) + ": " +
                                  std::to_string(n) + " bytes are needed, " +
                                  std::to_string(left()) + " are there",
                              where(), kDownloadHint);
    }
    const auto part = bytes_.subspan(at_, n);
    at_ += n;
    return part;
  }
  template <class T>
  T number(const char* what) {
    T x;
    std::memcpy(&x, take(sizeof x, what).data(), sizeof x);
    return x;
  }
  std::string_view text(const char* what) {
    const auto n = number<uint64_t>(what);
    const auto part = take(n, what);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  // A number of things that take at least `least` bytes each.
  uint64_t count(const char* what, uint64_t least, uint64_t limit) {
    const std::string place = where();
    const auto n = number<uint64_t>(what);
    if (n > limit || n > left() / least) {
      throw environment_error("the number of " + std::string(what) + ", " + std::to_string(n) +
                                  (n > limit ? ", is above the limit of " + std::to_string(limit)
                                             : ", does not fit the rest of the file"),
                              place, kDownloadHint);
    }
    return n;
  }
  // A name of a key or a tensor: printable ASCII.
  std::string name(const char* what) {
    const std::string place = where();
    const std::string_view text = this->text(what);
    const bool plain =
        std::all_of(text.begin(), text.end(), [](char c) { return c > 32 && c < 127; });
    if (text.empty() || text.size() > kMaxNameBytes || !plain) {
      throw environment_error(
          std::string(what) + " " + foreign(text) + " is empty, too long or not plain ASCII",
          place);
    }
    return std::string(text);
  }

 private:
  std::span<const uint8_t> bytes_;
  const std::string& name_;
  uint64_t at_ = 0;
};

}  // namespace gguf_detail

}  // namespace ptq
