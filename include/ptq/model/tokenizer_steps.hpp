// What a tokenizer consists of: steps on the text, a vocabulary with its merges, added tokens; and
// the byte-level alphabet of GPT-2. tokenizer_file.hpp reads it from a tokenizer.json,
// tokenizer_parts.hpp from the lists of a GGUF file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "ptq/model/bpe.hpp"
#include "ptq/model/pre_tokenizer.hpp"
#include "ptq/model/split_pattern.hpp"
#include "ptq/model/unicode.hpp"

namespace ptq {

struct NormalizerStep {
  enum class Kind { nfc, nfd, nfkc, nfkd, lowercase, strip, prepend, replace, replace_regex } kind;
  std::string pattern{}, content{};             // replace: pattern -> content; prepend: content
  std::shared_ptr<const SplitPattern> regex{};  // replace_regex: its matches -> content
  bool left = false, right = false;             // strip: at which ends
};

struct DecoderStep {
  enum class Kind { byte_level, replace, byte_fallback, fuse, strip, metaspace, spaces } kind;
  std::string pattern{}, content{};  // replace: both; strip: content; metaspace: pattern
  size_t start = 0, stop = 0;        // strip: at most this many characters at either end
  bool drop_first = false;           // metaspace: no space at the beginning of the text
};

// A token that is found in the text before anything else.
struct AddedToken {
  int32_t id;
  std::string content;
  bool normalized;  // found in the normalized text, otherwise in the text as given
  bool special;     // control token: left out by decode(skip_special)
};

// All of it.
struct TokenizerParts {
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  PreTokenizer pre_tokenizer;
  BpeModel model;
  std::vector<int32_t> prefix, suffix;  // ids the template puts around a text
  std::vector<DecoderStep> decoder;
  std::vector<std::string> spelling;  // id -> token as written in the file; empty: no such id
  std::string word_start;             // see find_word_boundaries()
  std::unordered_set<std::string> joins_word_start;
};

// The byte-level alphabet of GPT-2: every byte has a printable character. Bytes that are printable
// in Latin-1 stand for themselves, the other 68 are U+0100, U+0101, ... in increasing order.
inline const std::array<uint32_t, 256>& byte_alphabet() {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      t[b] = printable ? b : next++;
    }
    return t;
  }();
  return table;
}

// The bytes a token of the byte-level alphabet stands for; false if it has another character.
inline bool byte_level_decode(std::string_view token, std::string& bytes) {
  static const std::array<int16_t, 0x144> byte_of = [] {
    std::array<int16_t, 0x144> t;
    t.fill(-1);
    for (int b = 0; b < 256; ++b)
      t[byte_alphabet()[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    return t;
  }();
  bytes.clear();
  for (size_t i = 0; i < token.size();) {
    const uint32_t c = next_code_point(token, i);
    if (c >= byte_of.size() || byte_of[c] < 0) return false;
    bytes += static_cast<char>(byte_of[c]);
  }
  return true;
}

}  // namespace ptq
