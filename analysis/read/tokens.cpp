#include "analysis/read/tokens.hpp"

#include <cmath>

#include "analysis/read/damage.hpp"

namespace ptq::report {

TokenFile read_tokens(const std::filesystem::path& folder, std::string& problem) {
  const std::filesystem::path file = folder / kTokenFileName;
  std::error_code error;
  if (folder.empty() || (!std::filesystem::exists(file, error) && !error)) return {};
  TokenFile tokens;
  if (const auto why = damage([&] { tokens = read_token_file(file); }))
    problem = std::string(kTokenFileName) + ": " + *why;
  return tokens;
}

TokenLosses losses_of(const TokenFile& file) {
  TokenLosses out{file.runs, {}, {}};
  out.nll.reserve(file.tokens.size());
  out.nll_reference.reserve(file.tokens.size());
  for (const TokenScore& token : file.tokens) {
    out.nll.push_back(token.finite() ? token.nll : std::nanf(""));
    out.nll_reference.push_back(token.nll_reference);
  }
  return out;
}

}  // namespace ptq::report
