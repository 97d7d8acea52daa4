// Weights that nobody trained, for memory and speed at full size where only config.json is there.
//
// A model of this kind has the shape, the bytes and roughly the statistics of a real one; what it
// says means nothing. Every number is a function of (seed, name of the tensor, position), so that
// the result depends neither on the number of threads nor on the order of the tensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/model/config.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq {

namespace random_detail {

// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;

inline uint64_t hash(uint64_t seed, std::string_view text) {
  uint64_t h = mix(seed + kStep);
  for (const char c : text) h = mix((h ^ static_cast<uint8_t>(c)) + kStep);
  return h;
}

// 65536 equally likely values of the normal distribution, ascending: the quantiles at
// (i + 1/2) / 65536. Largest 4.27.
inline const std::vector<float>& normal_quantiles() {
  static const std::vector<float> table = [] {
    constexpr int kHalf = 32768;
    std::vector<float> values(2 * kHalf);
    double x = 0;
    for (int i = 0; i < kHalf; ++i) {
      const double tail = 0.5 - (i + 0.5) / (2 * kHalf);
      for (int step = 0; step < 6; ++step) {  // Newton, from the neighbour
        const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
        x += (0.5 * std::erfc(x / std::sqrt(2.0)) - tail) / density;
      }
      values[static_cast<size_t>(kHalf + i)] = static_cast<float>(x);
      values[static_cast<size_t>(kHalf - 1 - i)] = static_cast<float>(-x);
    }
    return values;
  }();
  return table;
}

}  // namespace random_detail

// The tensors of one model in bfloat16, made when first asked for: 2 bytes per parameter.
//
//   matrices     normal, standard deviation 1 / sqrt(columns)
//   norms        normal around 1, deviation 0.1; one channel in 256 eight times as large
//   biases       normal, deviation 0.5
//   keys         one row in 32 of k_proj four times as large, bias included
//
// The last but one gives every layer's input outlier channels, the last gives keys outlier
// channels, as trained models have them (LLM.int8(), arXiv 2208.07339; KIVI, arXiv 2402.02750). A
// tied output head is the embedding. get() is not for several threads at once.
class RandomWeights {
 public:
  // threads 0 = all cores.
  explicit RandomWeights(uint64_t seed, int threads = 0) : seed_(seed), pool_(threads) {}

  uint64_t seed() const { return seed_; }

  const TensorInfo& get(const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) {
      if (found->second.info.shape != shape) {
        throw usage_error("random weights were made for another configuration",
                          name + ": " + shape_text(found->second.info.shape) + ", asked for " +
                              shape_text(shape));
      }
      return found->second.info;
    }
    Tensor& tensor = tensors_[name];
    uint64_t n = 1;
    for (const int64_t size : shape) n *= static_cast<uint64_t>(size);
    tensor.data.reset(
        new uint16_t[n]);  // not cleared: every page is written by the thread that fills it
    fill(name, shape, tensor.data.get(), static_cast<int64_t>(n));
    tensor.info = {name, DType::bf16, shape, reinterpret_cast<const uint8_t*>(tensor.data.get()),
                   2 * n};
    return tensor.info;
  }

 private:
  struct Tensor {
    TensorInfo info;
    std::unique_ptr<uint16_t[]> data;
  };

  void fill(const std::string& name, const std::vector<int64_t>& shape, uint16_t* out, int64_t n) {
    using namespace random_detail;
    const bool matrix = shape.size() == 2, bias = name.ends_with("bias"), norm = !matrix && !bias;
    const float scale = matrix ? 1.0f / std::sqrt(static_cast<float>(shape[1]))
                        : bias ? 0.5f
                               : 0.1f;
    const std::vector<float>& normal = normal_quantiles();
    std::vector<uint16_t> value(normal.size());
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] = float_to_bf16((norm ? 1.0f : 0.0f) + scale * normal[i]);
    }
    const uint64_t key = hash(seed_, name);
    constexpr int64_t kChunk = 1 << 16;  // numbers per task, a multiple of 4
    pool_.for_each((n + kChunk - 1) / kChunk, [&](int64_t task) {
      const int64_t begin = task * kChunk, end = std::min(begin + kChunk, n);
      int64_t i = begin;
      // 16 bits of a hash choose one of the 65536 values.
      for (; i + 4 <= end; i += 4) {
        const uint64_t h = mix(key + static_cast<uint64_t>(i / 4) * kStep);
        out[i] = value[h & 0xFFFF];
        out[i + 1] = value[h >> 16 & 0xFFFF];
        out[i + 2] = value[h >> 32 & 0xFFFF];
        out[i + 3] = value[h >> 48];
      }
      const uint64_t h = mix(key + static_cast<uint64_t>(i / 4) * kStep);
      for (int part = 0; i < end; ++i, ++part) out[i] = value[h >> (16 * part) & 0xFFFF];
    });

    const auto enlarge = [&](int64_t from, int64_t count, float factor) {
      for (int64_t i = from; i < from + count; ++i) {
        out[i] = float_to_bf16(factor * bf16_to_float(out[i]));
      }
    };
    if (norm) {
      for (const int64_t channel : outliers("channels", shape[0], 256)) enlarge(channel, 1, 8);
    } else if (name.find(".k_proj.") != std::string::npos) {
      const int64_t width = matrix ? shape[1] : 1;
      for (const int64_t row : outliers("keys", shape[0], 32)) enlarge(row * width, width, 4);
    }
  }

  // n / every positions below n, the same for all tensors of this width; at least one.
  std::vector<int64_t> outliers(std::string_view what, int64_t n, int64_t every) const {
    std::vector<int64_t> list;
    const uint64_t key = random_detail::hash(seed_, what);
    for (int64_t first = 0; first < n; first += every) {
      const int64_t size = std::min(every, n - first);
      const uint64_t h =
          random_detail::mix(key + static_cast<uint64_t>(first) * random_detail::kStep);
      if (size == every || first == 0)
        list.push_back(first + static_cast<int64_t>(h % static_cast<uint64_t>(size)));
    }
    return list;
  }

  uint64_t seed_;
  ThreadPool pool_;
  std::map<std::string, Tensor> tensors_;
};

// Does the folder have a config.json and nothing that could be weights, or what is left of a
// download of a model? Such a folder stands for a model with random weights.
inline bool only_configuration(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(folder / "config.json", ignored)) return false;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    for (const char* part :
         {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".incomplete", "tokenizer"}) {
      if (name.find(part) != std::string::npos) return false;
    }
  }
  return true;
}

// What every result of such a model says.
inline std::string random_weights_note(uint64_t seed) {
  return "random weights (seed " + std::to_string(seed) +
         "): memory and speed are those of the model's shape, every quality figure is meaningless";
}

}  // namespace ptq
