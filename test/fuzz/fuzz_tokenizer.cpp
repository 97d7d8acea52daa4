// An input that begins with '{' is a tokenizer.json. Any other input is a text for one of seven
// small tokenizers, whose ids are compared with plain merging and decoded again.
#include "ptq/model/tokenizer.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

using Ids = std::vector<int32_t>;
using Strings = std::vector<std::pair<std::string, std::string>>;

constexpr const char* kVisibleSpace = "\u2581";

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string json_string(std::string_view text) {
  return "\"" + replaced(replaced(std::string(text), "\\", "\\\\"), "\"", "\\\"") + "\"";
}

// The spelling of bytes in the byte-level alphabet.
std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(out, byte_alphabet()[static_cast<uint8_t>(c)]);
  return out;
}

// Vocabulary and merges: `symbols` first, then what each pair of `merges` makes.
std::string bpe_json(std::vector<std::string> symbols, const Strings& merges,
                     const std::string& settings) {
  std::string list;
  for (const auto& [left, right] : merges) {
    list += (list.empty() ? "[" : ", [") + json_string(left) + ", " + json_string(right) + "]";
    symbols.push_back(left + right);
  }
  std::string vocab;
  std::set<std::string> seen;
  for (const std::string& symbol : symbols) {
    if (!seen.insert(symbol).second) continue;
    vocab +=
        (vocab.empty() ? "" : ", ") + json_string(symbol) + ": " + std::to_string(seen.size() - 1);
  }
  return R"("model": {"type": "BPE", )" + settings + R"("vocab": {)" + vocab + R"(}, "merges": [)" +
         list + "]}";
}

// Steps of a pre-tokenizer, in front of ByteLevel without its pattern.
std::string llama_split(const std::string& digits) {
  return R"({"type": "Split", "pattern":)"
         R"({"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N})" +
         digits + R"(| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},)" +
         R"("behavior": "Isolated", "invert": false})";
}
constexpr const char* kDigitsGpt2 =
    R"({"type": "Digits", "individual_digits": true}, {"type": "Split", "pattern": {"Regex":)"
    R"("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},)"
    R"("behavior": "Isolated", "invert": false})";
// Through PCRE2: lower case behind upper case, word boundaries, empty matches, an intersection.
constexpr const char* kPatterns =
    R"({"type": "Split", "pattern": {"Regex": "\\p{Lu}*\\p{Ll}+|\\b\\w|[\\p{M}\\p{L}&&[^a-c]]+"},)"
    R"("behavior": "MergedWithNext", "invert": false},)"
    R"({"type": "Split", "pattern": {"Regex": "(?=(\\d{3})+(?!\\d))|$"},)"
    R"("behavior": "Isolated", "invert": true},)"
    R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"})";
constexpr const char* kClasses =
    R"({"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits"},)"
    R"({"type": "Split", "pattern": {"Regex": "\\s"}, "behavior": "Contiguous", "invert": true})";

std::string byte_level_json(const std::string& steps, bool nfc, bool ignore_merges) {
  std::vector<std::string> symbols;
  for (int b = 0; b < 256; ++b) symbols.push_back(spelled(std::string(1, static_cast<char>(b))));
  Strings merges;
  for (const auto& [left, right] : Strings{
           {"t", "h"},      {" ", "th"},  {"th", "e"},      {" ", "the"},     {"i", "n"},
           {"in", "g"},     {"\n", "\n"}, {" ", " "},       {"  ", "  "},     {"\r", "\n"},
           {"1", "2"},      {"12", "3"},  {"2", "3"},       {"'", "s"},       {"a", "a"},
           {"aa", "aa"},    {"aa", "a"},  {"\xC3", "\xA9"}, {"\xCC", "\x81"}, {"\xF0\x9F", "\x98"},
           {"\xF0", "\x9F"}}) {
    merges.emplace_back(spelled(left), spelled(right));
    symbols.push_back(spelled(left));
  }
  symbols.push_back(spelled("whole"));  // no merges lead there
  return R"({"version": "1.0", "added_tokens": [{"id": 999, "content": "<|s|>", "special": true}],)"
         R"("normalizer": )" +
         std::string(nfc ? R"({"type": "NFC"})" : "null") +
         R"(, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [)" + steps +
         R"(, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},)"
         R"("post_processor": null, "decoder": {"type": "ByteLevel"}, )" +
         bpe_json(symbols, merges, ignore_merges ? R"("ignore_merges": true, )" : "") + "}";
}

std::string sentencepiece_json(bool metaspace) {
  std::vector<std::string> symbols = {"<unk>", "<s>"};
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    symbols.emplace_back(name);
  }
  const std::string s = kVisibleSpace;
  for (const char* c : {"a", "b", "c", "t", "h", "e", "\u00E9", "1", "<", "0", "x", "\U0001F600"}) {
    symbols.emplace_back(c);
  }
  symbols.push_back(s);
  const Strings merges = {{s, s},     {s + s, s + s}, {"t", "h"},      {s, "th"},    {"th", "e"},
                          {s, "a"},   {"a", "b"},     {s + "a", "b"},  {"a", s},     {"b", "c"},
                          {"a", "a"}, {"aa", "a"},    {"\u00E9", "a"}, {"1", s + s}, {"<", "0"}};
  const std::string mark = json_string(s);
  return R"({"version": "1.0", "added_tokens": [{"id": 1, "content": "<s>", "special": true}],)" +
         (metaspace
              ? R"("pre_tokenizer": {"type": "Metaspace", "replacement": )" + mark +
                    R"(, "prepend_scheme": "first", "split": false}, )"
              : R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", )"
                R"("prepend": )" +
                    mark + R"(}, {"type": "Replace", "pattern": {"String": " "}, "content": )" +
                    mark + "}]}, ") +
         R"("decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": )"
         R"({"String": )" +
         mark + R"(}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, )" +
         R"({"type": "Strip", "content": " ", "start": 1, "stop": 0}]}, )" +
         bpe_json(symbols, merges,
                  R"("unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, )") +
         "}";
}

TokenizerParts parts_of(std::string_view json) {
  const auto document = JsonDocument::parse(json, "tokenizer.json", {.max_bytes = 1 << 30});
  return read_tokenizer_parts(document.root());
}

// The rules written as plainly as possible.
struct Small {
  explicit Small(const std::string& json)
      : parts(parts_of(json)), tokenizer(Tokenizer::parse(json, "tokenizer.json")) {}

  // The lowest rank first, then the leftmost.
  void merge(Ids symbols, Ids& out) const {
    for (;;) {
      const MergeTable::Merge* best = nullptr;
      size_t at = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const MergeTable::Merge* merge = parts.model.merges.find(symbols[i], symbols[i + 1]);
        if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
          best = merge;
          at = i;
        }
      }
      if (best == nullptr) break;
      symbols[at] = best->id;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    out.insert(out.end(), symbols.begin(), symbols.end());
  }

  Ids encode(const std::string& text) const {
    const BpeModel& model = parts.model;
    Ids ids;
    const auto bytes = [&](std::string_view word) {
      Ids symbols;
      for (const char c : word) symbols.push_back(model.byte_ids[static_cast<uint8_t>(c)]);
      return symbols;
    };
    if (model.byte_level) {
      const std::string normal = parts.normalizer.empty() ? text : to_nfc(text);
      std::string all;
      pre_tokenize(parts.pre_tokenizer, normal, true, [&](std::string_view piece) {
        require(!piece.empty(), "a word has a length");
        const std::string word(piece);
        all += word;
        const auto whole = model.vocab.find(word);
        if (model.ignore_merges && whole != model.vocab.end()) {
          ids.push_back(whole->second);
        } else {
          merge(bytes(word), ids);
        }
      });
      require(all == normal, "the words are the text");
      return ids;
    }
    std::string normal = replaced(text, " ", kVisibleSpace);
    const bool legacy = parts.pre_tokenizer.steps.empty();
    if (!text.empty() && (legacy || !normal.starts_with(kVisibleSpace))) {
      normal.insert(0, kVisibleSpace);
    }
    Ids symbols;
    for (size_t i = 0; i < normal.size();) {
      const size_t begin = i;
      next_code_point(normal, i);
      const std::string character = normal.substr(begin, i - begin);
      const auto known = model.vocab.find(character);
      const Ids one = known != model.vocab.end() ? Ids{known->second} : bytes(character);
      symbols.insert(symbols.end(), one.begin(), one.end());
    }
    merge(symbols, ids);
    return ids;
  }

  // What comes back from text; control tokens written in it are plain text.
  std::string round_trip(std::string text) const {
    if (parts.model.byte_level) return parts.normalizer.empty() ? text : to_nfc(text);
    text = replaced(text, kVisibleSpace, " ");
    if (!parts.pre_tokenizer.steps.empty() && text.starts_with(' ')) text.erase(0, 1);
    return text;
  }

  TokenizerParts parts;
  Tokenizer tokenizer;
};

bool check_text(Bytes input) {
  static const Small tokenizers[] = {Small(byte_level_json(llama_split(""), true, false)),
                                     Small(byte_level_json(llama_split("{1,3}"), false, true)),
                                     Small(sentencepiece_json(false)),
                                     Small(sentencepiece_json(true)),
                                     Small(byte_level_json(kDigitsGpt2, false, false)),
                                     Small(byte_level_json(kPatterns, false, false)),
                                     Small(byte_level_json(kClasses, false, false))};
  const Small& small = tokenizers[input.empty() ? 0 : input[0] % std::size(tokenizers)];
  const Tokenizer& t = small.tokenizer;
  const std::string text(text_of_bytes(input));
  const bool accepted = accepts([&] {
    const Ids ids = t.encode(text, false, false);
    require(ids == t.encode(text, false, false), "the same text gives the same ids");
    if (text.size() <= 1024) require(ids == small.encode(text), "ids are those of plain merging");
    require(t.decode(ids) == small.round_trip(text), "decoding gives the text back");
    const Ids special = t.encode(text);
    for (const int32_t id : special) t.token(id);
    const std::string decoded = t.decode(special);
    if (small.parts.model.byte_level && small.parts.normalizer.empty()) {
      require(decoded == text, "control tokens give their text back");
    }
    require(t.decode(special, true).size() <= decoded.size(), "skipping tokens adds nothing");
  });
  require(accepted == is_utf8(text), "UTF-8 is encoded, all else refused");
  Ids ids;
  for (size_t i = 0; i + 1 < input.size(); i += 2) {
    ids.push_back((input[i] << 8 | input[i + 1]) % t.vocab_size());
  }
  accepts([&] { require(is_utf8(t.decode(ids)), "decoded text is UTF-8"); });
  return accepted;
}

bool check_file(std::string_view json) {
  return accepts([&] {
    const Tokenizer t = Tokenizer::parse(json, "tokenizer.json");
    const TokenizerParts parts = parts_of(json);
    const bool whole =
        parts.added.empty() && parts.normalizer.empty() && parts.pre_tokenizer.steps.empty();
    for (const std::string text :
         {"", "ab c", "\u2581a  \u2581b\u2581\u2581c a", "<s>bcab!\u00E9\U0001F600 x\n12345 the"}) {
      const Ids ids = t.encode(text);
      require(is_utf8(t.decode(ids)), "decoded text is UTF-8");
      t.decode(t.encode(text, false, false), true);
      if (whole && !text.empty()) {
        Ids uncut;
        parts.model.encode(text, uncut);
        require(t.encode(text, false) == uncut, "cutting a text changes no id");
      }
    }
    for (int32_t id = 0; id < std::min(t.vocab_size(), 300); ++id) {
      accepts([&] { require(is_utf8(t.decode(Ids{id, 0, id})), "decoded text is UTF-8"); });
    }
  });
}

}  // namespace

bool tokenizer(Bytes input) {
  const std::string_view text = text_of_bytes(input);
  return text.starts_with('{') ? check_file(text) : check_text(input);
}

}  // namespace ptq::fuzz
