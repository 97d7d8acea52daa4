// Files of a model folder that belong to a changed copy of it, too.
#pragma once

#include <filesystem>
#include <system_error>

namespace ptq {

inline void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code ignored;
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json",
                           "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
                           "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"})
    if (std::filesystem::exists(from / name, ignored))
      std::filesystem::copy_file(from / name, to / name);
}

}  // namespace ptq
