// Read-only files: memory-mapped for weights, as a string for small text files.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "ptq/core/error.hpp"

namespace ptq {

// A checkout without `git lfs pull` holds three lines of text in place of every large file.
inline bool is_git_lfs_pointer(std::string_view content) {
  return content.starts_with("version https://git-lfs.github.com/spec/");
}

// The text behind a byte order mark, which spreadsheets and Windows editors put in front of UTF-8.
inline std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  return text.starts_with(kMark) ? text.substr(kMark.size()) : text;
}

// A private read-only mapping of a whole regular file. The mapping costs address space only; pages
// are read on first use. If another process truncates the file while it is mapped, touching the
// lost pages raises SIGBUS, which no reader can turn into an exception: replace weight files by
// rename (as write_safetensors does), never in place.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) : path_(path) {
    constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;  // or a pipe waits for its writer
    int fd = ::open(path.c_str(), kFlags);
    for (int i = 0; i < 1000 && fd < 0 && errno == EINTR; ++i) fd = ::open(path.c_str(), kFlags);
    if (fd < 0) {
      throw environment_error("cannot open the file: " + std::string(std::strerror(errno)),
                              path.string());
    }
    try {
      size_ = regular_file_size(fd);
      if (size_ > 0) {
        void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
        if (mapping == MAP_FAILED) {
          const bool full = errno == ENOMEM;  // of addresses
          throw Error(full ? ExitCode::resources : ExitCode::environment,
                      "cannot map the file: " + std::string(std::strerror(errno)), path.string(),
                      full ? "raise the limit of the address space (ulimit -v unlimited)" : "");
        }
        data_ = static_cast<const uint8_t*>(mapping);
      }
      // A file that shrank between the two calls would raise SIGBUS on its tail.
      if (regular_file_size(fd) != size_) {
        throw environment_error("the file changed its size while it was opened", path.string(),
                                "wait until the download or copy has finished");
      }
    } catch (...) {
      unmap();
      ::close(fd);
      throw;
    }
    ::close(fd);
  }

  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() { unmap(); }

  const uint8_t* data() const { return data_; }  // null for an empty file
  size_t size() const { return size_; }          // bytes
  const std::filesystem::path& path() const { return path_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  size_t regular_file_size(int fd) const {
    struct stat info;
    if (::fstat(fd, &info) != 0) {
      throw environment_error("cannot inspect the file: " + std::string(std::strerror(errno)),
                              path_.string());
    }
    if (!S_ISREG(info.st_mode)) {
      throw environment_error(S_ISDIR(info.st_mode) ? "this is a folder, a file is expected here"
                                                    : "this is not a regular file",
                              path_.string());
    }
    return static_cast<size_t>(info.st_size);
  }
  void unmap() {
    if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
    data_ = nullptr;
  }

  std::filesystem::path path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// A stream over a regular file; over anything else, which may be a pipe that waits for a writer,
// one that has failed.
inline std::ifstream open_file(const std::filesystem::path& path) {
  std::error_code ignored;
  std::ifstream in;
  if (std::filesystem::is_regular_file(path, ignored)) {
    in.open(path, std::ios::binary);
  } else {
    in.setstate(std::ios::failbit);
  }
  return in;
}

// The whole content of a text file of at most `max_bytes` bytes.
inline std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes) {
  const MappedFile file(path);
  if (file.size() > max_bytes) {
    throw environment_error("the file has " + std::to_string(file.size()) +
                                " bytes, more than the limit of " + std::to_string(max_bytes),
                            path.string());
  }
  if (is_git_lfs_pointer(file.text())) {
    throw environment_error("this is a Git LFS pointer, not the file itself", path.string(),
                            "run `git lfs pull` in the folder");
  }
  return std::string(file.text());
}

}  // namespace ptq
