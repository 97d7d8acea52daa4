// The forward pass on the CPU, instantiated once (host/engine_cpu.cpp).
#pragma once

#include "ptq/engine/cpu/device.hpp"
#include "ptq/engine/pass/transformer.hpp"

extern template class ptq::Transformer<ptq::cpu::Device>;
