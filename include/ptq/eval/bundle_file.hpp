// The file of a reference bundle (eval/bundle.hpp), and running a model over its tokens.
//
//   8 bytes   "ptqbundl"
//   uint32    version, 1
//   uint32    vocabulary V
//   uint32    bytes of the JSON object J, at most 65536
//   uint32    0
//   uint64    tokens of a window W
//   uint64    tokens N
//   uint64    entries E
//   J         JSON: what the reference is, for people and for checks
//   N x 4     int32 token ids: the text, windows of W end to end, the last may be shorter
//   R x 16    BundleHead: a row for every token of a window but the last
//   E x 6     BundleEntry: those of row 0, of row 1, ...
//
// All little endian, nothing between and nothing behind.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/eval/bundle.hpp"
#include "ptq/eval/log_softmax.hpp"

namespace ptq::eval {

// Rows of so many tokens in windows: all but the last of each.
inline uint64_t bundle_rows(uint64_t tokens, uint64_t window) {
  const uint64_t rest = tokens % window;
  return tokens / window * (window - 1) + (rest > 0 ? rest - 1 : 0);
}

// The model over the tokens, window by window, each in an empty sequence: visit(row, logits,
// target) for every row of a bundle, in order. kv: nullptr = full-precision cache. Errors: a logit
// that is not finite.
inline void run_bundle(
    Engine& engine, KvMethod* kv, std::span<const int32_t> tokens, int64_t window, Regime regime,
    const std::function<void(size_t row, const LogitRow& logits, int32_t target)>& visit) {
  const int64_t vocab = engine.config().vocab_size;
  size_t done = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += size_t(window)) {
    const auto ids = tokens.subspan(begin, std::min(size_t(window), tokens.size() - begin));
    if (ids.size() < 2) break;
    const auto sequence = engine.start(kv);
    engine.forward(*sequence, ids, regime, 0, [&](int64_t first, int64_t rows, const float* x) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = first + i;
        if (at + 1 == int64_t(ids.size())) continue;  // predicts the token after the window
        const LogitRow row = scan_logits(x + i * vocab, vocab);
        require_finite(row, int64_t(begin) + at, "model");
        visit(done + size_t(at), row, ids[size_t(at + 1)]);
      }
    });
    done += ids.size() - 1;
  }
}

namespace bundle_detail {

static_assert(std::endian::native == std::endian::little, "the file is written as memory is");

struct Header {
  char magic[8];
  uint32_t version, vocab, json_bytes, zero;
  uint64_t window, tokens, entries;
};
static_assert(sizeof(Header) == 48);
inline constexpr char kMagic[8] = {'p', 't', 'q', 'b', 'u', 'n', 'd', 'l'};
inline constexpr uint32_t kVersion = 1, kLongestJson = 65536;

// What of a row cannot be; empty when it can.
inline std::string row_problem(const BundleRow& row, int64_t vocab, int32_t target) {
  std::vector<uint32_t> ids;
  double sum = 0, before = 0;
  for (const BundleEntry& entry : row.top) {
    if (entry.id() >= uint64_t(vocab))
      return "token " + std::to_string(entry.id()) + " is outside the vocabulary";
    if (entry.log_p() > before) return "its probabilities do not fall";
    before = entry.log_p();
    ids.push_back(entry.id());
    sum += std::exp(entry.log_p());
  }
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) return "a token stands in it twice";
  const double mass = double(row.head.tail_mass), entropy = double(row.head.tail_entropy);
  if (!(mass >= 0) || !(std::abs(sum + mass - 1) <= 1e-5)) return "its probabilities are not 1";
  const double most = mass > 0 ? mass * (std::log(double(vocab)) - std::log(mass)) : 0;
  if (!(entropy >= 0) || !(entropy <= most * 1.0001 + 1e-30)) return "its entropy cannot be";
  const double nll = double(row.head.nll);
  if (!(nll >= 0) || !std::isfinite(nll)) return "its loss is no loss";
  for (const BundleEntry& entry : row.top) {
    if (entry.id() == uint32_t(target) && std::abs(entry.log_p() + nll) > kBundleStep + 1e-5 * nll)
      return "its loss is not that of the token that follows";
  }
  return {};
}

inline bool counts_fit(const Bundle& bundle) {
  uint64_t sum = 0;
  for (const BundleHead& head : bundle.heads) {
    if (head.entries == 0 || head.entries > kBundleMost) return false;
    sum += head.entries;
  }
  return sum == bundle.entries.size();
}

template <class T>
void append(std::string& bytes, const std::vector<T>& values) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}
// `count` values from the front of the bytes, which hold them.
template <class T>
std::vector<T> take(std::string_view& bytes, uint64_t count) {
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), count * sizeof(T));
  bytes.remove_prefix(count * sizeof(T));
  return values;
}

}  // namespace bundle_detail

inline std::string bundle_bytes(const Bundle& bundle) {
  using namespace bundle_detail;
  const std::string about = json_text(bundle.about);
  if (about.size() > kLongestJson || bundle.window < 2 || !counts_fit(bundle) ||
      bundle.heads.size() != bundle_rows(bundle.tokens.size(), uint64_t(bundle.window))) {
    throw Error(ExitCode::internal, "the reference bundle does not fit together");
  }
  Header header{{},
                kVersion,
                uint32_t(bundle.vocab),
                uint32_t(about.size()),
                0,
                uint64_t(bundle.window),
                bundle.tokens.size(),
                bundle.entries.size()};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  bytes += about;
  append(bytes, bundle.tokens);
  append(bytes, bundle.heads);
  append(bytes, bundle.entries);
  return bytes;
}

// `where`: the name of the file, for the message. Errors: everything that is not such a file as a
// whole; lengths are checked before anything is allocated, ids and probabilities before anything is
// computed.
inline Bundle parse_bundle(std::string_view bytes, const std::string& where) {
  using namespace bundle_detail;
  const auto refuse = [&](const std::string& why) {
    return environment_error("this is no reference bundle: " + why, where,
                             "it is damaged, cut, or written by another version of ptq");
  };
  Header header;
  if (bytes.size() < sizeof header) throw refuse("it is shorter than the header");
  std::memcpy(&header, bytes.data(), sizeof header);
  bytes.remove_prefix(sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
    throw refuse("it does not begin with `ptqbundl`");
  if (header.version != kVersion || header.zero != 0)
    throw refuse("its version is " + std::to_string(header.version) + ", known is 1");
  if (header.vocab == 0 || header.vocab > kMost24)
    throw refuse("its vocabulary has " + std::to_string(header.vocab) + " tokens");
  if (header.json_bytes > kLongestJson || header.json_bytes > bytes.size())
    throw refuse("its description is longer than it can be");
  const std::string_view about = bytes.substr(0, header.json_bytes);
  bytes.remove_prefix(header.json_bytes);
  if (header.window < 2 || header.window > uint64_t{1} << 32)
    throw refuse("its windows have " + std::to_string(header.window) + " tokens");
  const bool small = header.tokens <= bytes.size() / sizeof(int32_t) &&
                     header.entries <= bytes.size() / sizeof(BundleEntry);
  const uint64_t rows = small ? bundle_rows(header.tokens, header.window) : 0;
  if (!small || header.tokens * sizeof(int32_t) + rows * sizeof(BundleHead) +
                        header.entries * sizeof(BundleEntry) !=
                    bytes.size()) {
    throw refuse(std::to_string(bytes.size()) + " bytes follow the description, but it announces " +
                 std::to_string(header.tokens) + " tokens in windows of " +
                 std::to_string(header.window) + " and " + std::to_string(header.entries) +
                 " entries");
  }

  Bundle bundle;
  try {
    bundle.about = parse_json(about, where);
  } catch (const Error&) {  // its message may cut a character
    throw refuse("its description is not JSON");
  }
  if (!bundle.about.is_object()) throw refuse("its description is no object");
  bundle.vocab = header.vocab;
  bundle.window = int64_t(header.window);
  bundle.tokens = take<int32_t>(bytes, header.tokens);
  bundle.heads = take<BundleHead>(bytes, rows);
  bundle.entries = take<BundleEntry>(bytes, header.entries);
  if (!counts_fit(bundle)) throw refuse("its rows do not hold its entries");
  for (const int32_t id : bundle.tokens)
    if (id < 0 || id >= bundle.vocab)
      throw refuse("token " + std::to_string(id) + " is outside its vocabulary");
  bundle.for_each([&](size_t r, const BundleRow& row) {
    const size_t rows_of_window = size_t(bundle.window - 1);
    const size_t at = r / rows_of_window * size_t(bundle.window) + r % rows_of_window;
    const std::string problem = row_problem(row, bundle.vocab, bundle.tokens[at + 1]);
    if (!problem.empty()) throw refuse("row " + std::to_string(r) + ": " + problem);
  });
  return bundle;
}

inline Bundle read_bundle(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_bundle(file.text(), path.string());
}

}  // namespace ptq::eval
