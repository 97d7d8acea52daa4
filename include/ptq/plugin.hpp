// ptq/plugin.hpp: optional comfort over plugin.h for methods written in C++.
//
// A method is a class with
//   static constexpr ptq::plugin::About about = {...};
//   explicit Method(ptq::plugin::Options&);  // declares the options and reads them, see Options
// and some of
//   void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const;
//   void encode(const ptq::plugin::Call&, const ptq_kv_block&, const ptq_tensor& x, ptq_encoding*);
//   void encode(const ptq::plugin::Call&, const ptq_linear&, ptq_encoding*);
//   void scale(const ptq::plugin::Call&, const ptq_site&, float* factor);
//   void choose(const ptq::plugin::Call&, const ptq_linear&, ptq_activation&);
// and, when the cache is to be calibrated (wants() == 0: not with these options),
//   uint32_t wants() const;  // PTQ_WANT_*
//   void calibrate(const ptq::plugin::Call&, const ptq_kv_block&, const ptq_tensor& x,
//                  const ptq_tensor* fisher);
// and, for what the weights side of a method learns from (what == 0: nothing with these options),
//   ptq_inputs_wanted encode_wants() const;  // and scale_wants, choose_wants
//   bool encodes_weights() const;  // false: with these options it does not; and scales, chooses
// and, when it prunes (plugin_prune.hpp has the options that such methods share),
//   void pruning(ptq_prune&) const;  // sets what differs from zeros; `shares` lives with the
//   method void measure(const ptq::plugin::Call&, const ptq_prune_linear&, double* importance);
//   void score(const ptq::plugin::Call&, const ptq_prune_groups&, double* score);
// It may throw: every exception becomes a failed call with its text. PTQ_PLUGIN(name, license,
// Method...) makes the exported symbol. plugins/kivi.cpp is a short example; plugin_math.hpp has
// arithmetic that several methods share.
#pragma once

#include <charconv>
#include <concepts>
#include <cstring>
#include <deque>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
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

// One declared option, for the bounds that follow its declaration.
class Option {
 public:
  // Inclusive bounds of a number.
  Option& between(double min, double max) {
    table_.min = min, table_.max = max;
    return *this;
  }
  // The only values an integer may take.
  Option& among(std::initializer_list<int64_t> values) {
    for (const int64_t value : values) values_.push_back(std::to_string(value));
    return *this;
  }

 private:
  friend class Options;
  ptq_option table_{};
  std::string default_;              // as JSON text
  std::vector<std::string> values_;  // the only allowed ones, as JSON text; empty = no list
  std::vector<const char*> allowed_;
};

// The options of a method, declared and read in one line each, in its constructor:
//
//   explicit Kivi(Options& o) {
//     o.integer("group_size", group_size_, "tokens that share a scale").between(1, 4096);
//   }
//   int64_t group_size_ = 32;
//
// What the variable holds before is the default; after, it holds the user's value. The constructor
// also runs once when the plugin is loaded, for the declarations alone: every variable then keeps
// its default. A check of options against each other stands below all declarations.
//
// Names, words and help are literals; words consist of letters, digits and _.
class Options {
 public:
  Options() = default;  // declarations alone
  explicit Options(const ptq_call* call)
      : call_(call),
        service_(static_cast<const ptq_options_service*>(call->service(call, PTQ_OPTIONS_1))) {
    if (!service_) throw std::runtime_error("this host has no service ptq.options/1");
  }
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  template <std::integral T>
  Option& integer(const char* name, T& value, const char* help) {
    Option& option = declare(PTQ_OPTION_INT, name, std::to_string(value), help);
    if (service_) value = T(service_->get_int(call_, name));
    return option;
  }
  Option& number(const char* name, double& value, const char* help) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    Option& option = declare(PTQ_OPTION_FLOAT, name, std::string(text, end), help);
    if (service_) value = service_->get_float(call_, name);
    return option;
  }
  void flag(const char* name, bool& value, const char* help) {
    declare(PTQ_OPTION_BOOL, name, value ? "true" : "false", help);
    if (service_) value = service_->get_int(call_, name) != 0;
  }
  // One of some words, each with what it means to the method.
  template <class T>
  void word(const char* name, T& value, const char* help,
            std::initializer_list<std::pair<const char*, std::type_identity_t<T>>> words) {
    Option& option = declare(PTQ_OPTION_STRING, name, "", help);
    const char* chosen = service_ ? service_->get_string(call_, name) : nullptr;
    const T before = value;
    for (const auto& [word, meaning] : words) {
      option.values_.push_back('"' + std::string(word) + '"');
      if (meaning == before) option.default_ = option.values_.back();
      if (chosen && std::strcmp(word, chosen) == 0) value = meaning;
    }
  }

  // Any text; the default has no quotes and no backslashes.
  void text(const char* name, std::string& value, const char* help) {
    declare(PTQ_OPTION_STRING, name, '"' + value + '"', help);
    const char* chosen = service_ ? service_->get_string(call_, name) : nullptr;
    if (chosen) value = chosen;
  }

  // As plugin.h wants them. Valid as long as this object, until something more is declared.
  const std::vector<const ptq_option*>& tables() {
    tables_.clear();
    for (Option& option : all_) {
      option.allowed_.clear();
      for (const std::string& value : option.values_) option.allowed_.push_back(value.c_str());
      option.allowed_.push_back(nullptr);
      option.table_.default_value = option.default_.c_str();
      option.table_.allowed = option.values_.empty() ? nullptr : option.allowed_.data();
      tables_.push_back(&option.table_);
    }
    return tables_;
  }

 private:
  Option& declare(int32_t type, const char* name, std::string default_value, const char* help) {
    Option& option = all_.emplace_back();
    option.table_.struct_size = sizeof(ptq_option);
    option.table_.type = type;
    option.table_.name = name;
    option.table_.help = help;
    option.default_ = std::move(default_value);
    return option;
  }

  const ptq_call* call_ = nullptr;
  const ptq_options_service* service_ = nullptr;  // NULL: every variable keeps its default
  std::deque<Option> all_;                        // which never moves what it holds
  std::vector<const ptq_option*> tables_;
};

// What a function of a method may ask of the host.
class Call {
 public:
  explicit Call(const ptq_call* call) : call_(call) {}
  const ptq_call* raw() const { return call_; }

  // Round to nearest on a grid, by the host's kernels. x [..., rows, columns] float32.
  void affine(const ptq_tensor& x, int bits, int grid, int axis, int64_t group_size,
              ptq_encoding* out) const {
    const ptq_affine how{sizeof how, bits, grid, axis, group_size, nullptr};
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
  // Weights: codes into a table of levels, with a scale per group of columns.
  void grouped_codes(const ptq_tensor& codes, const ptq_tensor& levels, const ptq_tensor& scale,
                     const ptq_codebook& how, ptq_encoding* out) const {
    check(service<ptq_codebook_service>(PTQ_ENCODE_CODEBOOK_1)
              .codes(call_, &codes, &levels, &scale, nullptr, &how, out));
  }
  // Codes into a table of levels; offset may be nullptr.
  void codebook(const ptq_tensor& codes, const ptq_tensor& levels, const ptq_tensor& scale,
                const ptq_tensor* offset, int bits, int scaling, ptq_encoding* out) const {
    const ptq_codebook how{sizeof how, bits, scaling, 0, 0, 0, 0};
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
  // fn(i) for i in 0 .. count-1 on several threads. fn may ask whether the call is cancelled and
  // use math(); what it throws is thrown here, that of the lowest i.
  template <class Fn>
  void parallel(int64_t count, const Fn& fn) const {
    struct Context {
      const Fn& fn;
      std::vector<std::exception_ptr> thrown;
    } context{fn, std::vector<std::exception_ptr>(size_t(count))};
    math().parallel(
        call_, count,
        [](void* p, int64_t i) {
          auto& c = *static_cast<Context*>(p);
          try {
            c.fn(i);
          } catch (...) {
            c.thrown[size_t(i)] = std::current_exception();
          }
        },
        &context);
    for (const std::exception_ptr& e : context.thrown)
      if (e) std::rethrow_exception(e);
  }
  // Dense linear algebra of the host.
  const ptq_math& math() const { return service<ptq_math>(PTQ_MATH_1); }
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

template <class M>
concept TransformMethod = requires(M m, const Call& call, const ptq_site& site, float* factor) {
  m.scale(call, site, factor);
};
template <class M>
concept ActivationMethod = requires(M m, const Call& call, const ptq_linear& linear,
                                    ptq_activation& how) {
  m.choose(call, linear, how);
};

template <class M>
concept PruneMethod = requires(const M c, M m, const Call& call, ptq_prune& table,
                               const ptq_prune_groups& groups, double* score) {
  c.pruning(table);
  m.score(call, groups, score);
};

// The C tables of the method class M.
template <class M>
struct Tables {
  // An instance with the tables that depend on its options.
  struct Instance : M {
    explicit Instance(Options& options) : M(options) {}
    ptq_weights_calibration calibration{};
    ptq_transform transform{};
    ptq_activations activations{};
    ptq_prune prune{};
  };
  static Instance& of(void* method) { return *static_cast<Instance*>(method); }

  static ptq_status create(const ptq_call* call, const char*, void** method) {
    return guarded(call, [&] {
      Options options(call);
      *method = new Instance(options);
    });
  }
  static void destroy(void* method, const ptq_call*) { delete &of(method); }

  static ptq_status kv_policy(void* method, const ptq_call* call, const ptq_kv_shape* shape,
                              ptq_kv_policy* keys, ptq_kv_policy* values) {
    return guarded(call, [&] { of(method).policy(*shape, *keys, *values); });
  }
  static ptq_status kv_encode(void* method, const ptq_call* call, const ptq_kv_block* block,
                              const ptq_tensor* x, ptq_encoding* out) {
    return guarded(call, [&] { of(method).encode(Call(call), *block, *x, out); });
  }
  static ptq_status weights_encode(void* method, const ptq_call* call, const ptq_linear* linear,
                                   ptq_encoding* out) {
    return guarded(call, [&] { of(method).encode(Call(call), *linear, out); });
  }
  static ptq_status transform_scale(void* method, const ptq_call* call, const ptq_site* site,
                                    float* factor) {
    return guarded(call, [&] { of(method).scale(Call(call), *site, factor); });
  }
  static ptq_status activations_choose(void* method, const ptq_call* call, const ptq_linear* linear,
                                       ptq_activation* how) {
    return guarded(call, [&] { of(method).choose(Call(call), *linear, *how); });
  }

  static ptq_status prune_measure(void* method, const ptq_call* call,
                                  const ptq_prune_linear* linear, double* importance) {
    return guarded(call, [&] { of(method).measure(Call(call), *linear, importance); });
  }
  static ptq_status prune_score(void* method, const ptq_call* call, const ptq_prune_groups* groups,
                                double* score) {
    return guarded(call, [&] { of(method).score(Call(call), *groups, score); });
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
    return guarded(call, [&] { of(method).calibrate(Call(call), *rows, *x, fisher); });
  }

  static const void* get([[maybe_unused]] void* method, const char* id) {
    if constexpr (KvCalibrated<M>) {
      static const ptq_kv_calibration tables[] = {
          {sizeof tables[0], 0, kv_calibrate},
          {sizeof tables[0], PTQ_WANT_SAMPLES, kv_calibrate},
          {sizeof tables[0], PTQ_WANT_FISHER, kv_calibrate},
          {sizeof tables[0], PTQ_WANT_SAMPLES | PTQ_WANT_FISHER, kv_calibrate}};
      const uint32_t wants = static_cast<const M&>(of(method)).wants();
      if (wants != 0 && std::strcmp(id, PTQ_KV_CALIBRATION_1) == 0) return &tables[wants & 3];
    }
    if constexpr (KvMethod<M>) {
      static const ptq_kv table = {sizeof table, kv_devices(), kv_policy, kv_encode};
      if (std::strcmp(id, PTQ_KV_1) == 0) return &table;
    }
    if constexpr (WeightMethod<M>) {
      static const ptq_weights table = {sizeof table, 1u << PTQ_CPU, weights_encode};
      if (encodes(of(method))) {
        if (std::strcmp(id, PTQ_WEIGHTS_1) == 0) return &table;
        if constexpr (requires { of(method).encode_wants(); })
          if (std::strcmp(id, PTQ_WEIGHTS_CALIBRATION_1) == 0) return calibration(of(method));
      }
    }
    if constexpr (TransformMethod<M>)
      if (std::strcmp(id, PTQ_TRANSFORM_1) == 0) return transform(of(method));
    if constexpr (ActivationMethod<M>)
      if (std::strcmp(id, PTQ_ACTIVATIONS_1) == 0) return activations(of(method));
    if constexpr (PruneMethod<M>)
      if (std::strcmp(id, PTQ_PRUNE_1) == 0) return prune(of(method));
    return nullptr;
  }

  static bool encodes(const M& m) {
    if constexpr (requires { m.encodes_weights(); }) return m.encodes_weights();
    return true;
  }
  static const void* calibration(Instance& m) {
    m.calibration = {sizeof m.calibration, 0, m.encode_wants()};
    return m.calibration.wanted.what != 0 ? &m.calibration : nullptr;
  }
  static const void* transform(Instance& m) {
    m.transform = {sizeof m.transform, 0, m.scale_wants(), transform_scale};
    if constexpr (requires { m.scales(); })
      if (!m.scales()) return nullptr;
    return &m.transform;
  }
  static const void* activations(Instance& m) {
    m.activations = {sizeof m.activations, 0, {}, activations_choose};
    if constexpr (requires { m.choose_wants(); }) m.activations.wanted = m.choose_wants();
    if constexpr (requires { m.chooses(); })
      if (!m.chooses()) return nullptr;
    return &m.activations;
  }

  static const void* prune(Instance& m) {
    m.prune = {};
    m.prune.struct_size = sizeof m.prune;
    m.prune.round_mlp_to = m.prune.batch = 1;
    m.prune.score = prune_score;
    if constexpr (requires(const Call& call, const ptq_prune_linear& linear, double* importance) {
                    m.measure(call, linear, importance);
                  })
      m.prune.measure = prune_measure;
    m.pruning(m.prune);
    return &m.prune;
  }

  // What an instance declares when nobody has chosen yet. Lives as long as the plugin.
  static const std::vector<const ptq_option*>& options() {
    static Options declared;
    try {
      [[maybe_unused]] const M probe(declared);
    } catch (const std::exception&) {
      // For example, the defaults do not go together: whoever creates the method is told.
    }
    return declared.tables();
  }

  static const ptq_method* method() {
    static const std::vector<const ptq_option*>& declared = options();
    static const ptq_method table = {sizeof table,
                                     uint32_t(declared.size()),
                                     (KvMethod<M> ? PTQ_CAN_KV : 0u) |
                                         (WeightMethod<M> ? PTQ_CAN_WEIGHTS : 0u) |
                                         (TransformMethod<M> ? PTQ_CAN_TRANSFORM : 0u) |
                                         (ActivationMethod<M> ? PTQ_CAN_ACTIVATIONS : 0u) |
                                         (PruneMethod<M> ? PTQ_CAN_PRUNE : 0u),
                                     M::about.traits,
                                     M::about.name,
                                     M::about.version,
                                     M::about.summary,
                                     M::about.paper,
                                     declared.data(),
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
