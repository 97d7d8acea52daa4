// Text to token ids and back, by the rules of a model folder's tokenizer.json.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/model/bpe.hpp"
#include "ptq/model/tokenizer_file.hpp"
#include "ptq/model/unicode.hpp"
#include "ptq/model/unicode_forms.hpp"

namespace ptq {

// Finds added tokens in a text: leftmost, then longest.
class AddedTokenFinder {
 public:
  struct Token {
    std::string content;
    int32_t id;
    bool special;
  };
  struct Match {
    int32_t id;
    size_t length;  // bytes; 0: no token here
  };

  AddedTokenFinder() = default;
  explicit AddedTokenFinder(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
    std::sort(tokens_.begin(), tokens_.end(),
              [](const Token& a, const Token& b) { return a.content < b.content; });
    for (const Token& token : tokens_) starts_[static_cast<uint8_t>(token.content[0])] = true;
  }

  bool empty() const { return tokens_.empty(); }

  // The longest token at text[begin]; special ones only if `with_special`.
  Match match(std::string_view text, size_t begin, bool with_special) const {
    Match best{-1, 0};
    if (!starts_[static_cast<uint8_t>(text[begin])]) return best;
    // Tokens that agree with the text so far are neighbours in the sorted list.
    auto first = tokens_.begin(), last = tokens_.end();
    for (size_t n = 0; begin + n < text.size() && first != last; ++n) {
      const auto byte_at = [n](const Token& token) {
        return n < token.content.size() ? static_cast<uint8_t>(token.content[n]) : -1;
      };
      const int wanted = static_cast<uint8_t>(text[begin + n]);
      first =
          std::partition_point(first, last, [&](const Token& t) { return byte_at(t) < wanted; });
      last =
          std::partition_point(first, last, [&](const Token& t) { return byte_at(t) == wanted; });
      if (first != last && first->content.size() == n + 1 && (with_special || !first->special)) {
        best = {first->id, n + 1};
      }
    }
    return best;
  }

 private:
  std::vector<Token> tokens_;       // sorted by content as bytes
  std::array<bool, 256> starts_{};  // first bytes of the tokens
};

// Const member functions may be called from several threads at once.
class Tokenizer {
 public:
  // Reads folder/tokenizer.json and nothing else.
  static Tokenizer load(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "tokenizer.json";
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) {
      throw environment_error(
          "the model folder has no tokenizer.json", folder.string(),
          std::filesystem::exists(folder / "tokenizer.model", ignored)
              ? "convert tokenizer.model with AutoTokenizer.from_pretrained(...).save_pretrained"
              : "a model folder holds config.json, tokenizer.json and *.safetensors");
    }
    return parse(read_text_file(file, tokenizer_detail::kMaxFileBytes), file.string());
  }

  // Reads the text of a tokenizer.json; `name` is what error messages call it.
  static Tokenizer parse(std::string_view json, const std::string& name) {
    const auto document = JsonDocument::parse(json, name,
                                              {.max_bytes = tokenizer_detail::kMaxFileBytes,
                                               .max_depth = 16,
                                               .allow_duplicate_keys = false});
    return Tokenizer(read_tokenizer_parts(document.root()));
  }

  // A tokenizer of parts that do not come from a tokenizer.json.
  static Tokenizer from_parts(TokenizerParts parts) { return Tokenizer(std::move(parts)); }

  // The ids of a text in UTF-8. `add_special` adds what the template of the file adds, such as the
  // beginning-of-text token. With `parse_special` false, control tokens written out in the text are
  // taken as plain text, for text from strangers.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true,
                              bool parse_special = true) const {
    if (const size_t bad = utf8_error_offset(text); bad != std::string_view::npos) {
      throw usage_error("the text is not valid UTF-8 at byte " + std::to_string(bad));
    }
    if (text.size() > kMaxTextBytes) {
      throw usage_error("the text has " + std::to_string(text.size()) +
                        " bytes, more than the limit of " + std::to_string(kMaxTextBytes));
    }
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 8);
    if (add_special) ids.insert(ids.end(), parts_.prefix.begin(), parts_.prefix.end());
    const auto encode_raw = [&](std::string_view piece, bool at_start) {
      const std::string normalized = normalize(piece);
      split_added(
          normalized_tokens_, normalized, parse_special, ids,
          [&](std::string_view part, bool first) { encode_piece(part, at_start && first, ids); });
    };
    split_added(raw_tokens_, text, parse_special, ids, encode_raw);
    if (add_special) ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
    return ids;
  }

  // The text of a sequence of ids. Bytes that do not form UTF-8 become U+FFFD. `skip_special`
  // leaves out control tokens.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const int32_t id : ids) {
      const std::string& spelling = token(id);
      if (!skip_special || !special_[static_cast<size_t>(id)]) tokens.push_back(spelling);
    }
    size_t bytes = 0;
    for (const std::string& token : tokens) bytes += token.size();
    for (const DecoderStep& step : parts_.decoder) apply(step, growth_limit(bytes), tokens);
    std::string text;
    for (const std::string& token : tokens) text += token;
    return text;
  }

  // The text of ids that a model chose, control tokens left out. An id that no token has (a hole of
  // the vocabulary, a padding row of the embedding behind it) has no text.
  std::string decode_chosen(std::span<const int32_t> ids) const {
    std::vector<int32_t> known(ids.begin(), ids.end());
    std::erase_if(known, [&](int32_t id) { return !exists(id); });
    return decode(known, true);
  }

  bool exists(int32_t id) const {
    return id >= 0 && id < vocab_size() && !parts_.spelling[static_cast<size_t>(id)].empty();
  }

  // The id encode() puts first, or -1.
  int32_t bos_id() const { return parts_.prefix.empty() ? -1 : parts_.prefix.front(); }

  // One more than the largest id; not above the rows of the embedding in a sound model folder.
  int32_t vocab_size() const { return static_cast<int32_t>(parts_.spelling.size()); }

  // The token as written in the file.
  const std::string& token(int32_t id) const {
    if (!exists(id)) {
      throw usage_error("the token id " + std::to_string(id) + " does not exist");
    }
    return parts_.spelling[static_cast<size_t>(id)];
  }

 private:
  static constexpr size_t kMaxTextBytes = size_t{1} << 30;

  explicit Tokenizer(TokenizerParts parts)
      : parts_(std::move(parts)),
        special_(parts_.spelling.size(), false),
        cache_(std::make_unique<WordCache>()) {
    std::vector<AddedTokenFinder::Token> raw, normalized;
    for (const AddedToken& token : parts_.added) {
      special_[static_cast<size_t>(token.id)] = token.special;
      if (token.normalized) {
        normalized.push_back({normalize(token.content), token.id, token.special});
      } else {
        raw.push_back({token.content, token.id, token.special});
      }
    }
    raw_tokens_ = AddedTokenFinder(std::move(raw));
    normalized_tokens_ = AddedTokenFinder(std::move(normalized));
  }

  // Appends the ids of the added tokens in `text`; visit(piece, is_at_start) gets what is between.
  template <class Visit>
  static void split_added(const AddedTokenFinder& finder, std::string_view text, bool with_special,
                          std::vector<int32_t>& ids, Visit visit) {
    size_t piece = 0, i = finder.empty() ? text.size() : 0;
    while (i < text.size()) {
      const auto match = finder.match(text, i, with_special);
      if (match.length == 0) {
        ++i;
        continue;
      }
      if (i > piece) visit(text.substr(piece, i - piece), piece == 0);
      ids.push_back(match.id);
      piece = i += match.length;
    }
    if (piece < text.size()) visit(text.substr(piece), piece == 0);
  }

  // Replacements of a hostile file can double a text again and again: bytes that `before` may grow
  // to.
  static size_t growth_limit(size_t before) { return (size_t{1} << 16) + 64 * before; }

  [[noreturn]] static void too_long() {
    throw usage_error("the replacements of tokenizer.json make the text more than 64 times longer");
  }

  static std::string replaced(std::string_view text, std::string_view from, std::string_view to,
                              size_t limit = std::string::npos) {
    std::string result;
    result.reserve(text.size() + text.size() / 4);
    const auto check = [&](size_t more) {
      if (more > limit - result.size()) too_long();
    };
    size_t begin = 0;
    for (size_t at; (at = text.find(from, begin)) != std::string_view::npos;) {
      check(at - begin + to.size());
      result.append(text.substr(begin, at - begin)).append(to);
      begin = at + from.size();
    }
    check(text.size() - begin);
    return result.append(text.substr(begin));
  }

  static std::string replaced(std::string_view text, const SplitPattern& pattern,
                              std::string_view to, size_t limit) {
    std::string result;
    for (const TextSegment& segment : pattern.segments(text)) {
      result += segment.match ? to : text.substr(segment.begin, segment.end - segment.begin);
      if (result.size() > limit) too_long();
    }
    return result;
  }

  std::string normalize(std::string_view piece) const {
    using Kind = NormalizerStep::Kind;
    std::string text(piece);
    const size_t limit = growth_limit(piece.size());
    for (const NormalizerStep& step : parts_.normalizer) {
      switch (step.kind) {
        case Kind::nfc: text = normalized(text, NormalForm::c); break;
        case Kind::nfd: text = normalized(text, NormalForm::d); break;
        case Kind::nfkc: text = normalized(text, NormalForm::kc); break;
        case Kind::nfkd: text = normalized(text, NormalForm::kd); break;
        case Kind::lowercase: text = to_lower(text); break;
        case Kind::strip: text = std::string(stripped(text, step.left, step.right)); break;
        case Kind::prepend:
          if (!text.empty()) text.insert(0, step.content);
          break;
        case Kind::replace: text = replaced(text, step.pattern, step.content, limit); break;
        case Kind::replace_regex: text = replaced(text, *step.regex, step.content, limit); break;
      }
    }
    return text;
  }

  // A piece between added tokens; `at_start` if it begins the whole text.
  void encode_piece(std::string_view piece, bool at_start, std::vector<int32_t>& ids) const {
    pre_tokenize(parts_.pre_tokenizer, piece, at_start,
                 [&](std::string_view word) { encode_unsplit(word, ids); });
  }

  // A word, cut once more where no merge can reach across, see find_word_boundaries().
  void encode_unsplit(std::string_view text, std::vector<int32_t>& ids) const {
    const std::string& start = parts_.word_start;
    size_t begin = 0;
    for (size_t at = 0; !start.empty();) {
      at = text.find(start, at + 1);
      if (at == std::string_view::npos) break;
      size_t last = at - 1;
      while ((static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
      if (parts_.joins_word_start.count(std::string(text.substr(last, at - last))) > 0) continue;
      encode_word(text.substr(begin, at - begin), ids);
      begin = at;
    }
    encode_word(text.substr(begin), ids);
  }

  void encode_word(std::string_view word, std::vector<int32_t>& ids) const {
    if (word.size() > WordCache::kLongestWord) return parts_.model.encode(word, ids);
    if (cache_->find(word, ids)) return;
    const size_t before = ids.size();
    parts_.model.encode(word, ids);
    cache_->insert(word, ids.data() + before, ids.data() + ids.size());
  }

  static void apply(const DecoderStep& step, size_t limit, std::vector<std::string>& tokens) {
    switch (step.kind) {
      case DecoderStep::Kind::byte_level: return join_bytes(tokens);
      case DecoderStep::Kind::replace:
        for (std::string& token : tokens) {
          token = replaced(token, step.pattern, step.content, limit);
          limit -= token.size();
        }
        return;
      case DecoderStep::Kind::byte_fallback: return join_byte_tokens(tokens);
      case DecoderStep::Kind::fuse: {
        std::string joined;
        for (const std::string& token : tokens) joined += token;
        tokens.assign(1, std::move(joined));
        return;
      }
      case DecoderStep::Kind::spaces:
        for (size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, 1, ' ');
        return;
      case DecoderStep::Kind::strip:
        for (std::string& token : tokens) strip(step, token);
        return;
      case DecoderStep::Kind::metaspace:
        for (size_t i = 0; i < tokens.size(); ++i) {
          tokens[i] = replaced(tokens[i], step.pattern, i == 0 && step.drop_first ? "" : " ");
        }
        return;
    }
  }

  // Byte-level alphabet to bytes to text. A token with a foreign character stands for itself.
  static void join_bytes(std::vector<std::string>& tokens) {
    std::string bytes, token_bytes;
    for (const std::string& token : tokens) {
      bytes += byte_level_decode(token, token_bytes) ? token_bytes : token;
    }
    tokens.assign(1, repair_utf8(bytes));
  }

  // Replaces every maximal part of an incomplete or impossible sequence by one U+FFFD (Unicode
  // standard, section 3.9, and the rule of the reference).
  static std::string repair_utf8(const std::string& bytes) {
    if (utf8_error_offset(bytes) == std::string::npos) return bytes;
    std::string text;
    for (size_t i = 0; i < bytes.size();) {
      const uint8_t first = static_cast<uint8_t>(bytes[i]);
      size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
      if ((first >= 0x80 && first < 0xC2) || first > 0xF4) length = 0;  // never a first byte
      // The second byte has a narrower range behind these four.
      const uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
      const uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
      size_t good = 1;
      while (good < length && i + good < bytes.size()) {
        const uint8_t b = static_cast<uint8_t>(bytes[i + good]);
        if (good == 1 ? b < low || b > high : (b & 0xC0) != 0x80) break;
        ++good;
      }
      if (good == length) {
        text.append(bytes, i, length);
      } else {
        text += kReplacementCharacter;
      }
      i += good;
    }
    return text;
  }

  // Runs of byte tokens <0xNN> become text, or one U+FFFD per byte if they are not UTF-8.
  static void join_byte_tokens(std::vector<std::string>& tokens) {
    std::vector<std::string> result;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (utf8_error_offset(bytes) == std::string::npos) {
        result.push_back(bytes);
      } else {
        for (size_t i = 0; i < bytes.size(); ++i) result.emplace_back(kReplacementCharacter);
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      const int byte = byte_of_token(token);
      if (byte >= 0) {
        bytes += static_cast<char>(byte);
      } else {
        flush();
        result.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(result);
  }

  // The value of a token <0xNN>, or -1.
  static int byte_of_token(const std::string& token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    int value = 0;
    for (const char c : token.substr(3, 2)) {
      const bool digit = c >= '0' && c <= '9';
      const char lower = static_cast<char>(c | 0x20);
      if (!digit && (lower < 'a' || lower > 'f')) return -1;
      value = value * 16 + (digit ? c - '0' : lower - 'a' + 10);
    }
    return value;
  }

  static void strip(const DecoderStep& step, std::string& token) {
    std::string_view rest = token;
    for (size_t i = 0; i < step.start && rest.starts_with(step.content); ++i) {
      rest.remove_prefix(step.content.size());
    }
    for (size_t i = 0; i < step.stop && rest.ends_with(step.content); ++i) {
      rest.remove_suffix(step.content.size());
    }
    if (rest.size() < token.size()) token = std::string(rest);
  }

  TokenizerParts parts_;
  std::vector<bool> special_;  // by id
  AddedTokenFinder raw_tokens_, normalized_tokens_;
  std::unique_ptr<WordCache> cache_;
};

}  // namespace ptq
