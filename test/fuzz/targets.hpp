// What each fuzz target does with one input. The libFuzzer programs and the replay of the corpus in
// the ordinary tests (test/fuzz/test_corpus.cpp) call the same functions.
//
// An input is either read or refused with ptq::Error whose message is valid UTF-8. Any other
// exception, and any broken promise about what was read (Broken), is a finding.
#pragma once

#include <cmath>
#include <cstdint>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"

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

// True if the input was accepted.
bool config(Bytes input);
bool safetensors(Bytes input);
bool gguf(Bytes input);
bool index(Bytes input);
bool tokenizer(Bytes input);
bool toml(Bytes input);
bool bundle(Bytes input);
bool tokens(Bytes input);

}  // namespace ptq::fuzz
