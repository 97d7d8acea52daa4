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

#include "ptq/core/error.hpp"

namespace ptq {

// The error of a failed system call on `path`. A full disk is a matter of resources, everything
// else one of the environment.
inline Error file_error(const std::string& what, const std::filesystem::path& path, int number) {
  const bool full = number == ENOSPC || number == EDQUOT;
  return Error(full ? ExitCode::resources : ExitCode::environment,
               what + ": " + std::strerror(number), path.string(), full ? "free some space" : "");
}

// Asks the kernel to bring a file or folder to stable storage.
inline void sync_path(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw file_error("cannot open it to save it", path, errno);
  const int status = ::fsync(fd);
  const int number = errno;
  ::close(fd);
  // EINVAL: the file system has nothing to sync for this kind of object.
  if (status != 0 && number != EINVAL) throw file_error("cannot save it", path, number);
}

// Writes a new file and brings its content to stable storage; the name itself is durable only after
// sync_path of the folder.
inline void write_file_synced(const std::filesystem::path& path, std::string_view content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw file_error("cannot create the file", path, errno);
  int number = 0;
  while (!content.empty() && number == 0) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written >= 0) {
      content.remove_prefix(size_t(written));
    } else if (errno != EINTR) {
      number = errno;
    }
  }
  if (number == 0 && ::fsync(fd) != 0) number = errno;
  if (::close(fd) != 0 && number == 0) number = errno;  // network file systems report here
  if (number != 0) throw file_error("cannot write the file", path, number);
}

// Replaces or creates `path`; readers see the old content or the new one, never a mix.
inline void write_file_atomic(const std::filesystem::path& path, std::string_view content) {
  static std::atomic<unsigned> counter{0};
  const std::filesystem::path temporary =
      path.parent_path() / (".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++) +
                            "-" + path.filename().string());
  try {
    write_file_synced(temporary, content);
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      throw file_error("cannot put the file in its place", path, errno);
    }
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_path(path.parent_path().empty() ? "." : path.parent_path());
}

// Creates the folder and proves that files can be written into it, before hours are spent on
// results that could not be kept.
inline void require_writable_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw file_error("cannot create the folder", folder, error.value());
  if (!std::filesystem::is_directory(folder)) {
    throw file_error("cannot use it as a folder", folder, ENOTDIR);
  }
  const std::filesystem::path probe = folder / (".tmp-" + std::to_string(::getpid()) + "-probe");
  const int fd = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw file_error("cannot write into the folder", folder, errno);
  const ssize_t written = ::write(fd, "ptq", 3);
  const int number = errno;
  ::close(fd);
  ::unlink(probe.c_str());
  if (written != 3) throw file_error("cannot write into the folder", folder, number);
}

}  // namespace ptq
