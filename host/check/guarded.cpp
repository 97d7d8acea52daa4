#include "host/check/guarded.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <new>
#include <utility>
#include <vector>

namespace ptq::check {
namespace {

struct Region {
  uint8_t* pages;
  size_t mapped;
  const char* what;
  uint8_t* data;
  size_t bytes;
};

// Lent now, and taken back: so many stay reserved, so that nothing else gets their addresses.
constexpr size_t kRemembered = 256;
struct Regions {
  std::vector<Region> lent;
  std::deque<Region> taken_back;
};
Regions& regions() {
  static Regions all;
  return all;
}

size_t page() {
  static const auto size = size_t(sysconf(_SC_PAGESIZE));
  return size;
}

// ---- faults ----

std::string& doing() {
  static std::string text;
  return text;
}
struct Trap {
  sigjmp_buf back;
  pthread_t thread;
  std::string sentence;
  struct sigaction before[2];
};
Trap* trap = nullptr;  // of the work that runs

bool is_write([[maybe_unused]] void* context) {
#if defined(__x86_64__)
  return static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
  return false;
#endif
}

std::string sentence_about(const uint8_t* at, bool write) {
  const char* verb = write ? "writes to" : "reads";
  const auto inside = [&](const Region& r) { return at >= r.pages && at < r.pages + r.mapped; };
  for (const Region& r : regions().lent) {
    if (!inside(r)) continue;
    if (at >= r.data + r.bytes)
      return fmt::format("it {} memory {} byte(s) past the end of {}, which has {}", verb,
                         at - (r.data + r.bytes) + 1, r.what, r.bytes);
    if (at < r.data)
      return fmt::format("it {} memory {} byte(s) before {}", verb, r.data - at, r.what);
    return fmt::format("it writes to {}, which is read-only", r.what);
  }
  for (const Region& r : regions().taken_back)
    if (inside(r)) return fmt::format("it {} {} after the call that it was for", verb, r.what);
  return {};
}

void on_fault(int number, siginfo_t* info, void* context) {
  if (trap && pthread_equal(trap->thread, pthread_self())) {
    std::string sentence =
        sentence_about(static_cast<const uint8_t*>(info->si_addr), is_write(context));
    if (!sentence.empty()) {
      trap->sentence = (doing().empty() ? "" : doing() + ": ") + sentence;
      siglongjmp(trap->back, 1);
    }
  }
  // None of ours: back to the instruction, with whoever had the signal before.
  struct sigaction fallback {};
  if (trap) fallback = trap->before[number == SIGBUS];
  sigaction(number, &fallback, nullptr);
}

}  // namespace

Guarded::Guarded(const char* what, size_t bytes, size_t alignment, uint32_t fill)
    : bytes_(bytes), fill_(fill) {
  const size_t taken = (bytes + alignment - 1) / alignment * alignment;
  const size_t inner = (taken + page() - 1) / page() * page() + (taken == 0 ? page() : 0);
  mapped_ = inner + 2 * page();
  void* mapped = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<uint8_t*>(mapped);
  if (mprotect(pages_ + page(), inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(pages_, mapped_);
    throw std::bad_alloc();
  }
  for (size_t i = 0; i < inner; i += sizeof fill)
    std::memcpy(pages_ + page() + i, &fill, sizeof fill);
  data_ = pages_ + page() + inner - taken;
  regions().lent.push_back({pages_, mapped_, what, data_, bytes_});
}

Guarded::~Guarded() {
  auto& lent = regions().lent;
  auto& taken_back = regions().taken_back;
  for (size_t i = lent.size(); i-- > 0;) {
    if (lent[i].pages != pages_) continue;
    taken_back.push_back(lent[i]);
    lent.erase(lent.begin() + ptrdiff_t(i));
    break;
  }
  // Mapped anew, which gives the memory back.
  mmap(pages_, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (taken_back.size() <= kRemembered) return;
  munmap(taken_back.front().pages, taken_back.front().mapped);
  taken_back.pop_front();
}

void Guarded::make_read_only() { mprotect(pages_ + page(), mapped_ - 2 * page(), PROT_READ); }

const char* Guarded::written() const {
  const auto as_filled = [&](const uint8_t* begin, const uint8_t* end) {
    const auto* fill = reinterpret_cast<const uint8_t*>(&fill_);
    for (const uint8_t* at = begin; at < end; ++at)
      if (*at != fill[size_t(at - pages_) % sizeof fill_]) return false;
    return true;
  };
  if (!as_filled(pages_ + page(), data_)) return "before";
  if (!as_filled(data_ + bytes_, pages_ + mapped_ - page())) return "past the end of";
  return "";
}

std::string touched_wrongly(const std::function<void()>& work) {
  Trap own{};
  own.thread = pthread_self();
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &own.before[0]);
  sigaction(SIGBUS, &action, &own.before[1]);
  Trap* outer = std::exchange(trap, &own);
  const auto leave = [&] {
    trap = outer;
    sigaction(SIGSEGV, &own.before[0], nullptr);
    sigaction(SIGBUS, &own.before[1], nullptr);
  };
  if (sigsetjmp(own.back, 1) == 0) {
    try {
      work();
    } catch (...) {
      leave();
      throw;
    }
  }
  leave();
  return own.sentence;
}

void set_doing(std::string text) { doing() = std::move(text); }

}  // namespace ptq::check
