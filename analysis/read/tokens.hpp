// tokens.bin of a cell: the scores of its tokens.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ptq/results/token_file.hpp"

namespace ptq::report {

// What comparisons of methods need of the tokens: 8 bytes each instead of 24.
struct TokenLosses {
  std::vector<TokenRun> runs;
  std::vector<float> nll, nll_reference;  // nats; NaN for void tokens and without a reference
};

// The file of a cell's folder. No tokens where there is none, or where it cannot be read: then
// `problem` says why.
TokenFile read_tokens(const std::filesystem::path& folder, std::string& problem);

TokenLosses losses_of(const TokenFile& file);

}  // namespace ptq::report
