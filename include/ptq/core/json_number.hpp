// Integers of JSON files that anyone may have written: a conversion by nlohmann::json of a fraction
// or of a number beyond the type has no defined result.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <string>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"

namespace ptq {

// The value as an integer of at least `least`. Errors: it is none, or beyond the type; `where`: for
// messages.
template <std::integral T>
T json_integer(const Json& value, const std::string& where, T least = 0) {
  const auto refuse = [&] {
    return environment_error("an integer from " + std::to_string(least) + " to " +
                                 std::to_string(std::numeric_limits<T>::max()) + " is expected",
                             where);
  };
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > uint64_t(std::numeric_limits<T>::max()) || (least > 0 && number < uint64_t(least)))
      throw refuse();
    return T(number);
  }
  if (!value.is_number_integer()) throw refuse();
  const int64_t number = value.get<int64_t>();  // negative
  if (std::is_unsigned_v<T> || number < int64_t(least)) throw refuse();
  return T(number);
}

}  // namespace ptq
