// The file of a reference bundle (eval/bundle.hpp), and running a model over its tokens.
//
//   8 bytes   "ptqbundl"
//   uint32    version, 1
//   uint32    likeliest tokens of a row, 64
//   uint32    vocabulary V
//   uint32    bytes of the JSON object J
//   uint64    tokens of a window W
//   uint64    tokens N
//   J         JSON: what the reference is, for people and for checks
//   N x 4     int32 token ids: the text, windows of W end to end, the last may be shorter
//   R x 396   PackedRow: a row for every token of a window but the last, which predicts nothing
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

struct Bundle {
  Json about = Json::object();
  int64_t vocab = 0, window = 0;  // tokens of a window, at least 2
  std::vector<int32_t> tokens;
  std::vector<PackedRow> rows;
};

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
  uint32_t version, top, vocab, json_bytes;
  uint64_t window, tokens;
};
static_assert(sizeof(Header) == 40);
inline constexpr char kMagic[8] = {'p', 't', 'q', 'b', 'u', 'n', 'd', 'l'};
inline constexpr uint32_t kVersion = 1, kLongestJson = 65536;

// What of a row cannot be; empty when it can.
inline std::string row_problem(const PackedRow& packed, int64_t vocab, int32_t target) {
  std::array<uint32_t, kBundleTop> ids;
  int top = 0;
  double sum = 0;
  for (int i = 0; i < kBundleTop; ++i) {
    const uint32_t id = get24(packed.ids[i]), code = get24(packed.codes[i]);
    if (i > 0 && code < get24(packed.codes[i - 1])) return "its probabilities do not fall";
    if (id == kNoToken) continue;
    if (top < i) return "a place behind an empty one is used";
    if (id >= uint64_t(vocab)) return "token " + std::to_string(id) + " is outside the vocabulary";
    ids[size_t(top++)] = id;
    sum += std::exp(-double(code) * kBundleStep);
  }
  std::sort(ids.begin(), ids.begin() + top);
  if (std::adjacent_find(ids.begin(), ids.begin() + top) != ids.begin() + top)
    return "a token stands in it twice";
  const double mass = double(packed.tail_mass), entropy = double(packed.tail_entropy);
  if (!(mass >= 0) || !(std::abs(sum + mass - 1) <= 1e-5)) return "its probabilities are not 1";
  const double most = mass > 0 ? mass * (std::log(double(vocab)) - std::log(mass)) : 0;
  if (!(entropy >= 0) || !(entropy <= most * 1.00001 + 1e-30)) return "its entropy cannot be";
  if (!(packed.nll >= 0) || !std::isfinite(packed.nll)) return "its loss is no loss";
  for (int i = 0; i < top; ++i) {
    if (get24(packed.ids[i]) != uint32_t(target)) continue;
    const double own = double(get24(packed.codes[i])) * kBundleStep;
    if (std::abs(own - double(packed.nll)) > kBundleStep + 1e-5 * own)
      return "its loss is not that of the token that follows";
  }
  return {};
}

}  // namespace bundle_detail

inline std::string bundle_bytes(const Bundle& bundle) {
  using namespace bundle_detail;
  const std::string about = json_text(bundle.about);
  if (about.size() > kLongestJson || bundle.window < 2 ||
      bundle.rows.size() != bundle_rows(bundle.tokens.size(), uint64_t(bundle.window))) {
    throw Error(ExitCode::internal, "the reference bundle does not fit together");
  }
  Header header{{},
                kVersion,
                kBundleTop,
                uint32_t(bundle.vocab),
                uint32_t(about.size()),
                uint64_t(bundle.window),
                bundle.tokens.size()};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  bytes += about;
  bytes.append(reinterpret_cast<const char*>(bundle.tokens.data()),
               bundle.tokens.size() * sizeof(int32_t));
  bytes.append(reinterpret_cast<const char*>(bundle.rows.data()),
               bundle.rows.size() * sizeof(PackedRow));
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
  if (header.version != kVersion || header.top != kBundleTop)
    throw refuse("its version is " + std::to_string(header.version) + " with " +
                 std::to_string(header.top) + " tokens a row, known is 1 with 64");
  if (header.vocab == 0 || header.vocab >= kNoToken)
    throw refuse("its vocabulary has " + std::to_string(header.vocab) + " tokens");
  if (header.json_bytes > kLongestJson || header.json_bytes > bytes.size())
    throw refuse("its description is longer than it can be");
  const std::string_view about = bytes.substr(0, header.json_bytes);
  bytes.remove_prefix(header.json_bytes);
  if (header.window < 2 || header.window > uint64_t{1} << 32)
    throw refuse("its windows have " + std::to_string(header.window) + " tokens");
  const bool fits = header.tokens <= bytes.size() / sizeof(int32_t) &&
                    header.tokens * sizeof(int32_t) +
                            bundle_rows(header.tokens, header.window) * sizeof(PackedRow) ==
                        bytes.size();
  if (!fits)
    throw refuse(std::to_string(bytes.size()) + " bytes follow the description, but it announces " +
                 std::to_string(header.tokens) + " tokens in windows of " +
                 std::to_string(header.window));

  Bundle bundle;
  try {
    bundle.about = parse_json(about, where);
  } catch (const Error&) {  // its message may cut a character
    throw refuse("its description is not JSON");
  }
  if (!bundle.about.is_object()) throw refuse("its description is no object");
  bundle.vocab = header.vocab;
  bundle.window = int64_t(header.window);
  bundle.tokens.resize(header.tokens);
  bundle.rows.resize(bundle_rows(header.tokens, header.window));
  const size_t ids = bundle.tokens.size() * sizeof(int32_t);
  if (ids > 0) std::memcpy(bundle.tokens.data(), bytes.data(), ids);
  if (!bundle.rows.empty()) std::memcpy(bundle.rows.data(), bytes.data() + ids, bytes.size() - ids);
  for (const int32_t id : bundle.tokens)
    if (id < 0 || id >= bundle.vocab)
      throw refuse("token " + std::to_string(id) + " is outside its vocabulary");
  for (size_t r = 0; r < bundle.rows.size(); ++r) {
    const size_t rows_of_window = size_t(bundle.window - 1);
    const size_t at = r / rows_of_window * size_t(bundle.window) + r % rows_of_window;
    const std::string problem = row_problem(bundle.rows[r], bundle.vocab, bundle.tokens[at + 1]);
    if (!problem.empty()) throw refuse("row " + std::to_string(r) + ": " + problem);
  }
  return bundle;
}

inline Bundle read_bundle(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_bundle(file.text(), path.string());
}

}  // namespace ptq::eval
