// A text with one piece of it replaced.
#pragma once

#include <catch2/catch.hpp>
#include <string>

namespace ptq::test {

// `from` must be there.
inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace ptq::test
