// Numbers that one process computes and others read, by name: in memory while they are collected,
// then in a file that is mapped.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq {

// Number: float or uint16_t. A name is a hash, 64 hex digits.
template <class Number>
class KeptNumbers {
 public:
  // To collect at most `limit` bytes of numbers.
  explicit KeptNumbers(uint64_t limit) : limit_(limit) {}
  // Those of a file; an Error names what is wrong with it.
  explicit KeptNumbers(const std::filesystem::path& file) : file_(file) { index(file.string()); }

  uint64_t limit() const { return limit_; }
  bool empty() const { return numbers_.empty(); }

  // Nothing where the name is not known. Valid as long as this object.
  std::optional<std::span<const Number>> find(const std::string& name) const {
    const auto found = numbers_.find(name);
    if (found == numbers_.end()) return {};
    return found->second;
  }

  // Takes the numbers of a name out of the memory of the process until they are asked for again;
  // what was found of them stays valid.
  void forget(const std::string& name) const {
    const auto numbers = find(name);
    if (!file_ || !numbers) return;
    const uintptr_t page = uintptr_t(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(numbers->data()) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(numbers->data() + numbers->size());
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

  // False where they would be more than the limit: then they are not kept.
  [[nodiscard]] bool keep(const std::string& name, std::vector<Number> numbers) {
    const uint64_t bytes = numbers.size() * sizeof(Number);
    if (bytes > limit_ - bytes_) return false;
    bytes_ += bytes;
    collected_.push_back(std::move(numbers));
    numbers_.emplace(name, collected_.back());
    return true;
  }

  // An entry: the name, count of numbers as uint64, the numbers.
  void write(const std::filesystem::path& file) const {
    std::ofstream out(file, std::ios::binary);
    for (const auto& [name, numbers] : numbers_) {
      const uint64_t count = numbers.size();
      out.write(name.data(), std::streamsize(name.size()));
      out.write(reinterpret_cast<const char*>(&count), sizeof count);
      out.write(reinterpret_cast<const char*>(numbers.data()),
                std::streamsize(count * sizeof(Number)));
    }
    if (!out.flush())
      throw Error(ExitCode::resources, "cannot write what is kept of the reference", file.string());
  }

 private:
  static constexpr size_t kNameBytes = 64, kHeadBytes = kNameBytes + sizeof(uint64_t);

  void index(const std::string& where) {
    for (size_t at = 0; at < file_->size();) {
      const size_t left = file_->size() - at;
      uint64_t count = UINT64_MAX;
      if (left >= kHeadBytes) std::memcpy(&count, file_->data() + at + kNameBytes, sizeof count);
      if (left < kHeadBytes || count > (left - kHeadBytes) / sizeof(Number))
        throw environment_error("the file of what is kept of the reference is cut short", where);
      numbers_.emplace(std::string(reinterpret_cast<const char*>(file_->data()) + at, kNameBytes),
                       std::span(reinterpret_cast<const Number*>(file_->data() + at + kHeadBytes),
                                 size_t(count)));
      at += kHeadBytes + size_t(count) * sizeof(Number);
    }
  }

  uint64_t limit_ = 0, bytes_ = 0;
  std::optional<MappedFile> file_;
  std::vector<std::vector<Number>> collected_;  // what numbers_ points into while there is no file
  std::unordered_map<std::string, std::span<const Number>> numbers_;
};

}  // namespace ptq
