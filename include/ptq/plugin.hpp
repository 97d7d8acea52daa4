// ptq/plugin.hpp: optional comfort over plugin.h for methods written in C++.
//
// A method is a class with
//   static constexpr ptq::plugin::About about = {...};
//   static std::span<const ptq_option* const> options();
//   explicit Method(const ptq::plugin::Options&);
// and one or both of
//   void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const;
//   void encode(const ptq::plugin::Call&, const ptq_kv_block&, const ptq_tensor& x, ptq_encoding*);
//   void encode(const ptq::plugin::Call&, const ptq_linear&, ptq_encoding*);
// It may throw: every exception becomes a failed call with its text. PTQ_PLUGIN(name, license,
// Method...) makes the exported symbol. plugins/kivi.cpp is a short example.
#pragma once

#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

#include "ptq/plugin.h"

namespace ptq::plugin {

// Name, version, summary, paper and traits of a method.
struct About {
  const char *name, *version, *summary, *paper;
  uint64_t traits = 0;
};

// Throw this to say "this option or this tensor cannot be used".
struct Invalid : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A host function has failed and has already recorded its sentence.
struct HostFailed {
  ptq_status status;
};

// The options of an instance.
class Options {
 public:
  explicit Options(const ptq_call* call)
      : call_(call),
        service_(static_cast<const ptq_options_service*>(call->service(call, PTQ_OPTIONS_1))) {
    if (!service_) throw std::runtime_error("this host has no service ptq.options/1");
  }
  int64_t integer(const char* name) const { return service_->get_int(call_, name); }
  bool boolean(const char* name) const { return service_->get_int(call_, name) != 0; }
  double real(const char* name) const { return service_->get_float(call_, name); }
  std::string text(const char* name) const {
    const char* s = service_->get_string(call_, name);
    return s ? s : "";
  }

 private:
  const ptq_call* call_;
  const ptq_options_service* service_;
};

// What a function of a method may ask of the host.
class Call {
 public:
  explicit Call(const ptq_call* call) : call_(call) {}
  const ptq_call* raw() const { return call_; }

  // Round to nearest on a grid, by the host's kernels. x [..., rows, columns] float32.
  void affine(const ptq_tensor& x, int bits, int grid, int axis, int64_t group_size,
              ptq_encoding* out) const {
    const ptq_affine how{sizeof how, bits, grid, axis, group_size};
    check(encoder().affine(call_, &x, &how, out));
  }
  // 16-bit numbers.
  void dense(const ptq_tensor& x, ptq_dtype dtype, ptq_encoding* out) const {
    check(encoder().dense(call_, &x, dtype, out));
  }
  void log(int level, const std::string& text) const { call_->log(call_, level, text.c_str()); }

 private:
  const ptq_encode_service& encoder() const {
    const auto* s = static_cast<const ptq_encode_service*>(call_->service(call_, PTQ_ENCODE_1));
    if (!s) throw std::runtime_error("this host has no service ptq.encode/1");
    return *s;
  }
  static void check(ptq_status status) {
    if (status != PTQ_OK) throw HostFailed{status};
  }
  const ptq_call* call_;
};

// Runs fn and turns exceptions into a status.
template <class Fn>
ptq_status guarded(const ptq_call* call, Fn&& fn) noexcept {
  try {
    fn();
    return PTQ_OK;
  } catch (const HostFailed& e) {
    return e.status;
  } catch (const Invalid& e) {
    return call->fail(call, PTQ_INVALID, e.what());
  } catch (const std::bad_alloc&) {
    return call->fail(call, PTQ_NO_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return call->fail(call, PTQ_INTERNAL, e.what());
  } catch (...) {
    return call->fail(call, PTQ_INTERNAL, "unknown C++ exception");
  }
}

template <class M>
concept KvMethod = requires(M m, const Call& call, const ptq_kv_shape& shape, ptq_kv_policy& p,
                            const ptq_kv_block& block, const ptq_tensor& x, ptq_encoding* out) {
  m.policy(shape, p, p);
  m.encode(call, block, x, out);
};
template <class M>
concept WeightMethod = requires(M m, const Call& call, const ptq_linear& linear,
                                ptq_encoding* out) {
  m.encode(call, linear, out);
};

// The C tables of the method class M.
template <class M>
struct Tables {
  static ptq_status create(const ptq_call* call, const char*, void** method) {
    return guarded(call, [&] { *method = new M(Options(call)); });
  }
  static void destroy(void* method, const ptq_call*) { delete static_cast<M*>(method); }

  static ptq_status kv_policy(void* method, const ptq_call* call, const ptq_kv_shape* shape,
                              ptq_kv_policy* keys, ptq_kv_policy* values) {
    return guarded(call, [&] { static_cast<M*>(method)->policy(*shape, *keys, *values); });
  }
  static ptq_status kv_encode(void* method, const ptq_call* call, const ptq_kv_block* block,
                              const ptq_tensor* x, ptq_encoding* out) {
    return guarded(call, [&] { static_cast<M*>(method)->encode(Call(call), *block, *x, out); });
  }
  static ptq_status weights_encode(void* method, const ptq_call* call, const ptq_linear* linear,
                                   ptq_encoding* out) {
    return guarded(call, [&] { static_cast<M*>(method)->encode(Call(call), *linear, out); });
  }

  // Where encode() may be called. A method that only hands x on to the host says
  //   static constexpr bool runs_on_cuda = true;
  static constexpr uint32_t kv_devices() {
    if constexpr (requires { M::runs_on_cuda; })
      return 1u << PTQ_CPU | (M::runs_on_cuda ? 1u << PTQ_CUDA : 0u);
    return 1u << PTQ_CPU;
  }

  static const void* get(void*, const char* id) {
    if constexpr (KvMethod<M>) {
      static const ptq_kv table = {sizeof table, kv_devices(), kv_policy, kv_encode};
      if (std::strcmp(id, PTQ_KV_1) == 0) return &table;
    }
    if constexpr (WeightMethod<M>) {
      static const ptq_weights table = {sizeof table, 1u << PTQ_CPU, weights_encode};
      if (std::strcmp(id, PTQ_WEIGHTS_1) == 0) return &table;
    }
    return nullptr;
  }

  static const ptq_method* method() {
    static const ptq_method table = {
        sizeof table,
        uint32_t(M::options().size()),
        (KvMethod<M> ? PTQ_CAN_KV : 0u) | (WeightMethod<M> ? PTQ_CAN_WEIGHTS : 0u),
        M::about.traits,
        M::about.name,
        M::about.version,
        M::about.summary,
        M::about.paper,
        M::options().data(),
        create,
        destroy,
        get};
    return &table;
  }
};

}  // namespace ptq::plugin

// Defines the exported symbol. At file scope, once per plugin.
#define PTQ_PLUGIN(plugin_name, license_id, ...)                                               \
  namespace {                                                                                  \
  template <class... M>                                                                        \
  struct PtqMethodList {                                                                       \
    static inline const ptq_method* const list[] = {ptq::plugin::Tables<M>::method()...};      \
    static constexpr uint32_t size = sizeof...(M);                                             \
  };                                                                                           \
  }                                                                                            \
  extern "C" PTQ_EXPORT const ptq_plugin ptq_plugin_v1 = {{'P', 'T', 'Q', 'P', 'L', 'U', 'G'}, \
                                                          sizeof(ptq_plugin),                  \
                                                          PTQ_ABI_MAJOR,                       \
                                                          PTQ_ABI_MINOR,                       \
                                                          PtqMethodList<__VA_ARGS__>::size,    \
                                                          PtqMethodList<__VA_ARGS__>::list,    \
                                                          plugin_name,                         \
                                                          license_id,                          \
                                                          ""};
