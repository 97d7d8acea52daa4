// model.safetensors.index.json: every accepted file name stays in its folder.
#include "ptq/model/weight_files.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {

bool index(Bytes input) {
  return accepts([&] {
    const SafetensorsIndex index = parse_safetensors_index(text_of_bytes(input), "index.json");
    std::set<std::string_view> tensors;
    for (const auto& [file, names] : index.tensors_of_file) {
      const std::filesystem::path path(file);
      require(path.filename() == path && file != "." && file != "..", "a file name is plain");
      require(file.find('\0') == file.npos, "a file name has no NUL");
      require(!names.empty(), "a file has tensors");
      for (const std::string& name : names) {
        require(tensors.insert(name).second, "a tensor is in one file");
      }
    }
    require(!index.tensors_of_file.empty(), "there is a file");
    if (const auto warning = total_size_warning(index, 4096)) {
      require(is_utf8(*warning), "messages are UTF-8");
    }
  });
}

}  // namespace ptq::fuzz
