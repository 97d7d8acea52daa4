// error.json: what a cell's process says of its end to the host that started it. A method runs in
// that process and may have written anything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/results/record.hpp"

namespace ptq {

inline std::string cell_error_text(ExitCode code, const std::string& message) {
  return json_text(Json{{"code", int(code)}, {"message", message}});
}

// Nothing where the text is no such file. The message is text that can be shown; a code that is no
// exit code of ours becomes that of a failed cell.
inline std::optional<Record::Failure> parse_cell_error(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return {};
  Record::Failure failure;
  failure.code = int64_t(ExitCode::cells_failed);
  const auto code = json.find("code");
  if (code != json.end() && code->is_number_unsigned() && code->get<uint64_t>() <= 255)
    failure.code = code->get<int64_t>();
  const auto message = json.find("message");
  if (message != json.end() && message->is_string())
    failure.message = one_line_each(message->get<std::string>());
  if (failure.message.empty()) return {};
  return failure;
}

// May the same cell succeed elsewhere, or later? A lack of memory or a file that is not there is of
// this machine; what a method refuses or where it crashes is not.
inline bool may_succeed_elsewhere(int64_t code) {
  return code == int64_t(ExitCode::resources) || code == int64_t(ExitCode::environment);
}

}  // namespace ptq
