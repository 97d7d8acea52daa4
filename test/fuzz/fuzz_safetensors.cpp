// A safetensors file: header, then data. The input is read as it is, and a second time with the
// header length set to what is there, since random changes hardly ever keep the two in step.
#include "ptq/model/safetensors.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

bool read_safetensors(Bytes file) {
  return accepts([&] {
    const SafetensorsContent content(file, "x.safetensors");
    uint64_t sum = 0;
    std::set<std::string_view> names;
    const uint8_t* expected = content.tensors().empty() ? nullptr : content.tensors()[0].data;
    volatile uint8_t touched = 0;
    for (const TensorInfo& tensor : content.tensors()) {
      require(names.insert(tensor.name).second, "names are unique");
      require(tensor.data == expected, "tensors follow each other");
      require(tensor.data >= file.data() && tensor.bytes <= file.size(), "data is in the file");
      if (tensor.bytes > 0) touched = tensor.data[0] ^ tensor.data[tensor.bytes - 1];
      uint64_t bytes = static_cast<uint64_t>(dtype_bytes(tensor.dtype));
      for (const int64_t n : tensor.shape) bytes *= static_cast<uint64_t>(n);
      require(bytes == tensor.bytes, "the shape gives the size");
      expected += tensor.bytes;
      sum += tensor.bytes;
    }
    (void)touched;
    if (expected != nullptr) {
      require(expected == file.data() + file.size(), "the last tensor ends the file");
    }
    require(sum + 8 <= file.size(), "the header has a place");
  });
}

}  // namespace

bool safetensors(Bytes input) {
  const bool accepted = read_safetensors(input);
  const size_t brace = text_of_bytes(input).rfind('}');
  if (brace == std::string_view::npos || brace < 8) return accepted;
  std::string repaired(text_of_bytes(input));
  for (size_t i = 0; i < 8; ++i) repaired[i] = static_cast<char>((brace - 7) >> (8 * i));
  // A vector of exactly that size, so that a read past the end is seen.
  const std::vector<uint8_t> file(repaired.begin(), repaired.end());
  return read_safetensors(file) || accepted;
}

}  // namespace ptq::fuzz
