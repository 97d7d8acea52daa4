// Files that are there whole or not at all, also after a loss of power: write under a temporary
// name in the same folder, fsync, rename, fsync the folder.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "ptq/core/error.hpp"

namespace ptq {

// The error of a failed system call on `path`. A full disk is a matter of resources, everything
// else one of the environment.
inline Error file_error(const std::string& what, const std::filesystem::path& path, int number) {
  const bool full = number == ENOSPC || number == EDQUOT;
  return Error(full ? ExitCode::resources : ExitCode::environment,
               what + ": " + std::strerror(number), path.string(), full ? "free some space" : "");
}

// A system call again while a signal interrupts it. File systems in user space may give EINTR for
// calls that are never interrupted on a disk; the bound keeps a broken one from holding us for
// ever.
template <class Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  for (int i = 0; i < 1000 && result < 0 && errno == EINTR; ++i) result = call();
  return result;
}

// An answer to fsync that means "there is no such operation here", as file systems in user space
// and network mounts give it, in particular for folders. Anything else is a failure to save.
inline bool sync_is_unsupported(int number) {
  return number == EINVAL || number == EOPNOTSUPP || number == ENOTSUP || number == ENOSYS ||
         number == EBADF || number == EISDIR;
}

// Asks the kernel to bring a file or folder to stable storage.
inline void sync_path(const std::filesystem::path& path) {
  const int fd =
      uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0) {
    // A folder that one may write into and not list cannot be synced; its files are.
    std::error_code ignored;
    if (errno == EACCES && std::filesystem::is_directory(path, ignored)) return;
    throw file_error("cannot open it to save it", path, errno);
  }
  const int status = uninterrupted([&] { return ::fsync(fd); });
  const int number = errno;
  ::close(fd);
  if (status != 0 && !sync_is_unsupported(number)) throw file_error("cannot save it", path, number);
}

// Writes all of it; 0, or the number of the error.
inline int write_all(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written =
        uninterrupted([&] { return ::write(fd, content.data(), content.size()); });
    if (written < 0) return errno;
    content.remove_prefix(size_t(written));
  }
  return 0;
}

// Brings what was written to stable storage and closes; 0, or the number of the error.
inline int save_and_close(int fd) {
  int number = 0;
  if (uninterrupted([&] { return ::fsync(fd); }) != 0) {
    number = sync_is_unsupported(errno) ? 0 : errno;
  }
  // Network file systems report a failed write here. EINTR: the descriptor is closed all the same,
  // and the content was synced before.
  if (::close(fd) != 0 && number == 0 && errno != EINTR) number = errno;
  return number;
}

// Writes a new file and brings its content to stable storage; the name itself is durable only after
// sync_path of the folder.
inline void write_file_synced(const std::filesystem::path& path, std::string_view content) {
  const int fd = uninterrupted(
      [&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
  if (fd < 0) throw file_error("cannot create the file", path, errno);
  const int written = write_all(fd, content), saved = save_and_close(fd);
  if (written != 0 || saved != 0) {
    throw file_error("cannot write the file", path, written != 0 ? written : saved);
  }
}

// A file that appears under its final name, or replaces the one there, only when all of it is on
// disk: write() as often as needed, then publish(). Without publish() nothing stays.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    static std::atomic<unsigned> counter{0};
    temporary_ =
        path_.parent_path() / (".tmp-" + std::to_string(::getpid()) + "-" +
                               std::to_string(counter++) + "-" + path_.filename().string());
    fd_ = uninterrupted(
        [&] { return ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
    if (fd_ < 0) throw file_error("cannot create the file", path_, errno);
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!published_) ::unlink(temporary_.c_str());
  }

  void write(std::string_view content) {
    if (const int number = write_all(fd_, content); number != 0) {
      throw file_error("cannot write the file", path_, number);
    }
  }

  void publish() {
    if (const int number = save_and_close(std::exchange(fd_, -1)); number != 0) {
      throw file_error("cannot write the file", path_, number);
    }
    if (uninterrupted([&] { return ::rename(temporary_.c_str(), path_.c_str()); }) != 0) {
      throw file_error("cannot put the file in its place", path_, errno);
    }
    published_ = true;
    sync_path(path_.parent_path().empty() ? "." : path_.parent_path());  // the name itself
  }

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  bool published_ = false;
};

// The same for a content that is there as a whole.
inline void write_file_atomic(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.publish();
}

// Creates the folder and the folders above it where they are missing.
inline void make_folders(const std::filesystem::path& folder) {
  std::error_code error;
  for (int i = 0; i < 1000; ++i) {
    std::filesystem::create_directories(folder, error);
    if (error.value() != EINTR) break;
  }
  if (error) throw file_error("cannot create the folder", folder, error.value());
}

// Creates the folder and proves that files can be written into it, before hours are spent on
// results that could not be kept.
inline void require_writable_folder(const std::filesystem::path& folder) {
  std::error_code error;
  make_folders(folder);
  if (!std::filesystem::is_directory(folder, error)) {
    throw file_error("cannot use it as a folder", folder, ENOTDIR);
  }
  const std::filesystem::path probe = folder / (".tmp-" + std::to_string(::getpid()) + "-probe");
  const int fd = uninterrupted(
      [&] { return ::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
  if (fd < 0) throw file_error("cannot write into the folder", folder, errno);
  const int number = write_all(fd, "ptq");
  ::close(fd);
  ::unlink(probe.c_str());
  if (number != 0) throw file_error("cannot write into the folder", folder, number);
}

}  // namespace ptq
