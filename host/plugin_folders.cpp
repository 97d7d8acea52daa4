#include "host/plugin_folders.hpp"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "ptq/core/error.hpp"
#include "ptq/core/safe_text.hpp"

namespace ptq {
namespace fs = std::filesystem;

fs::path program_folder() {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::vector<fs::path> plugin_folders(const std::vector<std::string>& given) {
  std::vector<fs::path> candidates;
  for (const std::string& folder : given) {
    if (!fs::is_directory(folder)) {
      throw environment_error("the plugin folder does not exist", folder,
                              "--plugins names a folder with *.so files");
    }
    candidates.push_back(folder);
  }
  if (const char* list = std::getenv("PTQ_PLUGINS")) {
    std::istringstream folders(list);
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (!folder.empty()) candidates.push_back(folder);
    }
  }
  const fs::path program = program_folder();
  // lib/ptq/plugins: where `cmake --install` puts them.
  for (const fs::path& folder : {fs::path("plugins"), program / "plugins", program / "../plugins",
                                 program / "../lib/ptq/plugins", program}) {
    candidates.push_back(folder);
  }
  std::vector<fs::path> folders;
  for (const fs::path& candidate : candidates) {
    std::error_code error;
    const fs::path real = fs::canonical(candidate, error);
    if (error || !fs::is_directory(real)) continue;
    if (std::find(folders.begin(), folders.end(), real) == folders.end()) folders.push_back(real);
  }
  return folders;
}

std::string skipped_text(const PluginSet& plugins) {
  std::string text;
  for (const SkippedFile& file : plugins.skipped()) {
    text += "\n    skipped " + safe_text(file.path.string()) + ": " + file.reason;
  }
  return text;
}

}  // namespace ptq
