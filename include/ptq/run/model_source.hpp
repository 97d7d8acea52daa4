// Where a model comes from and how it is computed: all that an engine has to be told of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "ptq/engine/engine.hpp"
#include "ptq/run/random_model.hpp"

namespace ptq {

struct ModelSource {
  std::filesystem::path folder;  // or a GGUF file
  Compute compute = Compute::fp32;
  std::optional<uint64_t> random_seed;  // of random weights; nothing: the folder's weights
};

// threads: 0 = all cores.
inline EngineOptions engine_options(const ModelSource& source, int threads) {
  return {threads, source.compute, make_random_weights(source.random_seed, threads)};
}

inline Tokenizer load_tokenizer(const ModelSource& source) {
  return load_tokenizer(source.folder, source.random_seed.has_value());
}

}  // namespace ptq
