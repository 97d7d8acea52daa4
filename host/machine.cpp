#include "host/machine.hpp"

#include <cblas.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

#include "ptq_commit.hpp"

namespace ptq {
namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with("model name") && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return "unknown";
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::string build_flags() {
  std::string flags;
#ifdef NDEBUG
  flags += "release";
#else
  flags += "debug";
#endif
#ifdef __AVX512F__
  flags += " avx512";
#endif
#ifdef __AVX2__
  flags += " avx2";
#endif
#ifdef __F16C__
  flags += " f16c";
#endif
#ifdef __SANITIZE_ADDRESS__
  flags += " asan";
#endif
  return flags;
}

}  // namespace

Record::Code code_facts() { return {PTQ_VERSION, PTQ_GIT_HASH}; }

std::string code_build() { return PTQ_VERSION "+" PTQ_GIT_HASH; }

Json machine_facts() {
  utsname system{};
  ::uname(&system);
  return {
      {"cpu", cpu_name()},
      {"cores", std::thread::hardware_concurrency()},
      {"memory_bytes", uint64_t(::sysconf(_SC_PHYS_PAGES)) * uint64_t(::sysconf(_SC_PAGE_SIZE))},
      {"os", std::string(system.sysname) + " " + system.release + " " + system.machine},
      {"compiler", compiler()},
      {"build", build_flags()},
      {"blas", ::openblas_get_config()}};
}

}  // namespace ptq
