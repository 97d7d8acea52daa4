// Texts for the fake engine of test/support, and the logits that it gives.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "test/support/fake_engine.hpp"

namespace ptq::test {

// The logits of the fake engine that follow text[begin .. i], read with this share.
inline std::vector<float> fake_row(const std::string& text, int64_t begin, int64_t i, double share,
                                   double noise) {
  std::vector<int32_t> history;
  for (int64_t k = begin; k <= i; ++k) history.push_back(uint8_t(text[size_t(k)]));
  std::vector<float> row;
  for (int v = 0; v < 256; ++v) row.push_back(FakeEngine::hash_logit(history, v, share, noise));
  return row;
}

inline std::string some_text(int length) {
  std::string text;
  for (int i = 0; i < length; ++i) text += char('a' + (i * i + i / 7) % 26);
  return text;
}

}  // namespace ptq::test
