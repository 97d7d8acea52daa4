// Tests that read the ELF file (System V ABI, ELF-64) and those that load it.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <vector>

#include "host/check/test.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/run/surroundings.hpp"

namespace ptq::check {
namespace {

constexpr const char* kEntry = "ptq_plugin_v1";

#if defined(__x86_64__)
constexpr int kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr int kMachine = EM_AARCH64;
#else
#error "add the ELF machine number of this processor"
#endif

// The parts of a shared object that the tests ask about. Offsets in the file are not trusted.
class ElfFile {
 public:
  explicit ElfFile(const std::string& path) {
    std::ifstream in = open_file(path);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
    if (bytes_.size() < sizeof(Elf64_Ehdr) || std::memcmp(bytes_.data(), ELFMAG, SELFMAG) != 0) {
      fail("the file is no ELF file");
    }
    header_ = read<Elf64_Ehdr>(0);
    if (header_.e_ident[EI_CLASS] != ELFCLASS64 || header_.e_machine != kMachine) {
      fail("the file is built for another machine (e_machine {})", header_.e_machine);
    }
    if (header_.e_type != ET_DYN) fail("the file is no shared object (e_type {})", header_.e_type);
  }

  // Names of the symbols that others can see.
  std::vector<std::string> exported() const {
    std::vector<std::string> names;
    for (size_t i = 0; i < header_.e_shnum; ++i) {
      const auto section = read<Elf64_Shdr>(header_.e_shoff + i * sizeof(Elf64_Shdr));
      if (section.sh_type != SHT_DYNSYM) continue;
      const auto strings =
          read<Elf64_Shdr>(header_.e_shoff + size_t(section.sh_link) * sizeof(Elf64_Shdr));
      for (size_t at = 0; at + sizeof(Elf64_Sym) <= section.sh_size; at += sizeof(Elf64_Sym)) {
        const auto symbol = read<Elf64_Sym>(section.sh_offset + at);
        const int visibility = ELF64_ST_VISIBILITY(symbol.st_other);
        if (symbol.st_shndx == SHN_UNDEF || ELF64_ST_BIND(symbol.st_info) == STB_LOCAL ||
            visibility == STV_HIDDEN || visibility == STV_INTERNAL) {
          continue;
        }
        std::string name = text(strings.sh_offset + symbol.st_name);
        if (symbol.st_shndx != SHN_ABS || name == kEntry) names.push_back(std::move(name));
      }
    }
    return names;
  }

  // The texts of the dynamic section with one of the tags: DT_NEEDED, DT_RPATH, DT_RUNPATH.
  std::vector<std::string> texts(std::initializer_list<Elf64_Sxword> tags) const {
    std::vector<std::string> found;
    for (size_t i = 0; i < header_.e_shnum; ++i) {
      const auto section = read<Elf64_Shdr>(header_.e_shoff + i * sizeof(Elf64_Shdr));
      if (section.sh_type != SHT_DYNAMIC) continue;
      const auto strings =
          read<Elf64_Shdr>(header_.e_shoff + size_t(section.sh_link) * sizeof(Elf64_Shdr));
      for (size_t at = 0; at + sizeof(Elf64_Dyn) <= section.sh_size; at += sizeof(Elf64_Dyn)) {
        const auto entry = read<Elf64_Dyn>(section.sh_offset + at);
        if (std::find(tags.begin(), tags.end(), entry.d_tag) != tags.end())
          found.push_back(text(strings.sh_offset + entry.d_un.d_val));
      }
    }
    return found;
  }

  bool executable_stack() const {
    for (size_t i = 0; i < header_.e_phnum; ++i) {
      const auto segment = read<Elf64_Phdr>(header_.e_phoff + i * sizeof(Elf64_Phdr));
      if (segment.p_type == PT_GNU_STACK) return segment.p_flags & PF_X;
    }
    return true;  // a file that says nothing gets one
  }

 private:
  template <class T>
  T read(uint64_t offset) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) {
      fail("the file is cut off: something is said to lie at byte {} of {}", offset, bytes_.size());
    }
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  std::string text(uint64_t offset) const {
    if (offset >= bytes_.size()) fail("a name lies behind the end of the file");
    const char* begin = bytes_.data() + offset;
    return std::string(begin, strnlen(begin, bytes_.size() - offset));
  }

  std::vector<char> bytes_;
  Elf64_Ehdr header_{};
};

Result elf(const Subject& subject) {
  const ElfFile file(subject.file);
  return {};
}

Result entry(const Subject& subject) {
  const std::vector<std::string> names = ElfFile(subject.file).exported();
  if (std::find(names.begin(), names.end(), kEntry) == names.end()) {
    fail("it does not export {}; a C++ plugin needs extern \"C\" PTQ_EXPORT in front of it",
         kEntry);
  }
  return {};
}

Result one_symbol(const Subject& subject) {
  std::vector<std::string> others = ElfFile(subject.file).exported();
  std::erase(others, kEntry);
  if (others.empty()) return {};
  const size_t count = others.size();
  others.resize(std::min<size_t>(count, 5));
  fail("it exports {} more: {}{}; link with a version script, as ptq_add_plugin does", count,
       fmt::join(others, ", "), count > 5 ? ", ..." : "");
}

Result stack(const Subject& subject) {
  if (ElfFile(subject.file).executable_stack()) {
    fail(
        "it asks for an executable stack, which makes every process that loads it easier to "
        "attack; assembly files need a .note.GNU-stack section");
  }
  return {};
}

// What every machine with a C++ program has.
bool is_everywhere(const std::string& library) {
  for (const char* name : {"libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so",
                           "libstdc++.so", "libgcc_s.so", "ld-linux", "linux-vdso"})
    if (library.starts_with(name)) return true;
  return false;
}

Result needs(const Subject& subject) {
  std::vector<std::string> others = ElfFile(subject.file).texts({DT_NEEDED});
  std::erase_if(others, is_everywhere);
  if (others.empty()) return {};
  return {Verdict::warn, fmt::format("it runs only where these are installed: {}; link them "
                                     "statically, or ask the host (ptq.math/1)",
                                     fmt::join(others, ", "))};
}

Result run_path(const Subject& subject) {
  for (const std::string& path : ElfFile(subject.file).texts({DT_RPATH, DT_RUNPATH}))
    if (!path.empty() && !path.starts_with("$ORIGIN"))
      return {Verdict::warn, fmt::format("it looks for libraries in {}, which another machine does "
                                         "not have (or has with other files)",
                                         path)};
  return {};
}

Result symbols(const Subject& subject) {
  if (!dlopen(subject.file.c_str(), RTLD_NOW | RTLD_LOCAL)) fail("it does not load: {}", dlerror());
  return {};
}

// Runs `action` with the standard output and error going to a file, and gives what was written.
template <class Action>
std::string captured(Action action) {
  const int file = memfd_create("check", 0);
  std::fflush(nullptr);
  const int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
  dup2(file, STDOUT_FILENO);
  dup2(file, STDERR_FILENO);
  action();
  std::fflush(nullptr);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  close(out);
  close(err);
  std::string text(200, '\0');
  const ssize_t length = pread(file, text.data(), text.size(), 0);
  text.resize(length > 0 ? size_t(length) : 0);
  close(file);
  return text;
}

Result silent(const Subject& subject) {
  std::string text = captured([&] { load_library(subject); });
  if (text.empty()) return {};
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 32; }, ' ');
  fail("loading it prints: {}", text);
}

Result quick(const Subject& subject) {
  const auto begin = std::chrono::steady_clock::now();
  load_library(subject);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
  const std::string sentence = fmt::format("loading took {:.0f} ms", spent.count());
  return {spent.count() > 100 ? Verdict::warn : Verdict::pass, sentence};
}

size_t threads() {
  namespace fs = std::filesystem;
  return size_t(std::distance(fs::directory_iterator("/proc/self/task"), fs::directory_iterator()));
}

Result no_threads(const Subject& subject) {
  const size_t before = threads();
  load_library(subject);
  if (const size_t after = threads(); after > before) {
    fail("loading it starts {} thread(s); start them in create", after - before);
  }
  return {};
}

Result unseen(const Subject& subject) {
  const Surroundings before;
  load_library(subject);
  if (const std::string changed = before.restore(); !changed.empty()) {
    fail("loading it changes {} of the process (a library built with -ffast-math does)", changed);
  }
  return {};
}

}  // namespace

const void* load_library(const Subject& subject) {
  const void* handle = dlopen(subject.file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) skip("it does not load");
  return handle;
}

std::vector<Test> file_tests() {
  return {
      {"file-elf", "The file is a shared object for this machine.", "", elf},
      {"file-entry", "It exports the symbol ptq_plugin_v1.", "file-elf", entry},
      {"file-one-symbol", "It exports no other symbol.", "file-elf", one_symbol},
      {"file-stack", "It does not ask for an executable stack.", "file-elf", stack},
      {"file-needs", "It needs no library that not every machine has.", "file-elf", needs},
      {"file-run-path", "It looks for libraries in no folder of its own machine.", "file-elf",
       run_path},
  };
}

std::vector<Test> load_tests() {
  return {
      {"load-symbols", "It loads with every symbol resolved at once.", "file-elf", symbols},
      {"load-silent", "Loading prints nothing.", "load-symbols", silent},
      {"load-quick", "Loading takes less than 100 ms.", "load-symbols", quick},
      {"load-threads", "Loading starts no threads.", "load-symbols", no_threads},
      {"load-surroundings", "Loading changes no setting of the process.", "load-symbols", unseen},
  };
}

}  // namespace ptq::check
