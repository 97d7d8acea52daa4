// Byte pair encoding of one word: merge the adjacent pair with the lowest rank, leftmost first,
// until no pair of neighbours is in the merge table.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ptq/model/unicode.hpp"

namespace ptq {

// Hash for maps that are searched with a string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using TokenMap = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

// (left id, right id) -> (rank, id of the merged token). Open addressing with linear probing, at
// most half full; several times faster than std::unordered_map for 280,000 merges.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };

  MergeTable() = default;
  explicit MergeTable(size_t count) {
    size_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    slots_.resize(slots, {kEmpty, {}});
  }

  // False if the pair has a rank already.
  bool insert(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[position(key_of(left, right))];
    if (slot.key != kEmpty) return false;
    slot = {key_of(left, right), merge};
    return true;
  }

  const Merge* find(int32_t left, int32_t right) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[position(key_of(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.merge;
  }

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are not negative

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  size_t position(uint64_t key) const {
    size_t i = (key * 0x9E3779B97F4A7C15u >> 32) & (slots_.size() - 1);
    while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  std::vector<Slot> slots_;
};

// Ids of words met before. Bounded: a full shard starts over. Safe to share between threads.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 64;  // bytes

  bool find(std::string_view word, std::vector<int32_t>& out) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    const auto found = shard.ids.find(word);
    if (found == shard.ids.end()) return false;
    out.insert(out.end(), found->second.begin(), found->second.end());
    return true;
  }

  void insert(std::string_view word, const int32_t* begin, const int32_t* end) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    if (shard.ids.size() >= kWordsPerShard) shard.ids.clear();
    shard.ids.try_emplace(std::string(word), begin, end);
  }

 private:
  static constexpr size_t kShards = 16, kWordsPerShard = 4096;
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, StringHash, std::equal_to<>> ids;
  };
  Shard& shard_of(std::string_view word) {
    return shards_[StringHash{}(word) >> 7 & (kShards - 1)];
  }

  std::array<Shard, kShards> shards_;
};

// The model part of a tokenizer, in the two forms in use: symbols are single bytes (GPT-2 style) or
// characters with a fallback to byte tokens (SentencePiece style).
struct BpeModel {
  TokenMap vocab;  // spelling -> id; the spelling is raw bytes if `byte_level`
  MergeTable merges;
  bool byte_level = false;
  bool ignore_merges = false;           // a word that is a token needs no merges
  bool fuse_unk = false;                // neighbouring unknown characters become one unknown token
  int32_t unk_id = -1;                  // -1: none
  std::array<int32_t, 256> byte_ids{};  // token of each byte; -1: none
  bool byte_fallback = false;           // characters without a token become byte tokens

  // Appends the ids of one word.
  void encode(std::string_view word, std::vector<int32_t>& out) const {
    if (ignore_merges) {
      if (const auto whole = vocab.find(word); whole != vocab.end()) {
        out.push_back(whole->second);
        return;
      }
    }
    std::vector<int32_t> symbols;
    if (byte_level) {
      symbols = byte_symbols(word);
    } else {
      symbols = character_symbols(word);
    }
    merge(symbols, out);
  }

 private:
  // A byte without a token is unknown or, without an unknown token, lost: so does the reference.
  std::vector<int32_t> byte_symbols(std::string_view word) const {
    std::vector<int32_t> symbols;
    symbols.reserve(word.size());
    bool after_unknown = false;
    for (const char c : word) {
      const int32_t id = byte_ids[static_cast<uint8_t>(c)];
      if (id >= 0) {
        symbols.push_back(id);
      } else if (unk_id >= 0 && !(fuse_unk && after_unknown)) {
        symbols.push_back(unk_id);
      }
      after_unknown = id < 0;
    }
    return symbols;
  }

  std::vector<int32_t> character_symbols(std::string_view word) const {
    std::vector<int32_t> symbols;
    bool pending_unk = false;
    for (size_t i = 0; i < word.size();) {
      const size_t begin = i;
      next_code_point(word, i);
      const std::string_view character = word.substr(begin, i - begin);
      if (const auto known = vocab.find(character); known != vocab.end()) {
        if (std::exchange(pending_unk, false)) symbols.push_back(unk_id);
        symbols.push_back(known->second);
        continue;
      }
      const auto has_token = [&](char c) { return byte_ids[static_cast<uint8_t>(c)] >= 0; };
      if (byte_fallback && std::all_of(character.begin(), character.end(), has_token)) {
        // An unknown token that is pending stays so, as in the reference.
        for (const char c : character) symbols.push_back(byte_ids[static_cast<uint8_t>(c)]);
        continue;
      }
      if (pending_unk && !fuse_unk) symbols.push_back(unk_id);
      pending_unk = true;
    }
    if (pending_unk) symbols.push_back(unk_id);
    return symbols;
  }

  // O(n log n): candidates in a heap, symbols in a linked list. A candidate whose symbols have
  // changed since it was pushed is recognised by its ids and dropped.
  void merge(const std::vector<int32_t>& symbols, std::vector<int32_t>& out) const {
    constexpr uint32_t kNone = ~0u;
    struct Symbol {
      int32_t id;  // -1: merged into the symbol before it
      uint32_t previous, next;
    };
    struct Candidate {
      uint32_t rank, position;  // order: lowest rank first, then leftmost
      int32_t left, right, merged;
      bool operator<(const Candidate& other) const {
        return std::tie(rank, position) > std::tie(other.rank, other.position);
      }
    };
    const uint32_t n = static_cast<uint32_t>(symbols.size());
    std::vector<Symbol> list(n);
    std::vector<Candidate> heap;
    const auto add_candidate = [&](uint32_t i) {
      const Symbol& left = list[i];
      if (left.next == kNone) return false;
      const int32_t right = list[left.next].id;
      const MergeTable::Merge* merge = merges.find(left.id, right);
      if (merge == nullptr) return false;
      heap.push_back({merge->rank, i, left.id, right, merge->id});
      return true;
    };
    for (uint32_t i = 0; i < n; ++i) {
      list[i] = {symbols[i], i == 0 ? kNone : i - 1, i + 1 == n ? kNone : i + 1};
    }
    for (uint32_t i = 0; i < n; ++i) add_candidate(i);
    std::make_heap(heap.begin(), heap.end());
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end());
      const Candidate top = heap.back();
      heap.pop_back();
      Symbol& left = list[top.position];
      if (left.id != top.left || left.next == kNone || list[left.next].id != top.right) continue;
      Symbol& right = list[left.next];
      left.id = top.merged;
      right.id = -1;
      left.next = right.next;
      if (left.next != kNone) list[left.next].previous = top.position;
      if (left.previous != kNone && add_candidate(left.previous)) {
        std::push_heap(heap.begin(), heap.end());
      }
      if (add_candidate(top.position)) std::push_heap(heap.begin(), heap.end());
    }
    for (const Symbol& symbol : list) {
      if (symbol.id >= 0) out.push_back(symbol.id);
    }
  }
};

}  // namespace ptq
