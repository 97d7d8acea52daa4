// Evaluation and calibration texts: plain UTF-8 files, the WikiText-2 form of perplexity papers,
// and JSON Lines collections.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq {

// The longest text that settings may ask for, in tokens.
constexpr int64_t kLongestContext = int64_t{1} << 24;

// The whole file, not empty, valid UTF-8, nothing changed in it.
inline std::string read_utf8_file(const std::filesystem::path& path) {
  constexpr uint64_t kLargest = uint64_t{1} << 30;
  std::string text = read_text_file(path, kLargest);
  if (text.empty()) throw environment_error("the text file is empty", path.string());
  if (const size_t offset = utf8_error_offset(text); offset != std::string_view::npos) {
    throw environment_error("the text is not valid UTF-8 at byte " + std::to_string(offset),
                            path.string(), "convert the file to UTF-8");
  }
  return text;
}

// The string that WikiText-2 perplexity is computed on: the data set's rows joined by two newlines
// (IST-DASLab/gptq datautils.py, "\n\n".join(testdata['text'])). A row is one line of the raw file
// with its newline; blank lines are rows that hold the empty string.
inline std::string join_wikitext2(std::string_view raw) {
  std::string joined;
  joined.reserve(raw.size() + raw.size() / 16);
  for (bool first = true; !raw.empty(); first = false) {
    const size_t newline = raw.find('\n');
    const size_t length = newline == std::string_view::npos ? raw.size() : newline + 1;
    const std::string_view row = raw.substr(0, length);
    raw.remove_prefix(length);
    if (!first) joined += "\n\n";
    if (row.find_first_not_of(" \t\r\n") != std::string_view::npos) joined += row;
  }
  return joined;
}

// How the rows of a text file are put together: as they stand, or in the form above.
inline const std::vector<std::string>& join_words() {
  static const std::vector<std::string> words = {"raw", "wikitext2"};
  return words;
}
inline std::string read_joined_file(const std::filesystem::path& path, const std::string& join) {
  std::string text = read_utf8_file(path);
  return join == "wikitext2" ? join_wikitext2(text) : text;
}

// A text of so many bytes per token asked for is long enough and need not be tokenized to know it.
inline bool clearly_long(std::string_view text, int64_t tokens) {
  constexpr int64_t kBytesPerToken = 64;
  return int64_t(text.size()) / kBytesPerToken > tokens;
}

// One entry of a JSON Lines file.
struct JsonlText {
  int64_t line;  // 1-based
  std::string text;
};

// The field "text" of the first `most` lines (0 = all); other fields are ignored, blank lines
// skipped. Errors name file and line.
inline std::vector<JsonlText> read_jsonl_texts(const std::filesystem::path& path, int64_t most) {
  const JsonLimits limits{.max_bytes = uint64_t{1} << 28};
  const MappedFile file(path);
  std::string_view rest = file.text();
  if (is_git_lfs_pointer(rest)) {
    throw environment_error("this is a Git LFS pointer, not the file itself", path.string(),
                            "run `git lfs pull` in the folder");
  }
  std::vector<JsonlText> texts;
  for (int64_t line = 1; !rest.empty() && (most == 0 || int64_t(texts.size()) < most); ++line) {
    const size_t newline = rest.find('\n');
    const std::string_view row = rest.substr(0, newline);
    rest.remove_prefix(newline == std::string_view::npos ? rest.size() : newline + 1);
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const JsonDocument document =
        JsonDocument::parse(row, path.string() + ":" + std::to_string(line), limits);
    texts.push_back({line, std::string(document.root().get("text").as_string())});
  }
  if (texts.empty()) throw environment_error("the file holds no texts", path.string());
  return texts;
}

}  // namespace ptq
