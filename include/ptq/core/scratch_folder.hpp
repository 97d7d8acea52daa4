// A folder for what is needed for a while.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <new>
#include <string>

#include "ptq/core/error.hpp"

namespace ptq {

// Removed with the object, and everything in it.
class ScratchFolder {
 public:
  // inside: a folder; empty: that of temporary files. Errors: it cannot be written.
  explicit ScratchFolder(const std::string& inside = "") {
    const auto base =
        inside.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(inside);
    std::string name = (base / "ptq-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw environment_error("no folder for temporary files can be made", base.string(),
                              "TMPDIR names another place");
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    try {
      std::filesystem::remove_all(path_, ignored);
    } catch (const std::bad_alloc&) {  // which the error code does not cover
    }
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace ptq
