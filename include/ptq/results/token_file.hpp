// tokens.bin of a cell: the scores of its tokens (core/token_score.hpp), beside samples.jsonl.
//
//   8 bytes   "ptqtoken"
//   uint32    version, 1
//   uint32    bytes of a token, 24
//   uint64    runs R
//   uint64    tokens T
//   R x 12    TokenRun: cluster, position, count
//   T x 24    TokenScore: nll, nll_reference, kl, kl_reverse (float32), overlap, confidence
//             (uint16), rank and flags (uint32)
//
// All little endian, nothing between and nothing behind.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/token_score.hpp"

namespace ptq {

inline constexpr const char* kTokenFileName = "tokens.bin";

namespace token_file_detail {

static_assert(std::endian::native == std::endian::little, "the file is written as memory is");

struct Header {
  char magic[8];
  uint32_t version, token_bytes;
  uint64_t runs, tokens;
};
static_assert(sizeof(Header) == 32);
inline constexpr Header kHeader = {
    {'p', 't', 'q', 't', 'o', 'k', 'e', 'n'}, 1, sizeof(TokenScore), 0, 0};

// Why the sums of the runs cannot be; empty when they can.
inline std::string runs_problem(const TokenFile& file) {
  uint64_t sum = 0;
  for (const TokenRun& run : file.runs) {
    if (run.count > std::numeric_limits<uint32_t>::max() - run.position)
      return "a run ends behind the largest position";
    sum += run.count;  // of fewer than 2^32 runs, each below 2^32
  }
  if (sum == file.tokens.size()) return {};
  return "its runs hold " + std::to_string(sum) + " tokens, but there are " +
         std::to_string(file.tokens.size());
}

}  // namespace token_file_detail

// The content of the file. Errors (internal): runs that do not add up to the tokens.
inline std::string token_file_bytes(const TokenFile& file) {
  if (const std::string problem = token_file_detail::runs_problem(file); !problem.empty())
    throw Error(ExitCode::internal, "the scores of the tokens do not fit together: " + problem);
  token_file_detail::Header header = token_file_detail::kHeader;
  header.runs = file.runs.size();
  header.tokens = file.tokens.size();
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  bytes.append(reinterpret_cast<const char*>(file.runs.data()),
               file.runs.size() * sizeof(TokenRun));
  bytes.append(reinterpret_cast<const char*>(file.tokens.data()),
               file.tokens.size() * sizeof(TokenScore));
  return bytes;
}

// Reads the content of a file; `where`: its name, for the message. Errors: another kind of file,
// another version, a size that is not the one its counts give, runs that do not add up.
inline TokenFile parse_token_file(std::string_view bytes, const std::string& where) {
  const auto refuse = [&](const std::string& why) {
    return environment_error("this is no file of token scores: " + why, where,
                             "it is damaged, cut, or written by another version of ptq");
  };
  token_file_detail::Header header;
  if (bytes.size() < sizeof header) throw refuse("it is shorter than the header");
  std::memcpy(&header, bytes.data(), sizeof header);
  bytes.remove_prefix(sizeof header);
  const token_file_detail::Header& known = token_file_detail::kHeader;
  if (std::memcmp(header.magic, known.magic, sizeof header.magic) != 0)
    throw refuse("it does not begin with `ptqtoken`");
  if (header.version != known.version)
    throw refuse("its version is " + std::to_string(header.version) + ", known is " +
                 std::to_string(known.version));
  if (header.token_bytes != known.token_bytes)
    throw refuse("its tokens have " + std::to_string(header.token_bytes) + " bytes, known are " +
                 std::to_string(known.token_bytes));
  // Before anything is multiplied or allocated: no count above what the bytes can hold.
  if (header.runs > bytes.size() / sizeof(TokenRun) ||
      header.tokens > bytes.size() / sizeof(TokenScore) ||
      header.runs * sizeof(TokenRun) + header.tokens * sizeof(TokenScore) != bytes.size()) {
    throw refuse(std::to_string(bytes.size()) + " bytes follow the header, but it announces " +
                 std::to_string(header.runs) + " runs and " + std::to_string(header.tokens) +
                 " tokens");
  }
  TokenFile file;
  file.runs.resize(header.runs);
  file.tokens.resize(header.tokens);
  // Of an empty vector there is no address that memcpy may see.
  const size_t run_bytes = file.runs.size() * sizeof(TokenRun);
  if (run_bytes > 0) std::memcpy(file.runs.data(), bytes.data(), run_bytes);
  if (!file.tokens.empty()) {
    std::memcpy(file.tokens.data(), bytes.data() + run_bytes, bytes.size() - run_bytes);
  }
  if (const std::string problem = token_file_detail::runs_problem(file); !problem.empty())
    throw refuse(problem);
  return file;
}

// Errors: as parse_token_file, and a file that cannot be read.
inline TokenFile read_token_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_token_file(file.text(), path.string());
}

}  // namespace ptq
