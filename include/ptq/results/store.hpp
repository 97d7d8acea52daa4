// The results of one experiment on disk: one folder per finished cell, put there whole or not at
// all, also by several processes at once and after a crash or loss of power.
//
//   OUT/<model>__<method>__<evaluation>__<id>/   record.json, samples.jsonl, tokens.bin (of
//                                                evaluations that score tokens), result.md, log.txt
//   OUT/superseded/...                           the same place under other settings, kept
//   OUT/<...>__<id>.other-<host>-<pid>/          a second result of a cell, with other numbers
//
// A place belongs to an experiment: several experiments in one folder leave each other's cells
// alone. Cells of the same id are one cell, whichever experiment computed it.
//
//   OUT/failed/<id>.json, <id>.log               the last failure of a cell that is not finished
//   OUT/.tmp-<pid>-<host>-<id>/                  a cell being computed
//   OUT/claims/<id>                              who computes a cell (results/claims.hpp)
//   OUT/unfinished/<id>.jsonl                    what an interrupted cell has of its scores
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/results/record_json.hpp"
#include "ptq/results/same_result.hpp"
#include "ptq/results/token_file.hpp"

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
    for (const auto& path : entries(folder_)) {
      if (!is_abandoned(path.filename().string()) && !is_forgotten(path)) continue;
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
      ++swept;
    }
    return swept;
  }

  // A finished cell: its status ("ok" or "invalid") and the experiment that computed it.
  struct Finished {
    std::string status, experiment;
    bool operator==(const std::string& word) const { return status == word; }
  };

  // The finished cell, or nothing. A result of these settings that was superseded meanwhile is as
  // good as one in its place.
  std::optional<Finished> status(const std::string& place, const std::string& id) const {
    const std::string name = place + "__" + id;
    for (const auto& parent : {folder_, superseded()}) {
      if (const auto found = read_finished(parent / name, id)) return found;
    }
    return {};
  }

  // Makes a finished cell the visible one of its place.
  void restore(const std::string& place, const std::string& id) const {
    const std::string name = place + "__" + id;
    const auto finished = read_finished(superseded() / name, id);
    if (read_finished(folder_ / name, id) || !finished) return;
    supersede_others(place, id, finished->experiment);
    std::error_code ignored;
    std::filesystem::remove_all(folder_ / name, ignored);  // damaged, if there is one
    move(superseded() / name, folder_ / name, "cannot move the result back");
    sync_path(folder_);
  }

  // An empty folder for a cell in work.
  std::filesystem::path new_attempt(const std::string& id) const {
    const std::filesystem::path attempt = attempt_folder(id);
    std::error_code error;
    std::filesystem::remove_all(attempt, error);
    if (uninterrupted([&] { return ::mkdir(attempt.c_str(), 0777); }) != 0) {
      throw file_error("cannot create the folder", attempt, errno);
    }
    return attempt;
  }

  std::filesystem::path attempt_folder(const std::string& id) const {
    return folder_ / (own_prefix() + id);
  }

  void discard(const std::filesystem::path& attempt) const {
    std::error_code ignored;
    std::filesystem::remove_all(attempt, ignored);
  }

  // Publishes an attempt whose record.json belongs to cell `id`. When another process was faster
  // its result stays, unless `replace`; where the numbers of the two differ, the attempt is kept
  // beside it, for one of them is wrong. Returns what differs, empty otherwise.
  std::vector<std::string> publish(const std::filesystem::path& attempt, const std::string& place,
                                   const std::string& id, bool replace) const {
    const auto finished = read_finished(attempt, id);
    if (!finished) {
      throw Error(ExitCode::internal,
                  "the record of the cell or its samples are missing or damaged",
                  (attempt / "record.json").string());
    }
    for (const auto& path : entries(attempt)) sync_path(path);
    sync_path(attempt);
    supersede_others(place, id, finished->experiment);
    const std::filesystem::path target = folder_ / (place + "__" + id);
    std::error_code ignored;
    std::vector<std::string> differences;
    if (std::filesystem::exists(target, ignored) && !read_finished(target, id)) {
      replace = true;  // what is there is damaged
    }
    // EXCHANGE leaves no moment without a result; the old one is then removed under our own name.
    const bool exchanged = replace && ::renameat2(AT_FDCWD, attempt.c_str(), AT_FDCWD,
                                                  target.c_str(), RENAME_EXCHANGE) == 0;
    if (!exchanged) {
      if (replace) discard(target);
      const int moved = uninterrupted([&] { return ::rename(attempt.c_str(), target.c_str()); });
      if (moved != 0 && errno != ENOTEMPTY && errno != EEXIST) {
        throw file_error("cannot put the result in its place", target, errno);
      }
      if (moved != 0) differences = keep_if_other(attempt, target);
    }
    sync_path(folder_);
    discard(attempt);
    forget_attempts(id);
    return differences;
  }

  // Removes what was kept of a cell for want of a result: its last failure, and what it could have
  // gone on with. publish() does; not where its process was killed in the middle.
  void forget_attempts(const std::string& id) const {
    std::error_code ignored;
    std::filesystem::remove(failure_file(id), ignored);
    std::filesystem::remove(failure_log(id), ignored);
    forget_unfinished(id);
  }

  // Where a cell keeps what it can go on with after an interruption.
  std::filesystem::path unfinished_file(const std::string& id) const {
    return folder_ / "unfinished" / (id + ".jsonl");
  }
  void forget_unfinished(const std::string& id) const {
    std::error_code ignored;
    std::filesystem::remove(unfinished_file(id), ignored);
    std::filesystem::remove(folder_ / "unfinished", ignored);  // unless others are there
  }

  // Keeps the reason why a cell is not finished.
  void record_failure(const std::string& id, std::string_view record) const {
    make_folders(folder_ / "failed");
    write_file_atomic(failure_file(id), record);
  }

  // Failures of an experiment's cells that it no longer asks for step aside; those of other
  // experiments stay. Returns how many there were.
  int supersede_failures(const std::string& experiment, const std::set<std::string>& wanted) const {
    std::error_code ignored;
    if (!std::filesystem::is_directory(folder_ / "failed", ignored)) return 0;
    int moved = 0;
    for (const auto& path : entries(folder_ / "failed")) {
      if (path.extension() != ".json" || wanted.contains(path.stem().string())) continue;
      const auto record = read_json(path);
      if (!record || text_of(*record, "experiment") != experiment) continue;
      const std::filesystem::path aside = superseded() / "failed";
      make_folders(aside);
      move(path, aside / path.filename(), "cannot move the old failure aside");
      const std::filesystem::path log = std::filesystem::path(path).replace_extension(".log");
      std::filesystem::rename(log, aside / log.filename(), ignored);  // it may have none
      ++moved;
    }
    return moved;
  }

  // The record of a cell's last failure; empty: there is none.
  std::string failure_text(const std::string& id) const {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(failure_file(id), ignored)) return {};
    try {
      return read_text_file(failure_file(id), kLargestRecord);
    } catch (const Error&) {
      return {};
    }
  }

  std::filesystem::path failure_file(const std::string& id) const {
    return folder_ / "failed" / (id + ".json");
  }

  // What the cell printed before it failed.
  std::filesystem::path failure_log(const std::string& id) const {
    return folder_ / "failed" / (id + ".log");
  }

  // The name of this machine, as part of a file's.
  static std::string host() {
    char name[256] = "";
    return ::gethostname(name, sizeof name - 1) == 0 ? path_word(name) : "host";
  }

 private:
  static constexpr uint64_t kLargestRecord = uint64_t{64} << 20;  // bytes

  std::filesystem::path superseded() const { return folder_ / "superseded"; }

  // What differs between an attempt and the result that was faster. If anything does, the attempt
  // goes beside it.
  std::vector<std::string> keep_if_other(const std::filesystem::path& attempt,
                                         const std::filesystem::path& target) const {
    const auto metrics = [](const std::filesystem::path& folder) {
      return read_json(folder / "record.json").value_or(Json::object()).value("metrics", Json());
    };
    std::vector<std::string> differences = metric_differences(metrics(target), metrics(attempt));
    if (differences.empty()) return differences;
    const std::string aside = ".other-" + host() + "-" + std::to_string(::getpid());
    move(attempt, std::filesystem::path(target) += aside, "cannot keep the second result");
    return differences;
  }

  static std::string own_prefix() {
    return ".tmp-" + std::to_string(::getpid()) + "-" + host() + "-";
  }

  // A file under a temporary name of core/atomic_file.hpp, which has no host in it: such a one is
  // alive for an instant, so after a minute its process was killed, wherever that was.
  static bool is_forgotten(const std::filesystem::path& path) {
    std::error_code error;
    const std::string name = path.filename().string();
    int read = -1;
    std::sscanf(name.c_str(), ".tmp-%*u-%*u-%n", &read);
    if (read < 0) return false;
    if (!std::filesystem::is_regular_file(path, error) || error) return false;
    const auto written = std::filesystem::last_write_time(path, error);
    return !error && std::filesystem::file_time_type::clock::now() - written > kForgotten;
  }
  static constexpr std::chrono::seconds kForgotten{60};

  // .tmp-<pid>-<host>-... of this host whose process is gone.
  static bool is_abandoned(const std::string& name) {
    constexpr std::string_view kPrefix = ".tmp-";
    if (!name.starts_with(kPrefix)) return false;
    char* end = nullptr;
    const long pid = std::strtol(name.c_str() + kPrefix.size(), &end, 10);
    if (pid <= 0 || *end != '-') return false;
    if (!std::string_view(end + 1).starts_with(host() + "-")) return false;
    return pid != ::getpid() && ::kill(pid_t(pid), 0) != 0 && errno == ESRCH;
  }

  static std::vector<std::filesystem::path> entries(const std::filesystem::path& folder) {
    std::error_code error;
    std::vector<std::filesystem::path> paths;
    std::filesystem::directory_iterator entry(folder, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      paths.push_back(entry->path());
    }
    if (error) throw file_error("cannot list the folder", folder, error.value());
    return paths;
  }

  static void move(const std::filesystem::path& from, const std::filesystem::path& to,
                   const char* problem) {
    if (uninterrupted([&] { return ::rename(from.c_str(), to.c_str()); }) != 0) {
      throw file_error(problem, from, errno);
    }
  }

  // Nothing for a file that is not there, cannot be read or holds no object: its cell counts as not
  // finished and is computed again.
  static std::optional<Json> read_json(const std::filesystem::path& file) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) return {};
    try {
      Json json = parse_json(read_text_file(file, kLargestRecord), file.string());
      if (json.is_object()) return json;
    } catch (const Error&) {
    }
    return {};
  }

  static std::string text_of(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  }

  // Nothing also where ptq-report could not read it, or where its samples are not those whose hash
  // it has.
  static std::optional<Finished> read_finished(const std::filesystem::path& folder,
                                               const std::string& id) {
    const auto json = read_json(folder / "record.json");
    if (!json || text_of(*json, "cell") != id) return {};
    try {
      const Record record = record_from_json(*json, "record.json");
      if (record.status == "failed" || !has_hash(folder / "samples.jsonl", record.samples_sha256) ||
          !has_hash(folder / kTokenFileName, record.tokens_sha256))
        return {};
      return Finished{record.status, record.experiment};
    } catch (const Error&) {
      return {};
    }
  }
  // An empty hash: of an older record, or no such file.
  static bool has_hash(const std::filesystem::path& file, const std::string& sha256) {
    std::error_code ignored;
    return sha256.empty() ||
           (std::filesystem::is_regular_file(file, ignored) && sha256_file(file) == sha256);
  }

  // A report must not show two results for one place, so those of other settings step aside; not
  // those of other experiments, which have boards of their own.
  void supersede_others(const std::string& place, const std::string& id,
                        const std::string& experiment) const {
    constexpr size_t kIdDigits = 16;
    for (const auto& other : entries(folder_)) {
      const std::string name = other.filename().string();
      if (name.size() != place.size() + 2 + kIdDigits || !name.starts_with(place + "__") ||
          name.ends_with(id)) {
        continue;
      }
      const auto record = read_json(other / "record.json");
      if (record && text_of(*record, "experiment") != experiment) continue;
      make_folders(superseded());
      const std::filesystem::path target = superseded() / other.filename();
      std::error_code ignored;
      std::filesystem::remove_all(target, ignored);
      move(other, target, "cannot move the older result aside");
    }
  }

  std::filesystem::path folder_;
};

}  // namespace ptq
