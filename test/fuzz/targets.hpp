// What each fuzz target does with one input. The libFuzzer programs and the replay of the corpus in
// the ordinary tests (test/fuzz/test_corpus.cpp) call the same functions.
//
// An input is either read or refused with ptq::Error whose message is valid UTF-8. Any other
// exception, and any broken promise about what was read (Broken), is a finding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/scratch_folder.hpp"

namespace ptq::fuzz {

using Bytes = std::span<const uint8_t>;

inline std::string_view text_of_bytes(Bytes input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};
inline void require(bool condition, const char* promise) {
  if (!condition) throw Broken(promise);
}
inline bool is_utf8(std::string_view text) { return utf8_error_offset(text) == text.npos; }

// Runs `read`; true if it accepted the input.
template <class Read>
bool accepts(Read read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    require(error.message().size() > 0, "an error has a message");
    require(is_utf8(error.what()), "messages are UTF-8");
    return false;
  }
}

// Small choices from the bytes of an input, for targets whose subject is no file. Behind the end
// everything is 0.
class Draw {
 public:
  explicit Draw(Bytes input) : rest_(input) {}

  uint8_t byte() {
    if (rest_.empty()) return 0;
    const uint8_t b = rest_[0];
    rest_ = rest_.subspan(1);
    return b;
  }
  int64_t between(int64_t low, int64_t high) { return low + byte() % (high - low + 1); }
  std::vector<uint8_t> bytes(int64_t n) {
    std::vector<uint8_t> out(static_cast<size_t>(n));
    const size_t taken = std::min(out.size(), rest_.size());
    std::copy_n(rest_.begin(), taken, out.begin());
    rest_ = rest_.subspan(taken);
    return out;
  }
  // Any bit patterns.
  std::vector<float> floats(int64_t n) {
    const std::vector<uint8_t> from = bytes(4 * n);
    std::vector<float> out(static_cast<size_t>(n));
    if (n > 0) std::memcpy(out.data(), from.data(), from.size());
    return out;
  }

 private:
  Bytes rest_;
};

// Bit for bit, but for NaN, which is NaN whatever its other bits say.
inline bool same_numbers(const float* a, const float* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (std::memcmp(a + i, b + i, sizeof *a) != 0 && !(std::isnan(a[i]) && std::isnan(b[i])))
      return false;
  return true;
}

// The part of an input in front of the next NUL byte, which is taken away with it.
inline std::string_view next_part(std::string_view& rest) {
  const std::string_view part = rest.substr(0, rest.find('\0'));
  rest.remove_prefix(std::min(rest.size(), part.size() + 1));
  return part;
}

// A file of this process, for readers that take one; removed when the process ends.
inline std::filesystem::path scratch_file(const char* name, std::string_view content) {
  static const ScratchFolder folder;
  const std::filesystem::path path = folder.path() / name;
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  return path;
}

// True if the input was accepted.
bool config(Bytes input);
bool safetensors(Bytes input);
bool gguf(Bytes input);
bool index(Bytes input);
bool tokenizer(Bytes input);
bool toml(Bytes input);
bool bundle(Bytes input);
bool tokens(Bytes input);
bool record(Bytes input);
bool store(Bytes input);
bool csv(Bytes input);
bool task(Bytes input);
bool packed(Bytes input);
bool encoding(Bytes input);

}  // namespace ptq::fuzz
