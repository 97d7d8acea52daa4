// Measurements that several cells share: computed by the first that needs them and kept as a file.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <thread>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"

namespace ptq::prune {

// A folder of them; an empty one keeps nothing.
class Kept {
 public:
  explicit Kept(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // The object that make() gives for this key, from the file where another process has made it.
  // waiting(): called about ten times per second while another process makes it. What cannot be
  // kept (a number that is not finite, a full disk) is made again by everybody.
  Json get(const Json& key, const std::function<Json()>& make,
           const std::function<void()>& waiting) const {
    if (folder_.empty()) return make();
    const std::filesystem::path file = folder_ / (sha256_hex(json_text(key)) + ".json");
    std::error_code ignored;
    std::filesystem::create_directories(folder_, ignored);
    const Lock lock(file.string() + ".lock", waiting);
    if (std::filesystem::exists(file, ignored)) {
      Json kept = Json::parse(read_text_file(file, uint64_t{1} << 32), nullptr, false);
      if (kept.is_object() && kept.value("key", Json()) == key) return kept.at("value");
    }
    Json made = make();
    const std::string text = json_text({{"key", key}, {"value", made}});
    if (Json::parse(text).at("value") == made) try {
        write_file_atomic(file, text);
      } catch (const Error&) {
        // Others make it again.
      }
    return made;
  }

 private:
  // Held by one process at a time; ends with it.
  class Lock {
   public:
    Lock(const std::string& file, const std::function<void()>& waiting)
        : fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
      while (fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
        waiting();
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    }
    ~Lock() {
      if (fd_ >= 0) ::close(fd_);
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    int fd_;
  };

  std::filesystem::path folder_;
};

}  // namespace ptq::prune
