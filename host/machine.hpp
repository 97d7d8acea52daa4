// What results and bug reports say about the program and the machine. An allow-list: nothing of the
// environment that is not named here, so no user name and no token.
#pragma once

#include <string>

#include "ptq/core/own_json.hpp"
#include "ptq/results/record.hpp"

namespace ptq {

Record::Code code_facts();
std::string code_build();  // version and commit, what the CUDA engine must agree with
Json machine_facts();      // cpu, cores, memory_bytes, os, compiler, build, blas

}  // namespace ptq
