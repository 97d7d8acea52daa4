// A tokenizer from lists instead of a tokenizer.json: what the metadata of a GGUF file holds.
//
// The model "gpt2" is byte-level BPE, whose word pattern has a name; "llama" is SentencePiece's
// BPE, which merges by the scores of the tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/model/tokenizer.hpp"

namespace ptq {

// The field behind each name is the key of the metadata.
struct TokenizerLists {
  // Kinds of tokens, in the numbers of the file.
  enum Type : int32_t {
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6
  };

  std::string model;                // tokenizer.ggml.model: "gpt2" or "llama"
  std::string pre;                  // tokenizer.ggml.pre; "" if absent
  std::vector<std::string> tokens;  // tokenizer.ggml.tokens; the id is the index
  std::vector<int32_t> types;       // tokenizer.ggml.token_type; empty: all are `normal`
  std::vector<float> scores;        // tokenizer.ggml.scores; empty if absent
  std::vector<std::string> merges;  // tokenizer.ggml.merges, "left right"; empty if absent
  int32_t bos = -1;                 // tokenizer.ggml.bos_token_id; -1 if absent
  int32_t eos = -1;                 // tokenizer.ggml.eos_token_id
  int32_t unk = -1;                 // tokenizer.ggml.unknown_token_id
  int8_t add_bos = -1;              // tokenizer.ggml.add_bos_token: 0, 1; -1 if absent
  int8_t add_eos = -1;              // tokenizer.ggml.add_eos_token
  int8_t add_space_prefix = -1;     // tokenizer.ggml.add_space_prefix
};

namespace tokenizer_detail {

// What stands behind a name of tokenizer.ggml.pre, as the tokenizer.json of these models has it.
struct NamedPattern {
  std::vector<std::string_view> names;
  std::vector<std::string_view> patterns;  // cut one after the other
  bool digits = false;                     // every number is cut out first
  bool nfc = false;                        // the text is normalized to form C
  bool ignore_merges = false;              // see BpeModel
  bool add_bos = false;                    // what holds without tokenizer.ggml.add_bos_token
};

#define PTQ_WORD_HEAD R"([^\r\n\p{L}\p{N}]?)"
#define PTQ_UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define PTQ_LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define PTQ_SHORT R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define PTQ_SPACES R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"

inline const std::vector<NamedPattern>& named_patterns() {
  static constexpr const char* kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  static constexpr const char* kQwen2 =
      PTQ_SHORT "|" PTQ_WORD_HEAD R"(\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)" PTQ_SPACES;
  static constexpr const char* kLlama3 =
      PTQ_SHORT "|" PTQ_WORD_HEAD R"(\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" PTQ_SPACES;
  static constexpr const char* kQwen35 = PTQ_SHORT
      "|" PTQ_WORD_HEAD R"([\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" PTQ_SPACES;
  static constexpr const char* kTekken =
      PTQ_WORD_HEAD PTQ_UPPER "*" PTQ_LOWER "+|" PTQ_WORD_HEAD PTQ_UPPER "+" PTQ_LOWER
                              R"(*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" PTQ_SPACES;
  static constexpr const char* kGpt4o =
      PTQ_WORD_HEAD PTQ_UPPER "*" PTQ_LOWER "+" PTQ_SHORT "?|" PTQ_WORD_HEAD PTQ_UPPER "+" PTQ_LOWER
                              "*" PTQ_SHORT R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" PTQ_SPACES;
  static const std::vector<NamedPattern> list = {
      {.names = {"gpt-2", "gpt2", "phi-2", "olmo", "mpt", "roberta-bpe"}, .patterns = {kGpt2}},
      {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell"},
       .patterns = {kGpt2},
       .digits = true},
      {.names = {"llama3", "llama-v3", "llama-bpe"},
       .patterns = {kLlama3},
       .ignore_merges = true,
       .add_bos = true},
      {.names = {"smaug-bpe", "dbrx", "glm4", "chatglm-bpe"}, .patterns = {kLlama3}},
      {.names = {"qwen2", "deepseek-r1-qwen", "megrez"}, .patterns = {kQwen2}, .nfc = true},
      {.names = {"stablelm2"}, .patterns = {kQwen2}},
      {.names = {"qwen35"}, .patterns = {kQwen35}, .nfc = true},
      {.names = {"tekken"}, .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
      {.names = {"gpt-4o"}, .patterns = {kGpt4o}},
      {.names = {"deepseek-v3"},
       .patterns = {R"(\p{N}{1,3})", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
                    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?)"
                    R"([\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)" PTQ_SPACES}},
  };
  return list;
}

#undef PTQ_WORD_HEAD
#undef PTQ_UPPER
#undef PTQ_LOWER
#undef PTQ_SHORT
#undef PTQ_SPACES

// Builds the parts from the lists; errors name the key of the metadata.
class ListReader {
 public:
  ListReader(const TokenizerLists& lists, const std::string& file) : lists_(lists), file_(file) {}

  TokenizerParts read() {
    check_lists();
    read_tokens();
    if (lists_.model == "gpt2") {
      read_gpt2();
    } else {
      read_llama();
    }
    const auto add = [&](int32_t id, const char* key, std::vector<int32_t>& list) {
      if (id < 0) throw error(key, "the key is missing, though the token is to be added to texts");
      list.push_back(id);
    };
    if (lists_.add_bos < 0 ? add_bos_ : lists_.add_bos > 0) {
      add(lists_.bos, "bos_token_id", parts_.prefix);
    }
    if (lists_.add_eos > 0) add(lists_.eos, "eos_token_id", parts_.suffix);
    return std::move(parts_);
  }

 private:
  Error error(const std::string& key, const std::string& message,
              const std::string& hint = {}) const {
    return environment_error(message, file_ + ": tokenizer.ggml." + key, hint);
  }
  static std::string at(const char* key, size_t i) { return key + ("[" + std::to_string(i) + "]"); }
  int32_t type(size_t i) const {
    return lists_.types.empty() ? int32_t{TokenizerLists::normal} : lists_.types[i];
  }
  size_t count() const { return lists_.tokens.size(); }

  void check_lists() const {
    if (lists_.model != "gpt2" && lists_.model != "llama") {
      throw error("model", "the tokenizer " + shown(lists_.model) + " is not supported",
                  "supported: gpt2, llama; a folder with tokenizer.json is another way");
    }
    if (count() == 0 || count() > static_cast<size_t>(kMaxId)) {
      throw error("tokens", "the number of tokens, " + std::to_string(count()) +
                                ", is outside 1.." + std::to_string(kMaxId));
    }
    const auto check_count = [&](const char* key, size_t size) {
      if (size == 0 || size == count()) return;
      throw error(key,
                  std::to_string(size) + " entries for " + std::to_string(count()) + " tokens");
    };
    check_count("token_type", lists_.types.size());
    check_count("scores", lists_.scores.size());
    if (lists_.merges.size() > kMaxMerges) throw error("merges", "there are too many merges");
    for (const auto& [key, id] : {std::pair{"bos_token_id", lists_.bos},
                                  {"eos_token_id", lists_.eos},
                                  {"unknown_token_id", lists_.unk}}) {
      if (id < -1 || id >= static_cast<int64_t>(count())) {
        throw error(key, "the token " + std::to_string(id) + " does not exist");
      }
    }
  }

  // Spellings, ids and the tokens that are found in the text as they are.
  void read_tokens() {
    ids_.reserve(count());
    for (size_t i = 0; i < count(); ++i) {
      const std::string& token = lists_.tokens[i];
      if (utf8_error_offset(token) != std::string::npos) {
        throw error(at("tokens", i), "the token is not valid UTF-8");
      }
      const int32_t kind = type(i);
      if (kind < TokenizerLists::normal || kind > TokenizerLists::byte) {
        throw error(at("token_type", i), "the type " + std::to_string(kind) + " is unknown");
      }
      const int32_t id = static_cast<int32_t>(i);
      if (token.empty() || !ids_.emplace(token, id).second) {
        throw error(at("tokens", i),
                    token.empty() ? "the token is empty" : "the token appears twice");
      }
      if (kind == TokenizerLists::control || kind == TokenizerLists::user_defined) {
        if (token.size() > kLongestAddedToken) {
          throw error(at("tokens", i), "the control token has more than " +
                                           std::to_string(kLongestAddedToken) + " bytes");
        }
        parts_.added.push_back({.id = id,
                                .content = token,
                                .normalized = false,
                                .special = kind == TokenizerLists::control});
      }
    }
    parts_.spelling = lists_.tokens;
  }

  void find_bytes() {
    find_byte_tokens(parts_.model, [&](const std::string& message, const std::string& hint) {
      return error("tokens", message, hint);
    });
  }

  // From tokenizer.ggml.merges.
  std::vector<MergePair> read_merges() {
    std::vector<MergePair> pairs(lists_.merges.size());
    for (size_t i = 0; i < pairs.size(); ++i) {
      if (!split_merge(lists_.merges[i], pairs[i])) {
        throw error(at("merges", i),
                    "two tokens separated by one space are expected: " + shown(lists_.merges[i]));
      }
    }
    build_merges(pairs, ids_, parts_.model, [&](size_t i, const std::string& message) {
      return error(at("merges", i), message);
    });
    return pairs;
  }

  void read_gpt2() {
    const NamedPattern* named = nullptr;
    std::string known;
    for (const NamedPattern& pattern : named_patterns()) {
      for (const std::string_view name : pattern.names) {
        if (lists_.pre == name) named = &pattern;
        known += (known.empty() ? "" : ", ") + std::string(name);
      }
    }
    if (named == nullptr) {
      throw error("pre",
                  lists_.pre.empty()
                      ? "the key that names the word pattern is missing"
                      : "the word pattern " + shown(lists_.pre) + " is not supported",
                  "supported: " + known + "; a folder with tokenizer.json is another way");
    }
    if (lists_.merges.empty()) throw error("merges", "the key is missing");
    if (named->nfc) parts_.normalizer.push_back({.kind = NormalizerStep::Kind::nfc});
    auto& steps = parts_.pre_tokenizer.steps;
    if (named->digits) steps.push_back({.kind = PreTokenizerStep::Kind::numeric});
    for (const std::string_view pattern : named->patterns) steps.push_back(pattern_step(pattern));
    parts_.pre_tokenizer.byte_level = true;
    parts_.decoder.push_back({.kind = DecoderStep::Kind::byte_level});
    add_bos_ = named->add_bos;

    BpeModel& model = parts_.model;
    model.byte_level = true;
    model.ignore_merges = named->ignore_merges;
    std::string bytes;
    for (size_t i = 0; i < count(); ++i) {
      if (byte_level_decode(lists_.tokens[i], bytes)) {
        model.vocab.emplace(bytes, static_cast<int32_t>(i));
      } else if (type(i) == TokenizerLists::normal) {
        throw error(at("tokens", i), "the token has a character outside the byte-level alphabet");
      }
    }
    find_bytes();
    read_merges();
  }

  void read_llama() {
    const std::string space = "\u2581";
    BpeModel& model = parts_.model;
    model.byte_fallback = true;
    model.fuse_unk = true;
    for (size_t i = 0; i < count(); ++i) {
      const int32_t kind = type(i);
      if (kind == TokenizerLists::unknown) model.unk_id = static_cast<int32_t>(i);
      // Control tokens are no text, and nothing merges into them.
      if (kind == TokenizerLists::normal || kind == TokenizerLists::user_defined ||
          kind == TokenizerLists::byte) {
        model.vocab.emplace(lists_.tokens[i], static_cast<int32_t>(i));
      }
    }
    if (lists_.unk >= 0) model.unk_id = lists_.unk;
    find_bytes();
    const bool prefix = lists_.add_space_prefix != 0;
    using Normalizer = NormalizerStep::Kind;
    if (prefix) parts_.normalizer.push_back({.kind = Normalizer::prepend, .content = space});
    parts_.normalizer.push_back({.kind = Normalizer::replace, .pattern = " ", .content = space});
    using Decoder = DecoderStep::Kind;
    parts_.decoder.push_back({.kind = Decoder::replace, .pattern = space, .content = " "});
    parts_.decoder.push_back({.kind = Decoder::byte_fallback});
    parts_.decoder.push_back({.kind = Decoder::fuse});
    if (prefix) parts_.decoder.push_back({.kind = Decoder::strip, .content = " ", .start = 1});
    add_bos_ = true;
    if (lists_.merges.empty() && lists_.scores.empty()) {
      throw error("scores", "there are neither scores nor merges");
    }
    find_word_boundaries(lists_.scores.empty() ? read_merges() : merges_by_score(), parts_);
  }

  // Two tokens merge if together they are one; the better the score of that one, the earlier. All
  // ways to a token have its rank, and the leftmost is taken, as SentencePiece does it.
  std::vector<MergePair> merges_by_score() {
    const auto& scores = lists_.scores;
    const auto merges_into = [&](size_t i) {
      return type(i) == TokenizerLists::normal || type(i) == TokenizerLists::user_defined;
    };
    std::vector<uint32_t> order(count());
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = 0; i < count(); ++i) {
      if (std::isnan(scores[i])) throw error(at("scores", i), "the score is not a number");
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
    struct Found {
      MergePair pair;
      int32_t left, right;
      MergeTable::Merge merge;
    };
    std::vector<Found> found;
    uint32_t rank = 0;
    for (size_t k = 0; k < order.size(); ++k) {
      const uint32_t id = order[k];
      if (k > 0 && scores[id] < scores[order[k - 1]]) ++rank;
      const std::string_view token = lists_.tokens[id];
      if (!merges_into(id) || token.size() > kLongestAddedToken) continue;
      for (size_t i = 0; next_code_point(token, i), i < token.size();) {
        const MergePair pair{token.substr(0, i), token.substr(i)};
        const auto left = ids_.find(pair.left), right = ids_.find(pair.right);
        if (left == ids_.end() || right == ids_.end()) continue;
        if (!merges_into(static_cast<size_t>(left->second)) ||
            !merges_into(static_cast<size_t>(right->second))) {
          continue;
        }
        found.push_back({pair, left->second, right->second, {rank, static_cast<int32_t>(id)}});
      }
    }
    if (found.size() > kMaxMerges) throw error("tokens", "there are too many merges");
    std::vector<MergePair> pairs;
    pairs.reserve(found.size());
    parts_.model.merges = MergeTable(found.size());
    for (const Found& one : found) {
      parts_.model.merges.insert(one.left, one.right, one.merge);
      pairs.push_back(one.pair);
    }
    return pairs;
  }

  const TokenizerLists& lists_;
  const std::string& file_;
  TokenizerParts parts_;
  TokenMap ids_;  // by the spelling of the list
  bool add_bos_ = false;
};

}  // namespace tokenizer_detail

// Throws ptq::Error that names the key of the metadata; `name` is what messages call the file.
inline Tokenizer tokenizer_from_lists(const TokenizerLists& lists, const std::string& name) {
  return Tokenizer::from_parts(tokenizer_detail::ListReader(lists, name).read());
}

}  // namespace ptq
