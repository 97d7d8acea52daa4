// A GGUF file: container, configuration and weights. The input is read as it is, and a second time
// with room behind it for the data that it describes, since few inputs are long enough.
#include "ptq/model/gguf_model.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

constexpr uint64_t kRoom = 65536;

bool read_gguf(Bytes file) {
  return accepts([&] {
    const GgufContent content(file, "x.gguf");
    std::set<std::string_view> names;
    std::vector<TensorInfo> tensors = content.tensors();
    for (const TensorInfo& tensor : tensors) {
      require(names.insert(tensor.name).second, "names are unique");
      require(tensor.data >= file.data() && tensor.bytes <= file.size() &&
                  tensor.data + tensor.bytes <= file.data() + file.size(),
              "data is in the file");
    }
    accepts([&] {
      const ModelConfig config = gguf_config(content);
      require(config.num_attention_heads % config.num_key_value_heads == 0, "groups of heads");
      require(config.head_dim % 2 == 0 && config.head_dim > 0, "pairs of the rotary embedding");
      tensors = gguf_weights(content, config);
    });
    volatile float touched = 0;
    for (const TensorInfo& tensor : tensors) {
      if (tensor.shape.size() > 2) continue;
      const StoredRows rows = tensor.rows();
      require(uint64_t(tensor.shape[0] * rows.row_bytes()) == tensor.bytes, "rows give the size");
      std::vector<float> row(static_cast<size_t>(rows.columns));
      for (const int64_t r : {int64_t{0}, tensor.shape[0] / 2, tensor.shape[0] - 1}) {
        rows.decode(r, r + 1, row.data());
        touched = row.back();
      }
    }
    (void)touched;
    for (const auto& [key, value] : content.metadata()) {
      if (!value.is_array) continue;
      if (value.type == GgufType::string)
        require(content.texts(key).size() == value.count, "all texts of a list");
      if (value.type == GgufType::f32)
        require(content.floats(key).size() == value.count, "all numbers of a list");
      if (value.type == GgufType::i32)
        require(content.integers(key).size() == value.count, "all numbers of a list");
    }
  });
}

}  // namespace

bool gguf(Bytes input) {
  const bool accepted = read_gguf(input);
  if (input.size() > kRoom) return accepted;
  // The length that the reader asks for, found by halves: shorter files end too early, longer ones
  // have bytes left over.
  uint64_t low = input.size(), high = input.size() + kRoom;
  std::vector<uint8_t> file(input.begin(), input.end());
  while (low + 1 < high) {
    const uint64_t size = (low + high) / 2;
    file.resize(size);
    bool behind = false;
    try {
      const GgufContent content(file, "x.gguf");
      return read_gguf(file) || accepted;
    } catch (const Error& error) {
      behind = error.message().find("behind the last tensor") != std::string::npos;
    }
    (behind ? high : low) = size;
  }
  return accepted;
}

}  // namespace ptq::fuzz
