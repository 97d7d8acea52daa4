// CPython's `random`: the same seed gives the same integers, so that prompts of a Python study can
// be repeated exactly.
//
// Sources: M. Matsumoto and T. Nishimura, mt19937ar.c (generator, init_by_array);
// python/cpython Modules/_randommodule.c (random.seed, getrandbits) and Lib/random.py
// (randrange, _randbelow_with_getrandbits).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ptq {

class PythonRandom {
 public:
  // random.seed(seed): the seed's 32-bit words, lowest first, are the key of init_by_array.
  explicit PythonRandom(uint64_t seed) {
    std::vector<uint32_t> key = {uint32_t(seed)};
    if (seed >> 32) key.push_back(uint32_t(seed >> 32));
    init_by_array(key);
  }

  // The seed with these 32-bit words, lowest first; not empty, the last one not 0.
  explicit PythonRandom(const std::vector<uint32_t>& key) { init_by_array(key); }

  // The next raw output.
  uint32_t next() {
    if (index_ == kWords) refill();
    uint32_t y = state_[index_++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
  }

  // random.getrandbits(bits), 1 <= bits <= 64: whole words lowest first, the last one shifted.
  uint64_t bits(int bits) {
    if (bits <= 32) return next() >> (32 - bits);
    const uint64_t low = next();
    return low | uint64_t(next() >> (64 - bits)) << 32;
  }

  // random.randint(low, high), both ends included, low <= high: numbers of the width of the count
  // are drawn until one is below it.
  int64_t randint(int64_t low, int64_t high) {
    const uint64_t count = uint64_t(high) - uint64_t(low) + 1;  // 0 stands for 2^64
    if (count == 0) return int64_t(bits(64));
    const int width = int(std::bit_width(count));
    uint64_t r = bits(width);
    while (r >= count) r = bits(width);
    return int64_t(uint64_t(low) + r);
  }

 private:
  static constexpr size_t kWords = 624, kShift = 397;

  void init_by_array(const std::vector<uint32_t>& key) {
    state_[0] = 19650218u;
    for (size_t i = 1; i < kWords; ++i) {
      state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + uint32_t(i);
    }
    size_t i = 1, j = 0;
    const auto advance = [&] {
      if (++i == kWords) {
        state_[0] = state_[kWords - 1];
        i = 1;
      }
    };
    for (size_t k = 0; k < kWords; ++k) {  // keys are shorter than the state
      const uint32_t mixed = (state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u;
      state_[i] = (state_[i] ^ mixed) + key[j] + uint32_t(j);
      advance();
      j = (j + 1) % key.size();
    }
    for (size_t k = 0; k < kWords - 1; ++k) {
      const uint32_t mixed = (state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u;
      state_[i] = (state_[i] ^ mixed) - uint32_t(i);
      advance();
    }
    state_[0] = 0x80000000u;
    index_ = kWords;
  }

  void refill() {
    for (size_t i = 0; i < kWords; ++i) {
      const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7FFFFFFFu);
      state_[i] = state_[(i + kShift) % kWords] ^ (y >> 1) ^ ((y & 1u) ? 0x9908B0DFu : 0u);
    }
    index_ = 0;
  }

  std::array<uint32_t, kWords> state_;
  size_t index_;
};

}  // namespace ptq
