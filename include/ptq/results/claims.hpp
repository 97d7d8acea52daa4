// Which process computes a cell, where several hosts share a folder of results.
//
//   OUT/claims/<id>   host, boot, process and its start, of whoever is at work on the cell; touched
//                     every few seconds. One that is older than kStaleSeconds, or whose process is
//                     known to be gone, is anybody's.
//
// Times are those of the file server: of files that are touched, never of a host's own clock. A
// claim saves work, no more: results are put in place by rename, so two hosts that compute one cell
// agree on who was first.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"

namespace ptq {

namespace claims_detail {

inline std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// When a process of this host began, in ticks since boot; empty: there is none.
inline std::string process_start(int64_t pid) {
  const std::string line = first_line(("/proc/" + std::to_string(pid) + "/stat").c_str());
  size_t at = line.rfind(')');  // the name may hold anything
  for (int field = 2; field < 22 && at != line.npos; ++field) at = line.find(' ', at + 1);
  return at == line.npos ? "" : line.substr(at + 1, line.find(' ', at + 1) - at - 1);
}

}  // namespace claims_detail

// Who wrote a claim.
struct ClaimOwner {
  std::string host = "?", boot, start;
  int64_t pid = 0;  // 0: not known, a claim that is empty yet or damaged
};

// Reads the text of a claim, whatever it is.
inline ClaimOwner parse_claim(std::string_view text) {
  ClaimOwner owner;
  const Json claim = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!claim.is_object()) return owner;
  const auto word = [&](const char* key) {
    const auto found = claim.find(key);
    return found != claim.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  owner = {word("host"), word("boot"), word("start"), 0};
  const auto pid = claim.find("pid");
  constexpr uint64_t kLargestPid = uint64_t{1} << 22;  // of Linux
  if (pid != claim.end() && pid->is_number_unsigned() && pid->get<uint64_t>() <= kLargestPid)
    owner.pid = pid->get<int64_t>();
  return owner;
}

class Claims {
 public:
  static constexpr double kStaleSeconds = 120, kRenewSeconds = 10;

  // folder: of the results. host: its name.
  Claims(const std::filesystem::path& folder, std::string host)
      : folder_(folder / "claims"), host_(std::move(host)) {
    boot_ = claims_detail::first_line("/proc/sys/kernel/random/boot_id");
    start_ = claims_detail::process_start(::getpid());
  }
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;
  ~Claims() {
    try {
      while (!held_.empty()) release(*held_.begin());
    } catch (const std::bad_alloc&) {  // what stays is put away when this process is gone
    }
  }

  // Empty: the cell is ours from now on. Else who has it, for people. Errors: the folder cannot be
  // written.
  std::string take(const std::string& id) {
    if (held_.contains(id)) return {};
    make_folders(folder_);
    for (int attempt = 0;; ++attempt) {
      if (create(id)) {
        held_.insert(id);
        return {};
      }
      const std::string owner = owner_of(id);
      if (!owner.empty() || attempt == 3) return owner.empty() ? "another process" : owner;
    }
  }

  void release(std::string id) {  // a copy: it may be the one that is erased
    held_.erase(id);
    std::error_code ignored;
    if (read(file(id)) == own_text()) std::filesystem::remove(file(id), ignored);
    std::filesystem::remove(folder_, ignored);  // unless there are others
  }

  // Puts away the claims of processes that are gone, which may be of cells that are finished: such
  // a claim nobody would take. And what such processes left in the middle of taking one.
  void sweep() const {
    std::error_code error;
    std::filesystem::directory_iterator entry(folder_, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      std::error_code ignored;
      if (!name.starts_with(".")) {
        owner_of(name);
      } else if (is_of_gone_process(name) || age_of(entry->path()) > kStaleSeconds) {
        std::filesystem::remove(entry->path(), ignored);
      }
    }
    std::filesystem::remove(folder_, error);  // unless there are others
  }

  // To be called often: touches the claims when it is time.
  void renew() {
    const auto now = std::chrono::steady_clock::now();
    if (now - renewed_ < std::chrono::duration<double>(kRenewSeconds)) return;
    renewed_ = now;
    for (const std::string& id : held_) ::utimensat(AT_FDCWD, file(id).c_str(), nullptr, 0);
  }

 private:
  std::filesystem::path file(const std::string& id) const { return folder_ / id; }

  static std::string read(const std::filesystem::path& path) {
    std::ifstream in = open_file(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::string own_text() const {
    return json_text(Json{
               {"host", host_}, {"boot", boot_}, {"pid", int64_t(::getpid())}, {"start", start_}}) +
           "\n";
  }

  // False: the claim is there.
  bool create(const std::string& id) const {
    const int fd = ::open(file(id).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) return false;
    if (fd < 0 && errno == ENOENT) {  // the last claim's owner has removed the folder
      make_folders(folder_);
      return false;
    }
    if (fd < 0) throw file_error("cannot claim a cell", file(id), errno);
    const int written = write_all(fd, own_text());
    ::close(fd);
    if (written == 0) return true;
    ::unlink(file(id).c_str());
    throw file_error("cannot claim a cell", file(id), written);
  }

  // Who holds a claim; empty: nobody any more, it was put away.
  std::string owner_of(const std::string& id) const {
    const std::string text = read(file(id));
    const ClaimOwner owner = parse_claim(text);
    const double age = age_of(file(id));
    if (age < 0) return {};  // released meanwhile
    const bool here = owner.host == host_ && owner.boot == boot_ && owner.pid > 0;
    const bool gone = here && claims_detail::process_start(owner.pid) != owner.start;
    if (!gone && age < kStaleSeconds) {
      char since[32];
      std::snprintf(since, sizeof since, "%.0f", age);
      return "process " + std::to_string(owner.pid) + " of " + one_line(owner.host) +
             ", last seen " + since + " s ago";
    }
    put_away(id, text);
    return {};
  }

  // .now-<host>-<pid> and .stale-<host>-<pid>-<id> of this host.
  bool is_of_gone_process(const std::string& name) const {
    for (const char* kind : {".now-", ".stale-"}) {
      const std::string prefix = kind + host_ + "-";
      if (!name.starts_with(prefix)) continue;
      const long pid = std::strtol(name.c_str() + prefix.size(), nullptr, 10);
      return pid > 0 && claims_detail::process_start(pid).empty();
    }
    return false;
  }

  // Only one of those who find a claim stale moves it; whoever moved a newer one puts it back.
  void put_away(const std::string& id, const std::string& stale) const {
    const std::filesystem::path aside =
        folder_ / (".stale-" + host_ + "-" + std::to_string(::getpid()) + "-" + id);
    if (::rename(file(id).c_str(), aside.c_str()) != 0) return;
    if (read(aside) != stale)
      ::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, file(id).c_str(), RENAME_NOREPLACE);
    ::unlink(aside.c_str());
  }

  // Seconds since a claim was touched, by the file server's clock; negative: it is not there.
  double age_of(const std::filesystem::path& path) const {
    const std::filesystem::path probe =
        folder_ / (".now-" + host_ + "-" + std::to_string(::getpid()));
    const int fd = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return errno == ENOENT ? -1 : 0;
    struct stat now {
    }, then{};
    ::futimens(fd, nullptr);
    ::fstat(fd, &now);
    ::close(fd);
    ::unlink(probe.c_str());
    if (::stat(path.c_str(), &then) != 0) return -1;
    return double(now.st_mtim.tv_sec - then.st_mtim.tv_sec) +
           1e-9 * double(now.st_mtim.tv_nsec - then.st_mtim.tv_nsec);
  }

  std::filesystem::path folder_;
  std::string host_, boot_, start_;
  std::set<std::string> held_;
  std::chrono::steady_clock::time_point renewed_ = std::chrono::steady_clock::now();
};

}  // namespace ptq
