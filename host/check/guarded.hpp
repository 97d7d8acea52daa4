// Memory that is lent to a plugin: it ends at a page that nobody may touch, begins behind another
// one, can be made read-only, and cannot be touched any more when it was taken back. What a plugin
// does wrong with it becomes a sentence instead of a crash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace ptq::check {

class Guarded {
 public:
  // `what` it is, as in "it reads past the end of ..."; lives as long as the program. `fill`: of
  // the bytes around, four at a time.
  Guarded(const char* what, size_t bytes, size_t alignment, uint32_t fill = 0xA5A5A5A5u);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  void make_read_only();
  // "before" or "past the end of" when something was written there, in the same page; else "".
  const char* written() const;

 private:
  uint8_t* pages_;  // the guard in front
  size_t mapped_;   // both guards included
  uint8_t* data_;
  size_t bytes_;
  uint32_t fill_;
};

// Runs work(); where it touches guarded memory as it must not, the sentence about it comes back.
// Nothing of work() is cleaned up then: the process is to end soon.
std::string touched_wrongly(const std::function<void()>& work);

// What runs now, for that sentence: "kivi (keys): encode".
void set_doing(std::string text);

}  // namespace ptq::check
