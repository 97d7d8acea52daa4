// Where models and data files of an experiment lie. Nothing is ever downloaded; the message names
// the command that does it.
#pragma once

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/model/gguf.hpp"

namespace ptq {

// The working folder; an empty path where it was removed or cannot be named. Absolute paths need
// none: `working_folder() / path` then is the path.
inline std::filesystem::path working_folder() {
  std::error_code gone;
  return std::filesystem::current_path(gone);
}

// The path itself where it is absolute or there is no working folder.
inline std::filesystem::path absolute_path(const std::filesystem::path& path) {
  return working_folder() / path;
}

// Folders against which relative paths of an experiment are tried, in order.
inline std::vector<std::filesystem::path> search_bases(const std::filesystem::path& experiment) {
  const std::filesystem::path here = working_folder();
  const std::filesystem::path folder = absolute_path(experiment).parent_path();
  std::vector<std::filesystem::path> bases = {here};
  for (const std::filesystem::path& base : {folder, folder.parent_path()}) {
    if (std::find(bases.begin(), bases.end(), base) == bases.end()) bases.push_back(base);
  }
  return bases;
}

struct ModelFolder {
  std::string name;              // last part of the folder or of the id
  std::filesystem::path folder;  // or a GGUF file
};

namespace locate_detail {

inline std::string environment_text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A leading ~ is the user's home folder.
inline std::string home_expanded(std::string text) {
  if (text == "~" || text.starts_with("~/")) {
    std::string home = environment_text("HOME");
    const passwd* user = home.empty() ? ::getpwuid(::getuid()) : nullptr;
    if (user != nullptr) home = user->pw_dir;
    if (!home.empty()) text.replace(0, 1, home);
  }
  return text;
}

// That, and $NAME or ${NAME}: job files and .env files hand environment variables over as they are
// written. Unknown names stay.
inline std::string expanded(const std::string& path) {
  const std::string text = home_expanded(path);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool braces = text.compare(i, 2, "${") == 0;
    const size_t begin = i + (braces ? 2 : 1);
    size_t end = begin;
    while (text[i] == '$' && end < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_')) {
      ++end;
    }
    const bool whole = end > begin && (!braces || (end < text.size() && text[end] == '}'));
    const std::string name = text.substr(begin, end - begin);
    if (text[i] == '$' && whole && std::getenv(name.c_str()) != nullptr) {
      out += environment_text(name.c_str());
      i = end + (braces ? 1 : 0);
    } else {
      out += text[i++];
    }
  }
  return out;
}

// "owner/name" and "owner/name@revision".
inline bool has_hub_form(const std::string& text) {
  const size_t slash = text.find('/');
  return slash != std::string::npos && slash != 0 && text[0] != '.' && text[0] != '~' &&
         !text.ends_with(".gguf") && text.find('/', slash + 1) == std::string::npos &&
         slash + 1 != text.size();
}

// Such a text is a Hugging Face id, unless a folder `owner` lies where relative paths are looked
// up.
inline bool looks_like_hub_id(const std::string& text,
                              const std::vector<std::filesystem::path>& bases) {
  if (!has_hub_form(text)) return false;
  const size_t slash = text.find('/');
  return std::none_of(bases.begin(), bases.end(), [&](const std::filesystem::path& base) {
    std::error_code ignored;
    return std::filesystem::is_directory(base / text.substr(0, slash), ignored);
  });
}

// Where the Hugging Face client keeps its cache (huggingface_hub constants.py).
inline std::filesystem::path hub_cache() {
  for (const auto& [variable, below] :
       {std::pair{"HF_HUB_CACHE", ""}, std::pair{"HUGGINGFACE_HUB_CACHE", ""},
        std::pair{"HF_HOME", "hub"}, std::pair{"XDG_CACHE_HOME", "huggingface/hub"}}) {
    const std::string value = environment_text(variable);
    if (!value.empty()) return std::filesystem::path(expanded(value)) / below;
  }
  return expanded("~/.cache/huggingface/hub");
}

// A GGUF file, or a folder that a model can be read from and not one that an interrupted download
// left empty.
inline bool holds_model(const std::filesystem::path& folder) {
  if (is_gguf(folder)) return true;
  std::error_code ignored;
  return std::filesystem::exists(folder / "config.json", ignored) ||
         std::filesystem::exists(folder / "tokenizer.json", ignored);
}

// The snapshot folder of a model in the Hugging Face cache, or an empty path. `revision` is a
// branch or the beginning of a commit; empty = main, or the only snapshot there is.
inline std::filesystem::path hub_snapshot(const std::filesystem::path& model,
                                          const std::string& revision) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  std::string commit;
  std::ifstream(model / "refs" / (revision.empty() ? "main" : revision)) >> commit;
  if (!commit.empty() && fs::is_directory(model / "snapshots" / commit, ignored)) {
    return model / "snapshots" / commit;
  }
  std::vector<fs::path> matches;
  for (const auto& entry : fs::directory_iterator(model / "snapshots", ignored)) {
    if (entry.path().filename().string().starts_with(revision)) matches.push_back(entry.path());
  }
  return matches.size() == 1 ? matches.front() : fs::path();
}

}  // namespace locate_detail

// The command that downloads a model of the Hugging Face hub, with the note on licences.
inline std::string download_command(const std::string& id) {
  const std::string plain = id.substr(0, id.find('@'));
  std::string command = "hf download " + plain;
  if (plain != id) command += " --revision " + id.substr(id.find('@') + 1);
  command += " --local-dir models/" + plain.substr(plain.find('/') + 1);
  if (plain.starts_with("meta-llama/")) {
    command += "   (first accept its licence at https://huggingface.co/" + plain +
               " and run `hf auth login`)";
  }
  return command;
}

// Finds a model: a folder or a GGUF file (absolute, or relative to one of the bases),
// $PTQ_MODELS/<reference>, the folder that download_command fills, or the Hugging Face cache. The
// Error lists every place that was looked at.
inline ModelFolder find_model(const std::string& written,
                              const std::vector<std::filesystem::path>& bases,
                              const std::string& where) {
  namespace fs = std::filesystem;
  const std::string reference = locate_detail::home_expanded(written);
  const std::string plain = reference.substr(0, reference.find('@'));
  fs::path name = fs::path(plain).lexically_normal();
  if (name.filename().empty()) name = name.parent_path();
  const bool hub = locate_detail::looks_like_hub_id(reference, bases);

  std::vector<fs::path> places;
  for (const fs::path& base : bases) places.push_back((base / reference).lexically_normal());
  if (const std::string models = locate_detail::environment_text("PTQ_MODELS"); !models.empty()) {
    places.push_back(fs::path(locate_detail::expanded(models)) / reference);
  }
  if (hub) {
    for (const fs::path& base : bases) places.push_back(base / "models" / name.filename());
  }
  std::string looked;
  fs::path hollow;  // the first folder that is there and holds no model
  for (size_t i = 0; i < places.size(); ++i) {
    std::error_code ignored;
    if (locate_detail::holds_model(places[i])) {
      return {(is_gguf(places[i]) ? name.stem() : name.filename()).string(), places[i]};
    }
    if (hollow.empty() && fs::is_directory(places[i], ignored)) hollow = places[i];
    if (std::find(places.begin(), places.begin() + long(i), places[i]) ==
        places.begin() + long(i)) {
      looked += "\n      " + places[i].string();
    }
  }
  if (locate_detail::has_hub_form(reference)) {
    std::string folder = "models--" + plain;
    folder.replace(folder.find('/'), 1, "--");
    const fs::path cached = locate_detail::hub_cache() / folder;
    const std::string revision =
        plain == reference ? "" : reference.substr(reference.find('@') + 1);
    const fs::path snapshot = locate_detail::hub_snapshot(cached, revision);
    if (!snapshot.empty()) return {name.filename().string(), snapshot};
    if (hub) looked += "\n      " + cached.string();
  }
  // Its reader says what it lacks.
  if (!hollow.empty()) return {name.filename().string(), hollow};
  if (working_folder().empty() && fs::path(reference).is_relative()) {
    throw environment_error(
        "the working folder does not exist, and the model `" + reference + "` is relative to it",
        where, "go to another folder, or name an absolute path");
  }
  throw environment_error("the model `" + reference + "` is nowhere; looked at" + looked, where,
                          hub ? download_command(reference)
                              : "name an existing model folder or GGUF file, or a Hugging Face id "
                                "such as Qwen/Qwen2.5-7B");
}

// Finds a data file, relative to one of the bases.
inline std::filesystem::path find_data_file(const std::string& written,
                                            const std::vector<std::filesystem::path>& bases,
                                            const std::string& where) {
  const std::string reference = locate_detail::home_expanded(written);
  for (const std::filesystem::path& base : bases) {
    std::error_code ignored;
    const std::filesystem::path path = (base / reference).lexically_normal();
    if (std::filesystem::is_regular_file(path, ignored)) return path;
  }
  std::string looked;
  for (const std::filesystem::path& base : bases) looked += "\n      " + base.string();
  std::string hint = "paths are relative to the working folder or to the experiment file";
  if (reference.ends_with("wiki.test.raw")) {
    // The raw form of WikiText-2; the copy on the hub that keeps it as one text file.
    const std::string folder = std::filesystem::path(reference).parent_path().string();
    hint = "hf download ggml-org/ci wikitext-2-raw-v1.zip --repo-type dataset --local-dir " +
           folder + " && unzip -j " + folder + "/wikitext-2-raw-v1.zip -d " + folder;
  }
  throw environment_error("the file `" + reference + "` is nowhere; looked in" + looked, where,
                          hint);
}

}  // namespace ptq
