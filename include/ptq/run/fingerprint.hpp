// What decides a result, as short texts: two cells with equal ids may share one result, and a
// change of anything that matters gives another id.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/model/weight_files.hpp"

namespace ptq {

// The hash of a weight file, of every byte of it, and whether it was kept from an earlier run.
struct WeightHash {
  std::string hex;
  bool kept = false;
};

namespace fingerprint_detail {

// Smaller files are hashed in one piece and never kept: it takes no time.
constexpr uint64_t kPiece = uint64_t{64} << 20;

// Size, times in nanoseconds, inode and device: a file that was changed in place, restored with its
// old time or replaced differs in one of them. Nothing for files that changed so recently that the
// clock of the file system could not tell a further change.
inline std::optional<std::string> file_state(const std::filesystem::path& path,
                                             int64_t settled_ns) {
  struct stat s;
  if (::stat(path.c_str(), &s) != 0) return {};
  const auto ns = [](const timespec& t) { return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec; };
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (ns(now) - std::max(ns(s.st_mtim), ns(s.st_ctim)) < settled_ns) return {};
  std::string text;
  for (const int64_t x :
       {int64_t(s.st_size), ns(s.st_mtim), ns(s.st_ctim), int64_t(s.st_ino), int64_t(s.st_dev)}) {
    text += std::to_string(x) + " ";
  }
  return text;
}

// Where the hash of a file is kept: below the user's cache folder, nowhere without one.
inline std::filesystem::path kept_hash_file(const std::filesystem::path& path) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path folder;
  if (cache != nullptr && cache[0] == '/') {
    folder = cache;
  } else if (home != nullptr && home[0] == '/') {
    folder = std::filesystem::path(home) / ".cache";
  } else {
    return {};
  }
  std::error_code ignored;
  const std::filesystem::path real = std::filesystem::canonical(path, ignored);
  if (real.empty()) return {};
  return folder / "ptq" / "hashes" / sha256_hex(real.string());
}

// The hash of bytes [begin, end). Read, not mapped: a file that another process shortens meanwhile
// is an error here, where a mapping would end the host. Errors: it cannot be read that far.
inline std::string hash_of_range(int file, uint64_t begin, uint64_t end,
                                 const std::filesystem::path& path) {
  std::vector<char> buffer(size_t{1} << 20);
  Sha256 hash;
  while (begin < end) {
    const size_t wanted = size_t(std::min<uint64_t>(buffer.size(), end - begin));
    const ssize_t n =
        uninterrupted([&] { return ::pread(file, buffer.data(), wanted, off_t(begin)); });
    if (n < 0) throw file_error("cannot read the file", path, errno);
    if (n == 0)
      throw environment_error("the file became shorter while it was read", path.string(),
                              "wait until the download or copy has finished");
    hash.update({buffer.data(), size_t(n)});
    begin += uint64_t(n);
  }
  return hash.hex();
}

// SHA-256 over the hashes of pieces, which several threads compute.
inline std::string hash_in_pieces(int file, uint64_t size, const std::filesystem::path& path) {
  std::vector<std::string> pieces((size + kPiece - 1) / kPiece);
  ThreadPool pool;
  pool.for_each(int64_t(pieces.size()), [&](int64_t i) {
    const uint64_t begin = uint64_t(i) * kPiece;
    pieces[size_t(i)] = hash_of_range(file, begin, std::min(begin + kPiece, size), path);
  });
  Sha256 hash;
  hash.update(std::to_string(size));
  for (const std::string& piece : pieces) hash.update(" " + piece);
  return hash.hex();
}

}  // namespace fingerprint_detail

// Every byte counts. A large file whose state is that of an earlier run is not read again.
inline WeightHash hash_weight_file(const std::filesystem::path& path,
                                   int64_t settled_ns = 2'000'000'000) {
  using namespace fingerprint_detail;
  const int file =
      uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (file < 0) throw file_error("cannot open the file", path, errno);
  const std::unique_ptr<const int, void (*)(const int*)> closing(
      &file, [](const int* fd) { ::close(*fd); });
  struct stat info;
  if (::fstat(file, &info) != 0) throw file_error("cannot inspect the file", path, errno);
  const uint64_t size = uint64_t(info.st_size);
  if (size < kPiece) return {hash_of_range(file, 0, size, path), false};
  const std::filesystem::path kept = kept_hash_file(path);
  const auto state = kept.empty() ? std::nullopt : file_state(path, settled_ns);
  constexpr size_t kHexDigits = 64;
  if (state) {
    std::ifstream in(kept);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (text.size() == state->size() + kHexDigits && text.starts_with(*state)) {
      return {text.substr(state->size()), true};
    }
  }
  const std::string hex = hash_in_pieces(file, size, path);
  if (state && file_state(path, settled_ns) == state) {
    try {  // to keep it is a convenience: a cache folder that cannot be written loses nothing
      std::filesystem::create_directories(kept.parent_path());
      write_file_atomic(kept, *state + hex);
    } catch (const std::exception&) {
    }
  }
  return {hex, false};
}

struct ModelFingerprint {
  std::string hex;
  std::string made_of;  // what of the weights entered, for the record
};

// SHA-256 over configuration, tokenizer and weights, independent of where the model lies. Random
// weights enter by their seed.
inline ModelFingerprint model_fingerprint(const std::filesystem::path& model,
                                          std::optional<uint64_t> random_seed = {}) {
  Sha256 hash;
  // Beside a GGUF file, which is configuration and weights, there may be a tokenizer.
  const bool gguf = is_gguf(model);
  const std::filesystem::path folder = gguf ? absolute(model).parent_path() : model;
  for (const char* name : {"config.json", "tokenizer.json"}) {
    if (gguf && name == std::string_view("config.json")) continue;
    std::error_code ignored;
    const bool exists = std::filesystem::exists(folder / name, ignored);
    hash.update(std::string(name) + " " + (exists ? sha256_file(folder / name) : "absent") + "\n");
  }
  if (random_seed) {
    hash.update("random weights 1, seed " + std::to_string(*random_seed) + "\n");
    return {hash.hex(), "the seed of random weights"};
  }
  bool kept = false;
  const auto add = [&](const std::string& name, const std::filesystem::path& path) {
    const WeightHash file = hash_weight_file(path);
    kept = kept || file.kept;
    hash.update(name + " " + file.hex + "\n");
  };
  if (gguf) {
    add("gguf", model);
  } else {
    for (const std::string& name : weight_file_names(folder)) add(name, folder / name);
  }
  return {hash.hex(), kept
                          ? "every byte of the weights, as hashed before: size, times and inode of "
                            "the files are unchanged"
                          : "every byte of the weights"};
}

// The first 16 hex digits of the SHA-256 of the canonical JSON: keys sorted, no spaces.
inline std::string cell_id(const Json& identity) {
  const nlohmann::json sorted = nlohmann::json::parse(identity.dump());
  return sha256_hex(sorted.dump()).substr(0, 16);
}

}  // namespace ptq
