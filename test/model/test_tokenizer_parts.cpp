// Tokenizers from the lists of a GGUF file's metadata.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "ptq/model/tokenizer_parts.hpp"

using namespace ptq;
using Catch::Matchers::Contains;

namespace ptq::test {
namespace {

using Ids = std::vector<int32_t>;

// All bytes, "ab" and " a", and a control token.
TokenizerLists gpt2_lists(const std::string& pre) {
  TokenizerLists lists;
  lists.model = "gpt2";
  lists.pre = pre;
  for (const uint32_t letter : byte_alphabet()) append_utf8(lists.tokens.emplace_back(), letter);
  lists.tokens.insert(lists.tokens.end(), {"ab", "\u0120a", "<|s|>"});
  lists.types.assign(lists.tokens.size(), TokenizerLists::normal);
  lists.types.back() = TokenizerLists::control;
  lists.merges = {"a b", "\u0120 a"};
  lists.bos = 258;
  return lists;
}

// A SentencePiece model of a few tokens with all bytes behind them.
TokenizerLists llama_lists() {
  TokenizerLists lists;
  lists.model = "llama";
  lists.tokens = {"<unk>", "<s>",     "</s>",         "\u2581", "a",   "b",
                  "ab",    "\u2581a", "\u2581\u2581", "aa",     "aab", "[X]"};
  lists.scores = {0, 0, 0, -20, -21, -22, -1, -2, -3, -4, -5, 0};
  lists.types = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4};
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    lists.tokens.emplace_back(name);
    lists.scores.push_back(0);
    lists.types.push_back(TokenizerLists::byte);
  }
  lists.bos = 1;
  lists.eos = 2;
  lists.unk = 0;
  return lists;
}

Tokenizer read(const TokenizerLists& lists) { return tokenizer_from_lists(lists, "m.gguf"); }

std::string error_of(const TokenizerLists& lists) {
  try {
    read(lists);
  } catch (const Error& error) {
    CHECK_THAT(error.where(), Contains("m.gguf: tokenizer.ggml."));
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("tokenizer lists: gpt2 with the name of a word pattern") {
  const Tokenizer smollm = read(gpt2_lists("smollm"));
  CHECK(smollm.bos_id() == -1);
  CHECK(smollm.encode("ab a 12") == Ids{256, 257, ' ', '1', '2'});
  CHECK(smollm.encode("a<|s|>b") == Ids{'a', 258, 'b'});
  CHECK(smollm.encode("<|s|>", true, false).size() == 5);
  CHECK(smollm.decode(Ids{256, 257, 258}) == "ab a<|s|>");
  CHECK(smollm.decode(Ids{256, 257, 258}, true) == "ab a");
  CHECK(read(gpt2_lists("qwen2")).encode("e\u0301") == Ids{0xC3, 0xA9});  // form C
  CHECK(read(gpt2_lists("llama-bpe")).encode("ab") == Ids{258, 256});     // adds the begin
  TokenizerLists told = gpt2_lists("llama-bpe");
  told.add_bos = 0;
  CHECK(read(told).encode("ab") == Ids{256});
  told.eos = 65;
  told.add_eos = 1;
  CHECK(read(told).encode("ab") == Ids{256, 65});
  // Every name that is listed has patterns that can be read.
  for (const auto& named : tokenizer_detail::named_patterns()) {
    for (const std::string_view name : named.names) {
      const Tokenizer t = read(gpt2_lists(std::string(name)));
      const std::string text = "Ab 12345 d\u00E9j\u00E0 \u6F22\u5B57's!?\n\n x";
      CHECK(t.decode(t.encode(text), true) == text);
    }
  }
}

TEST_CASE("tokenizer lists: llama merges by score") {
  const Tokenizer t = read(llama_lists());
  CHECK(t.encode("ab") == Ids{1, 3, 6});  // ab before the space joins a
  CHECK(t.encode("a") == Ids{1, 7});
  CHECK(t.encode("aab", false) == Ids{7, 6});
  CHECK(t.encode("b  aab", false) == Ids{3, 5, 3, 7, 6});  // ab, then the space with a
  CHECK(t.encode("\u00E9", false) == Ids{3, 12 + 0xC3, 12 + 0xA9});
  CHECK(t.encode("a[X]b", false, false) == Ids{7, 11, 3, 5});  // of the user: always a token
  CHECK(t.decode(Ids{1, 3, 6}, true) == "ab");
  TokenizerLists bare = llama_lists();
  bare.add_space_prefix = 0;
  bare.add_bos = 0;
  CHECK(read(bare).encode("ab") == Ids{6});
  CHECK(read(bare).decode(Ids{7}) == " a");
  TokenizerLists merges = llama_lists();
  merges.scores.clear();
  merges.merges = {"\u2581 a", "a b"};
  CHECK(read(merges).encode("ab", false) == Ids{7, 5});
}

TEST_CASE("tokenizer lists: equal scores merge from the left, as in SentencePiece") {
  TokenizerLists lists = llama_lists();
  lists.scores[9] = lists.scores[10] = lists.scores[6] = -1;  // aa, aab, ab
  lists.add_space_prefix = 0;
  CHECK(read(lists).encode("aab", false) == Ids{10});
  CHECK(read(lists).encode("aaab", false) == Ids{9, 6});
}

TEST_CASE("tokenizer lists: errors name the key") {
  const auto refused = [](TokenizerLists lists, auto change, const std::string& text) {
    change(lists);
    CHECK_THAT(error_of(lists), Contains(text));
  };
  using Lists = TokenizerLists;
  CHECK(error_of(gpt2_lists("gpt-2")) == "no error");
  CHECK(error_of(llama_lists()) == "no error");
  refused(
      gpt2_lists("x"), [](Lists&) {}, "`x` is not supported");
  refused(
      gpt2_lists(""), [](Lists&) {}, "pattern is missing");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.model = "bert"; }, "`bert`");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.tokens.clear(); }, "tokens");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.types.pop_back(); }, "token_type");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.types[7] = 9; }, "token_type[7]");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.tokens[5] = l.tokens[6]; }, "tokens[6]");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.tokens[5] = ""; }, "tokens[5]");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.tokens[5] = "\xFF"; }, "UTF-8");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.tokens[256] = "\u2581"; }, "alphabet");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.merges.clear(); }, "merges");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.merges[1] = "ab"; }, "merges[1]");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.merges[1] = "a c"; }, "merges[1]");
  refused(
      gpt2_lists("gpt-2"), [](Lists& l) { l.bos = 259; }, "bos_token_id");
  refused(
      gpt2_lists("llama3"), [](Lists& l) { l.bos = -1; }, "bos_token_id");
  refused(
      llama_lists(), [](Lists& l) { l.scores.pop_back(); }, "scores");
  refused(
      llama_lists(), [](Lists& l) { l.scores.clear(); }, "neither scores nor merges");
  refused(
      llama_lists(), [](Lists& l) { l.scores[4] = std::nanf(""); }, "scores[4]");
}

}  // namespace ptq::test
