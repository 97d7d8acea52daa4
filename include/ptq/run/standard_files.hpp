// Whether a plugin has closed or replaced the files 0 to 3 of the process. What the host opens next
// would get the number of a closed one, and what it prints would go into that file.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

namespace ptq {

class StandardFiles {
 public:
  StandardFiles() {
    for (int fd = 0; fd < kFiles; ++fd) files_[size_t(fd)] = facts_of(fd);
    // 3 is the pipe of a cell's progress; elsewhere it may be any file that comes and goes.
    watched_ = S_ISFIFO(files_[3].st_mode) ? kFiles : 3;
  }
  StandardFiles(const StandardFiles&) = delete;
  StandardFiles& operator=(const StandardFiles&) = delete;

  // True when they are not what they were; nothing is read from and written to them from then on.
  bool lost() const {
    bool any = false;
    for (int fd = 0; fd < watched_; ++fd) {
      const struct stat &before = files_[size_t(fd)], now = facts_of(fd);
      if (now.st_dev == before.st_dev && now.st_ino == before.st_ino) continue;
      any = true;
      const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
      if (nothing == fd || nothing < 0) continue;
      ::dup2(nothing, fd);
      ::close(nothing);
    }
    return any;
  }

 private:
  static constexpr int kFiles = 4;

  static struct stat facts_of(int fd) {
    struct stat facts {};
    if (::fstat(fd, &facts) != 0) facts = {};
    return facts;
  }

  std::array<struct stat, kFiles> files_{};
  int watched_ = 3;
};

}  // namespace ptq
