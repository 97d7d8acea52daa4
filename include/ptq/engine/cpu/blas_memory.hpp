// OpenBLAS asks the system for a buffer for each thread that multiplies, and when it gets none it
// asks again for ever. Where the address space is limited, room is looked for before.
#pragma once

#include <sys/mman.h>
#include <sys/resource.h>

#include <cstdint>
#include <string>

#include "ptq/core/error.hpp"

namespace ptq {

constexpr uint64_t kBlasBuffer = uint64_t{128} << 20;  // BUFFER_SIZE of OpenBLAS on x86-64, bytes

// Is there room for `bytes` more? Always yes where no limit is set.
inline bool address_space_has(uint64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return true;
  void* room =
      ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  ::munmap(room, bytes);
  return true;
}

// `threads` will multiply; the library has the buffer of one already.
inline void require_blas_memory(int threads) {
  constexpr uint64_t kRest = uint64_t{64} << 20;  // what else is allocated meanwhile
  const uint64_t bytes = uint64_t(threads > 1 ? threads - 1 : 0) * kBlasBuffer + kRest;
  if (address_space_has(bytes)) return;
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  throw Error(ExitCode::resources,
              "the limit of the address space, " + std::to_string(limit.rlim_cur >> 20) +
                  " MiB, leaves no room for the buffers of the BLAS (" +
                  std::to_string(kBlasBuffer >> 20) + " MiB for each of " +
                  std::to_string(threads) + " threads)",
              "ulimit -v", "raise it (ulimit -v unlimited), or use fewer threads (--threads 1)");
}

}  // namespace ptq
