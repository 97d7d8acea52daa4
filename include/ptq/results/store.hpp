// The results of one experiment on disk: one folder per finished cell, put there whole or not at
// all, also by several processes at once and after a crash or loss of power.
//
//   OUT/<model>__<method>__<evaluation>__<id>/   record.json, samples.jsonl, result.md, log.txt
//   OUT/superseded/...                           the same place under other settings, kept
//   OUT/failed/<id>.json                         the last failure of a cell that is not finished
//   OUT/.tmp-<pid>-<host>-<id>/                  a cell being computed
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq {

// A name that is safe in a path: letters, digits and ._+=- stay, the rest becomes '-'.
inline std::string path_word(std::string_view text) {
  constexpr size_t kLongest = 60;  // three of them and the id stay below 255 bytes
  std::string word;
  for (const char c : text.substr(0, kLongest)) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       c == '.' || c == '_' || c == '+' || c == '=' || c == '-';
    if (plain) {
      word += c;
    } else if (word.empty() || word.back() != '-') {
      word += '-';
    }
  }
  return word.empty() || word[0] == '.' ? "_" + word : word;
}

class Store {
 public:
  explicit Store(std::filesystem::path folder) : folder_(std::move(folder)) {}

  const std::filesystem::path& folder() const { return folder_; }

  // Creates the folder, proves that it can be written, and removes what processes of this machine
  // that no longer live have left behind. Returns how many leftovers there were.
  int prepare() const {
    try {
      require_writable_folder(folder_);
    } catch (const Error& error) {
      throw Error(error.code(), error.message(), error.where(),
                  "choose a folder that you may write to with --out DIR");
    }
    int swept = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      if (!is_abandoned(entry.path().filename().string())) continue;
      std::error_code ignored;
      std::filesystem::remove_all(entry.path(), ignored);
      ++swept;
    }
    return swept;
  }

  // The status of a finished cell ("ok" or "invalid"), or nothing. A result of these settings that
  // was superseded meanwhile is as good as one in its place.
  std::optional<std::string> status(const std::string& place, const std::string& id) const {
    const std::string name = place + "__" + id;
    for (const auto& parent : {folder_, superseded()}) {
      if (const auto found = read_status(parent / name / "record.json", id)) return found;
    }
    return {};
  }

  // Makes a finished cell the visible one of its place.
  void restore(const std::string& place, const std::string& id) const {
    const std::string name = place + "__" + id;
    std::error_code ignored;
    if (std::filesystem::exists(folder_ / name, ignored)) return;
    supersede_others(place, id);
    if (::rename((superseded() / name).c_str(), (folder_ / name).c_str()) != 0) {
      throw file_error("cannot move the result back", superseded() / name, errno);
    }
    sync_path(folder_);
  }

  // An empty folder for a cell in work.
  std::filesystem::path new_attempt(const std::string& id) const {
    const std::filesystem::path attempt = folder_ / (own_prefix() + id);
    std::error_code error;
    std::filesystem::remove_all(attempt, error);
    if (::mkdir(attempt.c_str(), 0777) != 0) {
      throw file_error("cannot create the folder", attempt, errno);
    }
    return attempt;
  }

  void discard(const std::filesystem::path& attempt) const {
    std::error_code ignored;
    std::filesystem::remove_all(attempt, ignored);
  }

  // Publishes an attempt whose record.json belongs to cell `id`. When another process was faster
  // its result stays, unless `replace`.
  void publish(const std::filesystem::path& attempt, const std::string& place,
               const std::string& id, bool replace) const {
    if (!read_status(attempt / "record.json", id)) {
      throw Error(ExitCode::internal, "the record of the cell is missing or damaged",
                  (attempt / "record.json").string());
    }
    for (const auto& entry : std::filesystem::directory_iterator(attempt)) sync_path(entry.path());
    sync_path(attempt);
    supersede_others(place, id);
    const std::filesystem::path target = folder_ / (place + "__" + id);
    std::error_code ignored;
    if (std::filesystem::exists(target, ignored) && !read_status(target / "record.json", id)) {
      replace = true;  // what is there is damaged
    }
    // EXCHANGE leaves no moment without a result; the old one is then removed under our own name.
    const bool exchanged = replace && ::renameat2(AT_FDCWD, attempt.c_str(), AT_FDCWD,
                                                  target.c_str(), RENAME_EXCHANGE) == 0;
    if (!exchanged) {
      if (replace) discard(target);
      if (::rename(attempt.c_str(), target.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST) {
        throw file_error("cannot put the result in its place", target, errno);
      }
    }
    sync_path(folder_);
    discard(attempt);
    std::filesystem::remove(failure_file(id), ignored);
  }

  // Keeps the reason why a cell is not finished.
  void record_failure(const std::string& id, std::string_view record) const {
    std::error_code error;
    std::filesystem::create_directories(folder_ / "failed", error);
    if (error) throw file_error("cannot create the folder", folder_ / "failed", error.value());
    write_file_atomic(failure_file(id), record);
  }

  std::filesystem::path failure_file(const std::string& id) const {
    return folder_ / "failed" / (id + ".json");
  }

 private:
  std::filesystem::path superseded() const { return folder_ / "superseded"; }

  static std::string host() {
    char name[256] = "";
    return ::gethostname(name, sizeof name - 1) == 0 ? path_word(name) : "host";
  }

  static std::string own_prefix() {
    return ".tmp-" + std::to_string(::getpid()) + "-" + host() + "-";
  }

  // .tmp-<pid>-<host>-... of this host whose process is gone. The probe files and temporary names
  // of core/atomic_file.hpp have no host: they are alive for an instant only.
  static bool is_abandoned(const std::string& name) {
    constexpr std::string_view kPrefix = ".tmp-";
    if (!name.starts_with(kPrefix)) return false;
    char* end = nullptr;
    const long pid = std::strtol(name.c_str() + kPrefix.size(), &end, 10);
    if (pid <= 0 || *end != '-') return false;
    if (!std::string_view(end + 1).starts_with(host() + "-")) return false;
    return pid != ::getpid() && ::kill(pid_t(pid), 0) != 0 && errno == ESRCH;
  }

  static std::optional<std::string> read_status(const std::filesystem::path& file,
                                                const std::string& id) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) return {};
    constexpr uint64_t kLargest = uint64_t{64} << 20;
    try {
      const auto record = nlohmann::ordered_json::parse(read_text_file(file, kLargest));
      const std::string status = record.at("status").get<std::string>();
      if (record.at("cell") != id || (status != "ok" && status != "invalid")) return {};
      return status;
    } catch (const Error&) {
      return {};  // unreadable counts as not finished: it is computed again
    } catch (const nlohmann::json::exception&) {
      return {};
    }
  }

  // A report must not show two results for one place, so those of other settings step aside.
  void supersede_others(const std::string& place, const std::string& id) const {
    std::vector<std::filesystem::path> others;
    constexpr size_t kIdDigits = 16;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (name.size() == place.size() + 2 + kIdDigits && name.starts_with(place + "__") &&
          !name.ends_with(id)) {
        others.push_back(entry.path());
      }
    }
    if (others.empty()) return;
    std::error_code error;
    std::filesystem::create_directories(superseded(), error);
    if (error) throw file_error("cannot create the folder", superseded(), error.value());
    for (const auto& other : others) {
      const std::filesystem::path target = superseded() / other.filename();
      std::filesystem::remove_all(target, error);
      if (::rename(other.c_str(), target.c_str()) != 0) {
        throw file_error("cannot move the older result aside", other, errno);
      }
    }
  }

  std::filesystem::path folder_;
};

}  // namespace ptq
