// The plugins of a list of folders. Each is loaded in a child process that says what is in it: a
// plugin that crashes, exits, waits or changes its process costs itself and nothing else. In this
// process it is loaded when a method is made from it.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/run/apart.hpp"
#include "ptq/run/method_instance.hpp"
#include "ptq/run/plugin_library.hpp"

namespace ptq {

struct SkippedFile {
  std::filesystem::path path;
  std::string reason;
};

class PluginSet {
 public:
  // Folders that do not exist are passed over. A file that cannot be used becomes a SkippedFile
  // with the reason. Of two methods with one name the first found wins.
  static PluginSet scan(const std::vector<std::filesystem::path>& folders) {
    PluginSet set;
    std::vector<std::string> seen;
    for (const auto& folder : folders) {
      std::error_code none;
      std::vector<std::filesystem::path> files;
      for (const auto& entry : std::filesystem::directory_iterator(folder, none))
        if (entry.path().extension() == ".so") files.push_back(entry.path());
      std::sort(files.begin(), files.end());
      for (const auto& file : files) {
        const std::string real = std::filesystem::weakly_canonical(file, none).string();
        if (std::find(seen.begin(), seen.end(), real) != seen.end()) continue;
        seen.push_back(real);
        set.add(file);
      }
    }
    return set;
  }

  const std::vector<MethodInfo>& methods() const { return methods_; }
  const std::vector<SkippedFile>& skipped() const { return skipped_; }
  const MethodInfo* find(const std::string& name) const {
    for (const MethodInfo& m : methods_)
      if (m.name == name) return &m;
    return nullptr;
  }

  // options: complete and valid (validate_options).
  std::unique_ptr<MethodInstance> create(const MethodInfo& info, const Json& options,
                                         uint64_t seed) const {
    return std::make_unique<MethodInstance>(info, options, seed);
  }

  // Loads one file into this process and returns its methods. Throws with the reason when it cannot
  // be used. Never unloaded: the process ends soon anyway, and unloading device code is a known
  // source of silent errors.
  static std::vector<MethodInfo> load(const std::filesystem::path& file) {
    return load_plugin(file);
  }

 private:
  static constexpr double kLoadSeconds = 10;

  static std::string reason(const Error& e) {
    return e.hint().empty() ? e.message() : e.message() + "; " + e.hint();
  }

  // The methods of a file, from a child process that loads it.
  static std::vector<MethodInfo> read(const std::filesystem::path& file) {
    plugin_detail::require_regular_file(file.string());
    ApartSettings settings;
    settings.seconds = kLoadSeconds;
    const ApartEnd end = Apart::run(settings, [&] {
      Json answer;
      try {
        answer["methods"] = describe(load_plugin(file));
      } catch (const Error& e) {
        answer["error"] = reason(e);
      }
      return answer.dump(-1, ' ', false, Json::error_handler_t::replace);
    });
    switch (end.how) {
      case ApartEnd::How::answered: break;
      case ApartEnd::How::too_long: throw environment_error("does not finish loading within 10 s");
      case ApartEnd::How::long_answer:
        throw environment_error("describes itself with more than " +
                                std::to_string(settings.longest_answer >> 20) + " MiB");
      default: throw environment_error(end.reason() + " while it is loaded");
    }
    const auto answer = Json::parse(end.answer);
    if (answer.contains("error")) throw environment_error(answer["error"].get<std::string>());
    return from_description(answer.at("methods"));
  }

  static bool same_content(const std::filesystem::path& a, const std::filesystem::path& b) {
    std::error_code none;
    if (!std::filesystem::is_regular_file(b, none) ||
        std::filesystem::file_size(a, none) != std::filesystem::file_size(b, none))
      return false;
    std::ifstream fa(a, std::ios::binary), fb(b, std::ios::binary);
    return std::equal(std::istreambuf_iterator<char>(fa), {}, std::istreambuf_iterator<char>(fb));
  }

  void add(const std::filesystem::path& file) {
    for (const MethodInfo& m : methods_)  // a copy in a second folder is nothing to speak of
      if (same_content(m.plugin_file, file)) return;
    try {
      for (MethodInfo& m : read(file)) {
        if (const MethodInfo* other = find(m.name)) {
          skipped_.push_back({file, "method " + m.name + " was already found in " +
                                        safe_text(other->plugin_file)});
          continue;
        }
        methods_.push_back(std::move(m));
      }
    } catch (const Error& e) {
      skipped_.push_back({file, reason(e)});
    }
  }

  std::vector<MethodInfo> methods_;
  std::vector<SkippedFile> skipped_;
};

}  // namespace ptq
