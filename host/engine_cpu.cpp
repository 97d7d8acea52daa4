// The one place where the passes are instantiated for the CPU.
#include "ptq/engine/backward.hpp"
#include "ptq/engine/cpu/backward.hpp"
#include "ptq/engine/cpu/transformer.hpp"
#include "ptq/engine/engine.hpp"

namespace ptq {

template class Transformer<cpu::Device>;

std::unique_ptr<Engine> make_cpu_engine(const std::string& folder, const EngineOptions& options) {
  return std::make_unique<Transformer<cpu::Device>>(
      folder, cpu::Device(options.threads, options.compute), options.random);
}

std::unique_ptr<Gradients<float>> make_cpu_gradients(const std::string& folder,
                                                     const EngineOptions& options) {
  return std::make_unique<cpu::BackwardPass<float>>(folder, options.threads, options.random);
}

}  // namespace ptq
