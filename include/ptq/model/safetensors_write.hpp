// Writing safetensors files (huggingface/safetensors).
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/dtype.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq {

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

}  // namespace safetensors_detail

// Writes a file in the order of the reference writer: wider elements first, then by name, with the
// header padded to a multiple of 8 so that every tensor is aligned to its element size. The file
// replaces `path` in one step; a reader that has the old one mapped keeps the old bytes. Errors:
// what is there is a link, a device, a pipe or a folder.
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

  std::error_code error;
  const auto type = std::filesystem::symlink_status(path, error).type();
  if (type != std::filesystem::file_type::not_found && type != std::filesystem::file_type::regular)
    throw usage_error("what is there is no plain file, and is not replaced by one", path.string(),
                      "name a file; tensors are not written into links, devices or pipes");
  AtomicFile file(path);
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(header.size() >> (8 * i));
  file.write({reinterpret_cast<const char*>(length), sizeof length});
  file.write(header);
  for (size_t i = 0; i < tensors.size(); ++i)
    file.write({static_cast<const char*>(tensors[i].data), size_t(sizes[i])});
  file.publish();
}

}  // namespace ptq
