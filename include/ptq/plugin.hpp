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
// and, when the cache is to be calibrated (wants() == 0: not with these options),
//   uint32_t wants() const;  // PTQ_WANT_*
//   void calibrate(const ptq::plugin::Call&, const ptq_kv_block&, const ptq_tensor& x,
//                  const ptq_tensor* fisher);
// It may throw: every exception becomes a failed call with its text. PTQ_PLUGIN(name, license,
// Method...) makes the exported symbol. plugins/kivi.cpp is a short example.
#pragma once

#include <cstring>
#include <exception>
#include <initializer_list>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

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

// The run is being stopped; a long loop that calls Call::progress comes here by itself.
struct Cancelled {};

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
  // The method's own codes and scales; zero == nullptr for the symmetric grids.
  void affine_codes(const ptq_tensor& codes, const ptq_tensor& scale, const ptq_tensor* zero,
                    const ptq_affine& how, ptq_encoding* out) const {
    check(encoder().affine_codes(call_, &codes, &scale, zero, &how, out));
  }
  // Codes into a table of levels; offset may be nullptr.
  void codebook(const ptq_tensor& codes, const ptq_tensor& levels, const ptq_tensor& scale,
                const ptq_tensor* offset, int bits, int scaling, ptq_encoding* out) const {
    const ptq_codebook how{sizeof how, bits, scaling, 0};
    check(service<ptq_codebook_service>(PTQ_ENCODE_CODEBOOK_1)
              .codes(call_, &codes, &levels, &scale, offset, &how, out));
  }
  // Chunks of rows by their truncated singular value decomposition.
  void lowrank(const ptq_tensor& x, const ptq_lowrank& how, ptq_encoding* out) const {
    check(service<ptq_lowrank_service>(PTQ_ENCODE_LOWRANK_1).factor(call_, &x, &how, out));
  }
  // Exact values on top of what was filled into `out`.
  void outliers(const ptq_tensor& index, const ptq_tensor& value, bool fixed,
                ptq_encoding* out) const {
    check(service<ptq_outliers_service>(PTQ_ENCODE_OUTLIERS_1)
              .overlay(call_, &index, &value, fixed ? 1 : 0, out));
  }
  void log(int level, const std::string& text) const { call_->log(call_, level, text.c_str()); }
  // Must this call end soon?
  bool cancelled() const { return call_->cancelled(call_) != 0; }
  // For long loops, about once per second: shows the host that there is life (fraction: 0 to 1, of
  // this call), and throws Cancelled when the call must end.
  void progress(double fraction) const {
    // A host older than 1.2 does not have it, and looks at the clock only.
    if (const auto* s =
            static_cast<const ptq_progress_service*>(call_->service(call_, PTQ_PROGRESS_1)))
      s->report(call_, fraction);
    if (cancelled()) throw Cancelled{};
  }

 private:
  template <class Service>
  const Service& service(const char* id) const {
    const auto* s = static_cast<const Service*>(call_->service(call_, id));
    if (!s) throw std::runtime_error("this host has no service " + std::string(id));
    return *s;
  }
  const ptq_encode_service& encoder() const { return service<ptq_encode_service>(PTQ_ENCODE_1); }
  static void check(ptq_status status) {
    if (status != PTQ_OK) throw HostFailed{status};
  }
  const ptq_call* call_;
};

// The type code of a tensor of T.
template <class T>
constexpr ptq_dtype dtype_of = {std::is_floating_point_v<T> ? PTQ_FLOAT
                                : std::is_signed_v<T>       ? PTQ_INT
                                                            : PTQ_UINT,
                                8 * sizeof(T), 1};

// A contiguous tensor over memory of the caller.
template <class T>
ptq_tensor tensor(const T* data, std::initializer_list<int64_t> shape) {
  ptq_tensor t{};
  t.data = const_cast<T*>(data);
  t.dtype = dtype_of<T>;
  t.ndim = int32_t(shape.size());
  t.device_type = PTQ_CPU;
  t.flags = PTQ_READ_ONLY;
  int64_t stride = 1;
  for (int i = 5; i >= 0; --i) {
    t.shape[i] = i < t.ndim ? shape.begin()[i] : 1;
    t.stride[i] = stride;
    stride *= t.shape[i];
  }
  return t;
}

// Throws unless x is float32 [batch, rows, columns] on the CPU: what a cache method that looks at
// the numbers itself can work on.
inline void require_float3(const ptq_tensor& x) {
  if (x.dtype.code != PTQ_FLOAT || x.dtype.bits != 32 || x.dtype.lanes != 1)
    throw Invalid("x is not float32");
  if (x.ndim != 3)
    throw Invalid("x has " + std::to_string(x.ndim) + " axes, expected [heads, tokens, head_dim]");
  if (x.device_type != PTQ_CPU) throw Invalid("x is not on the CPU");
}

// A contiguous copy of x [batch, rows, columns].
inline std::vector<float> copy_of(const ptq_tensor& x) {
  require_float3(x);
  std::vector<float> out;
  out.reserve(size_t(x.shape[0] * x.shape[1] * x.shape[2]));
  for (int64_t b = 0; b < x.shape[0]; ++b)
    for (int64_t r = 0; r < x.shape[1]; ++r)
      for (int64_t c = 0; c < x.shape[2]; ++c)
        out.push_back(
            static_cast<const float*>(x.data)[b * x.stride[0] + r * x.stride[1] + c * x.stride[2]]);
  return out;
}

// The k numbers of largest |x| of each of n rows, in falling order (the first of equals first).
struct Outliers {
  std::vector<int32_t> index;  // [n, k], the column
  std::vector<float> value;    // [n, k]
};
// Takes them out of `rows` [n, columns], where 0 takes their place.
inline Outliers take_largest(float* rows, int64_t n, int64_t columns, int64_t k) {
  Outliers out;
  const auto size = [](float x) { return x < 0 ? -x : x; };
  for (float* row = rows; row < rows + n * columns; row += columns) {
    const size_t first = out.index.size();
    for (int64_t i = 0; i < k; ++i) {
      int64_t top = -1;
      for (int64_t c = 0; c < columns; ++c)
        if (row[c] == row[c] && (top < 0 || size(row[c]) > size(row[top]))) top = c;
      if (top < 0) top = i;  // NaN only
      out.index.push_back(int32_t(top));
      out.value.push_back(row[top]);
      row[top] = std::numeric_limits<float>::quiet_NaN();  // compares as not larger
    }
    for (size_t i = first; i < out.index.size(); ++i) row[out.index[i]] = 0;
  }
  return out;
}

// To the nearest float16, half to even, as the host stores scales; infinity above 65519.99.
inline float round_float16(float x) {
  const float size = x < 0 ? -x : x;
  if (!(size < 65520.0f)) return size == size ? x * 1e38f * 1e38f : x;
  // Adding and subtracting a number of the right size cuts the mantissa to 10 bits.
  uint32_t bits;
  std::memcpy(&bits, &size, sizeof bits);
  uint32_t exponent = bits >> 23;
  if (exponent < 113) exponent = 113;  // below 2^-14 the steps stay 2^-24
  const uint32_t magic = (exponent + 13) << 23;
  float big;
  std::memcpy(&big, &magic, sizeof big);
  const float sum = size + big;
  const float rounded = sum - big;
  return x < 0 ? -rounded : rounded;
}

// Sets PTQ_KV_* bits of a policy.
inline void set_flags(ptq_kv_policy& policy, uint32_t flags) {
  if (!PTQ_HAS(&policy, flags))
    throw std::runtime_error("this host is older than version 1.1 of ptq/plugin.h");
  policy.flags |= flags;
}

// Runs fn and turns exceptions into a status.
template <class Fn>
ptq_status guarded(const ptq_call* call, Fn&& fn) noexcept {
  try {
    fn();
    return PTQ_OK;
  } catch (const HostFailed& e) {
    return e.status;
  } catch (const Cancelled&) {
    return call->fail(call, PTQ_CANCELLED, "the call was stopped as the host asked");
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
concept KvCalibrated = requires(M m, const Call& call, const ptq_kv_block& rows,
                                const ptq_tensor& x, const ptq_tensor* fisher) {
  m.wants();
  m.calibrate(call, rows, x, fisher);
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

  static ptq_status kv_calibrate(void* method, const ptq_call* call, const ptq_kv_block* rows,
                                 const ptq_tensor* x, const ptq_tensor* fisher) {
    return guarded(call,
                   [&] { static_cast<M*>(method)->calibrate(Call(call), *rows, *x, fisher); });
  }

  static const void* get([[maybe_unused]] void* method, const char* id) {
    if constexpr (KvCalibrated<M>) {
      static const ptq_kv_calibration tables[] = {
          {sizeof tables[0], 0, kv_calibrate},
          {sizeof tables[0], PTQ_WANT_SAMPLES, kv_calibrate},
          {sizeof tables[0], PTQ_WANT_FISHER, kv_calibrate},
          {sizeof tables[0], PTQ_WANT_SAMPLES | PTQ_WANT_FISHER, kv_calibrate}};
      const uint32_t wants = static_cast<const M*>(method)->wants();
      if (wants != 0 && std::strcmp(id, PTQ_KV_CALIBRATION_1) == 0) return &tables[wants & 3];
    }
    if constexpr (KvMethod<M>) {
      static const ptq_kv table = {sizeof table, kv_devices(), kv_policy, kv_encode};
      if (std::strcmp(id, PTQ_KV_1) == 0) return &table;
    }
    if constexpr (WeightMethod<M>) {
      static const ptq_weights table = {sizeof table, 1u << PTQ_CPU, weights_encode};
      if (std::strcmp(id, PTQ_WEIGHTS_1) == 0) return &table;
    }
    return nullptr;
  }  // namespace ptq::plugin

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
