// What the host offers to a plugin during a call: errors, log, counted memory, options, encodings.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/core/threads.hpp"
#include "ptq/encoding/encoding.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/plugin.h"
#include "ptq/run/cancel.hpp"
#include "ptq/run/math_service.hpp"
#include "ptq/run/put_back.hpp"

namespace ptq {

// The opaque handle of plugin.h stands for a RowSink.
inline ptq_encoding* handle(RowSink& sink) { return reinterpret_cast<ptq_encoding*>(&sink); }

// One instance's side of all its calls. Not thread-safe but for fail, log and cancelled.
class HostSide {
 public:
  HostSide(std::string method, Json options, uint64_t seed)
      : method_(std::move(method)), options_(std::move(options)), seed_(seed) {}
  ~HostSide() {
    for (const auto& [p, memory] : memory_) give_back(p, memory.on);
  }
  HostSide(const HostSide&) = delete;
  HostSide& operator=(const HostSide&) = delete;

  const Json& options() const { return options_; }

  // For ptq.math/1's parallel; 0: one per core.
  int threads = 0;
  // Gets what a method reports through ptq.progress/1: a fraction of the call that runs. Any
  // thread.
  std::function<void(double)> on_progress;

  // Runs fn(call) and turns whatever comes back into an Error that names the method, the function
  // and the place. `place` is only asked when something is wrong.
  // on: the device whose memory the tensors of this call are in; nullptr: the host.
  void invoke(const char* function, const std::function<ptq_status(const ptq_call*)>& fn,
              const std::function<std::string()>& place = {}, const CudaPlace* on = nullptr) {
    device_ = on;
    const ptq_call call = make_call(on);
    sentence_.clear();
    refusal_.clear();
    const auto where = [&] { return place ? place() : std::string(); };
    ptq_status status = PTQ_OK;
    std::string thrown;
    try {
      const Cancel::Inside inside;
      status = fn(&call);
    } catch (const std::exception& e) {
      thrown = std::string("threw a C++ exception: ") + e.what();
    } catch (...) {
      thrown = "threw a C++ exception";
    }
    const std::string lost = put_back_.after(function);
    release_scratch();
    require(function, lost, lost.empty() ? "" : where());
    if (Cancel::requested())
      throw Error(ExitCode::interrupted, "stopped in method " + method_ + ", " + function, where());
    if (!thrown.empty())
      throw plugin_error(function, thrown, "nothing may be thrown across the interface", where());
    if (status == PTQ_OK && refusal_.empty()) return;
    if (status == PTQ_OK)
      throw plugin_error(function, "returned ok although the host refused its answer: " + refusal_,
                         "a plugin returns the status of the service that it called", where());
    if (sentence_.empty())
      throw plugin_error(function,
                         "returned status " + std::to_string(status) + " without a sentence",
                         "a plugin calls call->fail before it returns an error", where());
    const Error error = plugin_error(function, sentence_, {}, where());
    if (status != PTQ_NO_MEMORY) throw error;
    throw Error(ExitCode::resources, error.message(), error.where());
  }

  // The functions of a plugin that get no call: fn(), with the same care.
  template <class Fn>
  auto look(const char* function, Fn&& fn) {
    const auto result = [&] {
      const Cancel::Inside inside;
      return fn();
    }();
    require(function, put_back_.after(function), {});
    return result;
  }

  // What the plugin has changed of its surroundings, one sentence each; everything is put back.
  const std::vector<std::string>& settle() {
    require("since its last call", put_back_.after_all("since its last call"), {});
    return put_back_.changes();
  }

  // Largest sums of bytes that the plugin held at one time.
  uint64_t peak_scratch() const { return peak_[0]; }
  uint64_t peak_bookkeeping() const { return peak_[1]; }

  Error plugin_error(const char* function, const std::string& what, const std::string& hint = {},
                     const std::string& place = {}) const {
    return Error(ExitCode::cells_failed,
                 "method " + method_ + ", " + function + ": " + safe_text(what, 2 * kLongestText),
                 place, hint);
  }

 private:
  static HostSide& of(const ptq_call* call) { return *static_cast<HostSide*>(call->ctx); }

  ptq_call make_call(const CudaPlace* on) {
    ptq_call call{};
    call.struct_size = sizeof call;
    call.device_type = on ? PTQ_CUDA : PTQ_CPU;
    call.device_id = on ? on->device_id : 0;
    call.stream = on ? on->stream : nullptr;
    call.seed = seed_;
    call.ctx = this;
    call.fail = [](const ptq_call* c, ptq_status status, const char* sentence) -> ptq_status {
      HostSide& host = of(c);
      std::lock_guard lock(host.mutex_);
      host.sentence_ = safe_text(sentence ? sentence : "");
      return status;
    };
    call.log = [](const ptq_call* c, int32_t level, const char* text) {
      if (level >= 1)
        std::fprintf(stderr, "%s%s: %s\n", level >= 2 ? "warning: " : "", of(c).method_.c_str(),
                     safe_text(text ? text : "").c_str());
    };
    call.alloc = [](const ptq_call* c, int32_t purpose, uint64_t bytes) -> void* {
      return of(c).allocate(purpose, bytes);
    };
    call.release = [](const ptq_call* c, void* p) { of(c).release(p); };
    call.cancelled = [](const ptq_call*) -> int32_t { return Cancel::requested() ? 1 : 0; };
    call.service = [](const ptq_call*, const char* id) -> const void* {
      if (!id) return nullptr;
      if (std::strcmp(id, PTQ_OPTIONS_1) == 0) return &options_service();
      if (std::strcmp(id, PTQ_PROGRESS_1) == 0) return &progress_service();
      if (std::strcmp(id, PTQ_ENCODE_1) == 0) return &encode_service();
      if (std::strcmp(id, PTQ_ENCODE_CODEBOOK_1) == 0) return &codebook_service();
      if (std::strcmp(id, PTQ_ENCODE_LOWRANK_1) == 0) return &lowrank_service();
      if (std::strcmp(id, PTQ_ENCODE_OUTLIERS_1) == 0) return &outliers_service();
      if (std::strcmp(id, PTQ_MATH_1) == 0) return &math_service();
      return nullptr;
    };
    return call;
  }

  // What was meant for lost files may be in others by now.
  void require(const char* function, const std::string& lost, const std::string& place) const {
    if (lost.empty()) return;
    throw plugin_error(function, "it " + lost,
                       "a plugin closes what it has opened, and prints nothing", place);
  }

  // ---- counted memory ----

  // nullptr when there is none; nothing may be thrown into a plugin.
  void* allocate(int32_t purpose, uint64_t bytes) noexcept {
    if (bytes > std::numeric_limits<int64_t>::max() / 2) return nullptr;
    const int kind = purpose == PTQ_BOOKKEEPING ? 1 : 0;
    const CudaPlace* on = kind == 0 ? device_ : nullptr;  // bookkeeping is the host's
    // Aligned for vectors; aligned_alloc wants a multiple of the alignment.
    void* p = on ? on->allocate(std::max<uint64_t>(bytes, 1))
                 : std::aligned_alloc(64, (std::max<uint64_t>(bytes, 1) + 63) / 64 * 64);
    if (!p) return nullptr;
    try {
      memory_[p] = {kind, bytes, on};
    } catch (const std::bad_alloc&) {
      give_back(p, on);
      return nullptr;
    }
    held_[kind] += bytes;
    peak_[kind] = std::max(peak_[kind], held_[kind]);
    return p;
  }
  static void give_back(void* p, const CudaPlace* on) noexcept {
    if (on)
      on->release(p);
    else
      std::free(p);
  }
  void release(void* p) noexcept {
    const auto found = memory_.find(p);
    if (found == memory_.end()) return;
    held_[found->second.kind] -= found->second.bytes;
    give_back(p, found->second.on);
    memory_.erase(found);
  }
  void release_scratch() noexcept {
    for (auto i = memory_.begin(); i != memory_.end();) {
      if (i->second.kind == 0) {
        give_back(i->first, i->second.on);
        i = memory_.erase(i);
      } else {
        ++i;
      }
    }
    held_[0] = 0;
  }

  // ---- ptq.options/1 ----

  static const ptq_options_service& options_service() {
    static const ptq_options_service service = {
        sizeof(ptq_options_service), 0,
        [](const ptq_call* c, const char* name) -> int64_t {
          const auto* v = of(c).option(name);
          if (!v) return 0;
          if (v->is_boolean()) return v->get<bool>() ? 1 : 0;
          return v->is_number() ? v->get<int64_t>() : 0;
        },
        [](const ptq_call* c, const char* name) -> double {
          const auto* v = of(c).option(name);
          return v && v->is_number() ? v->get<double>() : 0.0;
        },
        [](const ptq_call* c, const char* name) -> const char* {
          const auto* v = of(c).option(name);
          return v && v->is_string() ? v->get_ref<const std::string&>().c_str() : nullptr;
        }};
    return service;
  }
  const Json* option(const char* name) const {
    const auto found = options_.find(name);
    return found == options_.end() ? nullptr : &*found;
  }

  // ---- ptq.progress/1 ----

  static const ptq_progress_service& progress_service() {
    static const ptq_progress_service service = {
        sizeof(ptq_progress_service), 0, [](const ptq_call* c, double fraction) {
          HostSide& host = of(c);
          if (!std::isfinite(fraction)) return;
          const InHostMode mode(host.put_back_.mode());
          std::lock_guard lock(host.mutex_);
          if (host.on_progress) host.on_progress(std::clamp(fraction, 0.0, 1.0));
        }};
    return service;
  }

  // ---- ptq.encode/1 ----

  // batch matrices of [rows, columns] behind a checked tensor.
  struct Matrices {
    int64_t batch, rows, columns;
  };
  static Matrices matrices(const ptq_call* call, const ptq_tensor* t, ptq_dtype dtype,
                           const char* name, int least_axes = 2) {
    const auto wrong = [&](const std::string& what) {
      return usage_error(std::string("tensor ") + name + " " + what);
    };
    if (!t || !t->data) throw wrong("is NULL");
    if (t->dtype.code != dtype.code || t->dtype.bits != dtype.bits || t->dtype.lanes != 1)
      throw wrong("has the wrong dtype, expected " +
                  std::string(dtype.code == PTQ_FLOAT  ? "float"
                              : dtype.code == PTQ_UINT ? "uint"
                                                       : "int") +
                  std::to_string(dtype.bits));
    if (t->device_type != call->device_type || t->device_id != call->device_id)
      throw wrong(call->device_type == PTQ_CPU ? "is not on the CPU"
                                               : "is not on the device of the call");
    if (t->ndim < least_axes || t->ndim > 6)
      throw wrong("has " + std::to_string(t->ndim) + " axes, expected [..., rows, columns]");
    int64_t stride = 1, batch = 1;
    for (int i = t->ndim - 1; i >= 0; --i) {
      if (t->shape[i] < 0) throw wrong("has a negative size");
      if (t->shape[i] > 1 && t->stride[i] != stride) throw wrong("is not contiguous");
      stride *= t->shape[i];
      if (i < t->ndim - 2) batch *= t->shape[i];
    }
    return {batch, t->ndim > 1 ? t->shape[t->ndim - 2] : 1, t->shape[t->ndim - 1]};
  }
  // The numbers of a tensor of any shape with `count` elements.
  static const float* numbers(const ptq_call* call, const ptq_tensor* t, int64_t count,
                              const char* name) {
    const Matrices m = matrices(call, t, {PTQ_FLOAT, 32, 1}, name, 1);
    if (m.batch * m.rows * m.columns != count)
      throw usage_error("tensor " + std::string(name) + " has " +
                        std::to_string(m.batch * m.rows * m.columns) + " elements, expected " +
                        std::to_string(count));
    return static_cast<const float*>(t->data);
  }
  // Where the host rounds itself; on a GPU the kernels see the numbers first.
  static const float* finite(const ptq_call* call, const ptq_tensor* x, const Matrices& m) {
    const auto* values = static_cast<const float*>(x->data);
    if (call->device_type != PTQ_CPU) return values;
    const int64_t n = m.batch * m.rows * m.columns;
    bool all = true;
    for (int64_t i = 0; i < n; ++i) all &= std::abs(values[i]) <= std::numeric_limits<float>::max();
    if (!all) throw usage_error("a number of tensor x is not finite and has no code");
    return values;
  }
  static AffineFormat format(const ptq_affine* how) {
    if (!how || !PTQ_HAS(how, group_size))
      throw usage_error("ptq_affine is missing or smaller than this host's");
    return {how->bits, Grid(how->grid), how->axis, how->group_size};
  }
  static const int32_t* order_of(const ptq_affine* how) {
    return PTQ_HAS(how, order) ? how->order : nullptr;
  }
  // Runs a builder; a thrown Error becomes the sentence of a failed call. A refused answer stays
  // refused until another one is accepted, whatever the plugin makes of the status.
  static ptq_status build(const ptq_call* call, ptq_encoding* out,
                          const std::function<void(RowSink&)>& fn) {
    HostSide& host = of(call);
    const InHostMode mode(host.put_back_.mode());
    const auto refuse = [&](ptq_status status, const std::string& text) {
      host.refusal_ = safe_text(text);
      return call->fail(call, status, text.c_str());
    };
    try {
      if (!out) throw usage_error("the encoding handle is NULL");
      fn(*reinterpret_cast<RowSink*>(out));
      host.refusal_.clear();
      return PTQ_OK;
    } catch (const Error& e) {
      return refuse(PTQ_INVALID, e.message() + (e.where().empty() ? "" : " (" + e.where() + ")") +
                                     (e.hint().empty() ? "" : "; " + e.hint()));
    } catch (const std::bad_alloc&) {
      return refuse(PTQ_NO_MEMORY, "out of memory while an encoding was stored");
    } catch (const std::exception& e) {
      return refuse(PTQ_INTERNAL, e.what());
    }
  }

  static const ptq_encode_service& encode_service() {
    static const ptq_encode_service service = {
        sizeof(ptq_encode_service), 0,
        [](const ptq_call* call, const ptq_tensor* x, const ptq_affine* how, ptq_encoding* out) {
          return build(call, out, [&](RowSink& sink) {
            const Matrices m = matrices(call, x, {PTQ_FLOAT, 32, 1}, "x");
            const AffineFormat f = format(how);
            if (order_of(how))
              throw usage_error("an order of columns is for the method's own codes", {},
                                "call affine_codes");
            sink.affine(f, m.batch, m.rows, m.columns, finite(call, x, m));
          });
        },
        [](const ptq_call* call, const ptq_tensor* codes, const ptq_tensor* scale,
           const ptq_tensor* zero, const ptq_affine* how, ptq_encoding* out) {
          return build(call, out, [&](RowSink& sink) {
            const AffineFormat f = format(how);
            const Matrices m = matrices(call, codes, {PTQ_UINT, 8, 1}, "codes");
            const auto groups = [&](int64_t n) {
              return f.group_size <= 0 ? 1 : (n + f.group_size - 1) / f.group_size;
            };
            const Matrices want = f.axis == 1 ? Matrices{m.batch, m.rows, groups(m.columns)}
                                              : Matrices{m.batch, groups(m.rows), m.columns};
            const auto check = [&](const ptq_tensor* t, const char* name) {
              const Matrices s = matrices(call, t, {PTQ_FLOAT, 32, 1}, name);
              if (s.batch != want.batch || s.rows != want.rows || s.columns != want.columns)
                throw usage_error(std::string("tensor ") + name + " has shape [" +
                                  std::to_string(s.batch) + ", " + std::to_string(s.rows) + ", " +
                                  std::to_string(s.columns) + "], expected [" +
                                  std::to_string(want.batch) + ", " + std::to_string(want.rows) +
                                  ", " + std::to_string(want.columns) + "]");
            };
            check(scale, "scale");
            if (zero) check(zero, "zero");
            const auto* c = static_cast<const uint8_t*>(codes->data);
            const auto* s = static_cast<const float*>(scale->data);
            const auto* z = zero ? static_cast<const float*>(zero->data) : nullptr;
            if (const int32_t* order = order_of(how)) {
              if (m.batch != 1) throw usage_error("an order of columns is for weights only");
              sink.ordered_codes(f, order, m.rows, m.columns, c, s, z);
            } else {
              sink.affine_codes(f, m.batch, m.rows, m.columns, c, s, z);
            }
          });
        },
        [](const ptq_call* call, const ptq_tensor* x, ptq_dtype dtype, ptq_encoding* out) {
          return build(call, out, [&](RowSink& sink) {
            const Matrices m = matrices(call, x, {PTQ_FLOAT, 32, 1}, "x");
            if (dtype.bits != 16 || (dtype.code != PTQ_FLOAT && dtype.code != PTQ_BFLOAT))
              throw usage_error("dense encodings are float16 or bfloat16");
            sink.dense(dtype.code == PTQ_FLOAT ? DType::f16 : DType::bf16, m.batch, m.rows,
                       m.columns, static_cast<const float*>(x->data));
          });
        }};
    return service;
  }

  // ---- ptq.encode.codebook/1, .lowrank/1, .outliers/1 ----

  static const ptq_codebook_service& codebook_service() {
    static const ptq_codebook_service service = {
        sizeof(ptq_codebook_service), 0,
        [](const ptq_call* call, const ptq_tensor* codes, const ptq_tensor* levels,
           const ptq_tensor* scale, const ptq_tensor* offset, const ptq_codebook* how,
           ptq_encoding* out) {
          return build(call, out, [&](RowSink& sink) {
            if (!how || !PTQ_HAS(how, reserved))
              throw usage_error("ptq_codebook is missing or smaller than this host's");
            if (how->scaling == PTQ_SCALE_PER_GROUP)
              return grouped(call, codes, levels, scale, offset, how, sink);
            if (how->bits < 1 || how->bits > 8)
              throw usage_error("codebook encoding with bits = " + std::to_string(how->bits), {},
                                "bits is 1, 2, 3, 4 or 8");
            if (how->scaling < PTQ_SCALE_PER_ROW || how->scaling > PTQ_SCALE_PER_COLUMN)
              throw usage_error("unknown scaling " + std::to_string(how->scaling), {},
                                "scaling is one of PTQ_SCALE_*");
            const Matrices m = matrices(call, codes, {PTQ_UINT, 8, 1}, "codes");
            const int64_t scales = how->scaling == PTQ_SCALE_PER_ROW     ? m.batch * m.rows
                                   : how->scaling == PTQ_SCALE_PER_TOKEN ? m.rows
                                                                         : m.batch * m.columns;
            sink.codebook({how->bits, ScaleOf(how->scaling), offset != nullptr}, m.batch, m.rows,
                          m.columns, static_cast<const uint8_t*>(codes->data),
                          numbers(call, levels, int64_t(1) << how->bits, "levels"),
                          numbers(call, scale, scales, "scale"),
                          offset ? numbers(call, offset, scales, "offset") : nullptr);
          });
        }};
    return service;
  }

  static void grouped(const ptq_call* call, const ptq_tensor* codes, const ptq_tensor* levels,
                      const ptq_tensor* scale, const ptq_tensor* offset, const ptq_codebook* how,
                      RowSink& sink) {
    if (!PTQ_HAS(how, tensor_scale))
      throw usage_error("ptq_codebook is too small for PTQ_SCALE_PER_GROUP");
    if (offset) throw usage_error("a codebook with a scale per group takes no offset");
    if (how->bits < 1 || how->bits > 8)
      throw usage_error("codebook encoding with bits = " + std::to_string(how->bits), {},
                        "bits is 1, 2, 3, 4 or 8");
    const Matrices m = matrices(call, codes, {PTQ_UINT, 8, 1}, "codes");
    if (m.batch != 1) throw usage_error("a scale per group of columns is for weights only");
    const int64_t group = how->group_size > 0 ? how->group_size : std::max<int64_t>(m.columns, 1);
    sink.grouped_codes({how->bits, how->group_size, ScaleType(how->scale_type), how->tensor_scale},
                       m.rows, m.columns, static_cast<const uint8_t*>(codes->data),
                       numbers(call, levels, int64_t(1) << how->bits, "levels"),
                       numbers(call, scale, m.rows * ((m.columns + group - 1) / group), "scale"));
  }

  static const ptq_lowrank_service& lowrank_service() {
    static const ptq_lowrank_service service = {
        sizeof(ptq_lowrank_service), 0,
        [](const ptq_call* call, const ptq_tensor* x, const ptq_lowrank* how, ptq_encoding* out) {
          return build(call, out, [&](RowSink& sink) {
            if (!how || how->struct_size < sizeof(ptq_lowrank))
              throw usage_error("ptq_lowrank is missing or smaller than this host's");
            const Matrices m = matrices(call, x, {PTQ_FLOAT, 32, 1}, "x");
            const auto has = [&](uint32_t flag) { return (how->flags & flag) != 0; };
            sink.lowrank({how->chunk, how->min_rank, how->max_rank, how->energy,
                          has(PTQ_LOWRANK_CENTER), has(PTQ_LOWRANK_SHARED), has(PTQ_LOWRANK_RAW)},
                         m.batch, m.rows, m.columns, finite(call, x, m));
          });
        }};
    return service;
  }

  static const ptq_outliers_service& outliers_service() {
    static const ptq_outliers_service service = {
        sizeof(ptq_outliers_service), 0,
        [](const ptq_call* call, const ptq_tensor* index, const ptq_tensor* value, int32_t fixed,
           ptq_encoding* out) {
          return build(call, out, [&](RowSink& sink) {
            const Matrices m = matrices(call, index, {PTQ_INT, 32, 1}, "index");
            sink.outliers(fixed != 0, m.batch, m.rows, m.columns,
                          static_cast<const int32_t*>(index->data),
                          numbers(call, value, m.batch * m.rows * m.columns, "value"));
          });
        }};
    return service;
  }

  // ---- ptq.math/1 ----

  static const ptq_math& math_service() {
    static const ptq_math service = math_table(
        [](const ptq_call* call, int64_t count, void (*task)(void*, int64_t), void* context) {
          HostSide& host = of(call);
          const InHostMode mode(host.put_back_.mode());
          if (!host.pool_) host.pool_ = std::make_unique<ThreadPool>(host.threads);
          host.pool_->for_each(count, [&](int64_t i) { task(context, i); });
        });
    return service;
  }

  std::string method_;
  Json options_;
  uint64_t seed_;
  std::unique_ptr<ThreadPool> pool_;   // made when it is first needed
  const CudaPlace* device_ = nullptr;  // of the call that runs
  std::mutex mutex_;
  std::string sentence_;  // of the latest `fail` in this call
  std::string refusal_;   // of the latest answer, when the host refused it
  PutBack put_back_{method_};
  struct Memory {
    int kind;  // 0 scratch, 1 bookkeeping
    uint64_t bytes;
    const CudaPlace* on;  // nullptr: host memory
  };
  std::unordered_map<void*, Memory> memory_;
  uint64_t held_[2] = {0, 0}, peak_[2] = {0, 0};
};

}  // namespace ptq
