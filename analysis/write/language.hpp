// The languages of the pages.
#pragma once

namespace ptq::report {

enum class Language { zh, en };

// A text of ours that is written in both.
inline const char* in(Language language, const char* english, const char* chinese) {
  return language == Language::zh ? chinese : english;
}

}  // namespace ptq::report
