// The pages of WikiText and their readable form, for perplexities per word. Source:
// EleutherAI/lm-evaluation-harness 0.4.11, lm_eval/tasks/wikitext/preprocess_wikitext.py, and the
// data set EleutherAI/wikitext_document_level on Hugging Face, whose rows are the pages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/model/unicode.hpp"
#include "ptq/tasks/text.hpp"

namespace ptq::tasks {

// The raw file cut in front of each heading of the first level, " = Title = ". What is blank in
// front of the first is no page.
inline std::vector<std::string> wikitext_pages(std::string_view raw) {
  using text_detail::replaced;
  std::vector<std::string> pages;
  std::string page;
  bool empty = true;  // no line yet
  for (size_t begin = 0; begin <= raw.size();) {
    const size_t end = std::min(raw.find('\n', begin), raw.size());
    const std::string_view line = raw.substr(begin, end - begin);
    begin = end + 1;
    const std::string mark = stripped_text(replaced(replaced(line, "= = =", "==="), "= =", "=="));
    if (mark.starts_with("= ") && mark.ends_with(" =")) {
      if (!stripped_text(page).empty()) pages.push_back(page);
      page.clear();
      empty = true;
    }
    if (!empty) page += '\n';
    page += line;
    empty = false;
  }
  pages.push_back(std::move(page));
  return pages;
}

// Pieces between runs of whitespace, as Python's re.split(r"\s+", text): a run at the beginning or
// the end has an empty piece outside, which counts.
inline int64_t split_words(std::string_view text) {
  int64_t runs = 0;
  bool space = false;
  for (size_t i = 0; i < text.size();) {
    const bool now = text_detail::is_python_space(next_code_point(text, i));
    runs += now && !space;
    space = now;
  }
  return runs + 1;
}

namespace text_detail {

// Without the whitespace just inside each pair: (open, anything but close, close).
inline std::string tight_pairs(std::string_view text, char open, char close) {
  std::string out;
  while (!text.empty()) {
    const size_t begin = text.find(open);
    const size_t end = begin == text.npos ? begin : text.find(close, begin + 1);
    if (end == text.npos) break;
    out.append(text.substr(0, begin + 1));
    out += stripped_text(text.substr(begin + 1, end - begin - 1));
    out += close;
    text.remove_prefix(end + 1);
  }
  return out.append(text);
}

}  // namespace text_detail

// A page with its tokens put together again: wikitext_detokenizer(). Its rule for "/' 4/" writes
// the pattern itself, and so does this one.
inline std::string wikitext_detokenized(std::string_view page) {
  using namespace text_detail;
  std::string text = replaced(page, "s '", "s'");
  for (char digit = '0'; digit <= '9'; ++digit)
    text = replaced(text, std::string("/' ") + digit + "/", "/'[0-9]/");
  constexpr std::string_view kBefore[][2] = {{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."},
                                             {" : ", ": "},  {" ; ", "; "},  {" . ", ". "},
                                             {" ! ", "! "},  {" ? ", "? "},  {" , ", ", "}};
  for (const auto& [from, to] : kBefore) text = replaced(text, from, to);
  for (const char* pair : {"()", "[]", "{}", "\"\"", "''"})
    text = tight_pairs(text, pair[0], pair[1]);
  constexpr std::string_view kBehind[][2] = {
      {"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="},  {" \xC2\xB0 ", "\xC2\xB0"},
      {" \n", "\n"},       {"\n ", "\n"},    {" N ", " 1 "}, {" 's", "'s"}};
  for (const auto& [from, to] : kBehind) text = replaced(text, from, to);
  return text;
}

}  // namespace ptq::tasks
