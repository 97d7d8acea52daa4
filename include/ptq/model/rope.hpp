// Frequencies of the rotary embedding (arXiv 2104.09864) and how they are scaled for longer
// contexts: formulas and order of operations of Hugging Face transformers 5.24,
// modeling_rope_utils.py. A scaling that is not implemented is refused and never left out: every
// position of the model would be another one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"

namespace ptq {

struct RopeScaling {
  enum class Type {
    linear,   // all frequencies are divided by factor
    llama3,   // low frequencies are divided by factor, high ones kept, between them interpolated
    yarn,     // the same over a ramp of channels, and cos and sin are multiplied (arXiv 2309.00071)
    divisors  // each frequency is divided by its own number, as GGUF files have it
  };
  Type type = Type::linear;
  double factor = 1;
  int64_t original_max_position_embeddings = 0;  // llama3, yarn: context before scaling, tokens
  double low_freq_factor = 1;   // llama3: wavelengths above original / this are divided
  double high_freq_factor = 4;  // llama3: wavelengths below original / this stay as they are
  double beta_fast = 32;        // yarn: channels with more turns in the original context stay
  double beta_slow = 1;         // yarn: channels with fewer are divided
  bool truncate = true;         // yarn: the ramp begins and ends at whole channels
  double attention_factor = 1;  // yarn: on cos and sin
  std::vector<float> divisors;  // divisors: [head_dim / 2]

  bool operator==(const RopeScaling&) const = default;
};

// What the rotary angles and their cosines and sines are made of.
struct Rope {
  std::vector<float> inv_freq;  // [head_dim / 2], radians per position
  float attention_factor = 1;   // on cos and sin
};

namespace rope_detail {

// The numbers are used in fp32, where they must still be finite and above 0.
inline double read_positive(const JsonValue& value) {
  const double x = value.as_number();
  const float used = static_cast<float>(x);
  if (!(used > 0) || !std::isfinite(used)) {
    throw value.error("a finite number above 0 is expected");
  }
  return x;
}
inline double positive_or(const JsonValue& node, const char* key, double otherwise) {
  const auto value = node.find(key);
  return value ? read_positive(*value) : otherwise;
}

// The factor on cos and sin where the file gives none; mscale of DeepSeek.
inline double yarn_attention_factor(double factor, double mscale, double mscale_all_dim) {
  const auto of = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; };
  return mscale > 0 && mscale_all_dim > 0 ? of(mscale) / of(mscale_all_dim) : of(1);
}

inline void read_yarn(const JsonValue& node, RopeScaling& s) {
  s.beta_fast = positive_or(node, "beta_fast", s.beta_fast);
  s.beta_slow = positive_or(node, "beta_slow", s.beta_slow);
  if (const auto truncate = node.find("truncate")) s.truncate = truncate->as_bool();
  s.attention_factor = positive_or(node, "attention_factor",
                                   yarn_attention_factor(s.factor, positive_or(node, "mscale", 0),
                                                         positive_or(node, "mscale_all_dim", 0)));
}

inline void scale_llama3(const RopeScaling& s, std::vector<float>& inv_freq) {
  const float factor = static_cast<float>(s.factor);
  const float low = static_cast<float>(s.low_freq_factor);
  const float high = static_cast<float>(s.high_freq_factor);
  const float original = static_cast<float>(s.original_max_position_embeddings);
  constexpr float kTwoPi = 2 * std::numbers::pi_v<float>;
  for (float& f : inv_freq) {
    const float wavelength = kTwoPi / f;  // positions per turn
    if (wavelength > original / low) {
      f /= factor;
    } else if (!(wavelength < original / high)) {
      const float smooth = (original / wavelength - low) / (high - low);
      f = (1.0f - smooth) * f / factor + smooth * f;
    }
  }
}

inline void scale_yarn(const RopeScaling& s, double theta, int64_t dim,
                       std::vector<float>& inv_freq) {
  const double original = double(s.original_max_position_embeddings);
  // The channel pair that makes this number of turns within the original context.
  const auto channel = [&](double turns) {
    return double(dim) * std::log(original / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double low = channel(s.beta_fast), high = channel(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, double(dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float ramp = std::clamp((float(i) - float(low)) / float(high - low), 0.0f, 1.0f);
    const float kept = 1.0f - ramp;
    const float turn = std::pow(float(theta), float(2 * i) / float(dim));
    inv_freq[i] = 1.0f / (float(s.factor) * turn) * (1.0f - kept) + 1.0f / turn * kept;
  }
}

}  // namespace rope_detail

// The scaling that an object `rope_scaling` (4.x) or `rope_parameters` (5.x) describes; nothing
// where the frequencies stay as they are. `max_positions`, `original`: of the configuration around
// it, the second only where it says so.
inline std::optional<RopeScaling> read_rope_scaling(const JsonValue& node, int64_t max_positions,
                                                    std::optional<int64_t> original) {
  using namespace rope_detail;
  auto type = node.find("rope_type");
  const auto old_type = node.find("type");  // the spelling before 4.43
  if (type && old_type && type->as_string() != old_type->as_string()) {
    throw old_type->error("`type` and `rope_type` contradict each other");
  }
  if (!type) type = old_type;
  if (!type) {
    node.for_each_member([](std::string_view, const JsonValue& value) {
      if (value.is_object())
        throw value.error("rotary settings of single layers are not supported");
    });
    if (node.find("factor")) throw node.error("has a `factor`, but the key `rope_type` is missing");
    return {};
  }
  const std::string name(type->as_string());
  if (name == "default") return {};
  RopeScaling s;
  if (name == "linear" || name == "dynamic") {
    s.factor = read_positive(node.get("factor"));
    // Dynamic scaling begins behind max_position_embeddings, and no context is longer than that.
    if (name == "dynamic") return {};
    return s;
  }
  if (name != "llama3" && name != "yarn") {
    throw type->error("the rotary scaling " + shown(name) + " is not supported",
                      "supported: default, linear, dynamic, llama3, yarn");
  }
  if (const auto own = node.find("original_max_position_embeddings"); own && !original) {
    original = own->as_integer(1, int64_t{1} << 30);
  }
  s.original_max_position_embeddings = original.value_or(max_positions);
  if (name == "llama3") {
    s.type = RopeScaling::Type::llama3;
    s.factor = read_positive(node.get("factor"));
    s.low_freq_factor = read_positive(node.get("low_freq_factor"));
    s.high_freq_factor = read_positive(node.get("high_freq_factor"));
  } else {
    s.type = RopeScaling::Type::yarn;
    const bool ratio = node.contains("factor") && !node.find("factor");  // null
    s.factor = ratio ? double(max_positions) / double(s.original_max_position_embeddings)
                     : read_positive(node.get("factor"));
    read_yarn(node, s);
  }
  return s;
}

// Computed in fp32 in the order of the reference, because cos and sin of large positions depend on
// the last bit.
inline Rope make_rope(double theta, int64_t head_dim, const std::optional<RopeScaling>& scaling) {
  const float base = static_cast<float>(theta), dim = static_cast<float>(head_dim);
  Rope rope;
  rope.inv_freq.resize(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    rope.inv_freq[i] = 1.0f / std::pow(base, static_cast<float>(2 * i) / dim);
  }
  if (!scaling) return rope;
  rope.attention_factor = static_cast<float>(scaling->attention_factor);
  switch (scaling->type) {
    case RopeScaling::Type::linear:
      for (float& f : rope.inv_freq) f /= static_cast<float>(scaling->factor);
      break;
    case RopeScaling::Type::llama3: rope_detail::scale_llama3(*scaling, rope.inv_freq); break;
    case RopeScaling::Type::yarn:
      rope_detail::scale_yarn(*scaling, theta, head_dim, rope.inv_freq);
      break;
    case RopeScaling::Type::divisors:
      for (size_t i = 0; i < rope.inv_freq.size(); ++i) rope.inv_freq[i] /= scaling->divisors[i];
      break;
  }
  return rope;
}

}  // namespace ptq
