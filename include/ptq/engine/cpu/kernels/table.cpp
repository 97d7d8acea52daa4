// The kernels of all sets of instructions, compiled once: they take a minute.
#include "ptq/engine/cpu/kernels/table.hpp"

#include "ptq/engine/cpu/kernels/avx2.hpp"
#include "ptq/engine/cpu/kernels/avx512.hpp"
#include "ptq/engine/cpu/kernels/plain.hpp"

namespace ptq::cpu {

const std::vector<Kernels>& runnable_kernels() {
  static const std::vector<Kernels> list = [] {
    std::vector<Kernels> found = {{"plain", plain::dots, nullptr, nullptr, 0, plain::multiply,
                                   plain::turn, plain::int8, plain::int8_groups, nullptr}};
#ifdef __x86_64__
    // All that have both have F16C, which clang 14 cannot ask for.
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (v3)
      found.push_back({"avx2", avx2::dots, avx2::panel, avx2::by_panel<avx2::Numbers>, avx2::kPanel,
                       avx2::multiply, avx2::turn, avx2::int8, avx2::int8_groups, nullptr});
    if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")) {
      Kernels k = {"avx512",
                   avx512::dots,
                   avx512::panel,
                   avx512::by_panel<avx512::Numbers>,
                   avx512::kPanel,
                   avx512::multiply,
                   avx512::turn,
                   avx512::int8,
                   avx512::int8_groups,
                   nullptr};
      found.push_back(k);
      if (__builtin_cpu_supports("avx512bf16")) {
        static const PairKernels pairs = {avx512::pack,
                                          avx512::pack_rows,
                                          avx512::pair_dots,
                                          avx512::pair_panel,
                                          avx512::by_panel<avx512::Pairs>,
                                          avx512::pair_multiply};
        k.name = "avx512bf16";
        k.pairs = &pairs;
        found.push_back(k);
      }
    }
#endif
    return found;
  }();
  return list;
}

}  // namespace ptq::cpu
