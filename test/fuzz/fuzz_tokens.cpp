// A file of token scores: what is accepted adds up, and is written again to the byte.
#include "ptq/results/token_file.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {

bool tokens(Bytes input) {
  return accepts([&] {
    const TokenFile read = parse_token_file(text_of_bytes(input), "tokens.bin");
    uint64_t sum = 0;
    for (const TokenRun& run : read.runs) sum += run.count;
    require(sum == read.tokens.size(), "the runs hold all tokens");
    require(token_file_bytes(read) == text_of_bytes(input), "it is written as it was read");
  });
}

}  // namespace ptq::fuzz
