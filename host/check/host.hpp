// A host of its own for `ptq-host check`: it records what a plugin does with a call, keeps
// encodings unpacked and decodes them with plain float loops. It shares nothing with the real host,
// so that a mistake there does not hide one in a plugin, and the other way round;
// test/host/test_check_hosts.cpp holds the two against each other.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/check/guarded.hpp"
#include "host/check/test.hpp"
#include "ptq/plugin.h"

namespace ptq::check {

// To the nearest float16, half to even; infinity above 65504.
inline float as_float16(float value) {
  const float size = std::fabs(value);
  if (!(size < 65520.0f)) return std::isnan(value) ? value : std::copysign(INFINITY, value);
  if (size < std::ldexp(1.0f, -14)) return std::copysign((size + 0.5f) - 0.5f, value);
  const int keep = std::ilogb(size) - 10;
  return std::copysign(std::ldexp(std::nearbyint(std::ldexp(size, -keep)), keep), value);
}

inline uint64_t packed_bytes(int64_t codes, int bits) { return uint64_t(codes * bits + 7) / 8; }

// `batch` matrices of [rows, columns] and the groups that an affine format cuts them into.
struct Groups {
  int64_t batch, rows, columns, axis, size;

  Groups(int64_t batch, int64_t rows, int64_t columns, const ptq_affine& how)
      : batch(batch), rows(rows), columns(columns), axis(how.axis), size(how.group_size) {
    const int64_t along = axis == 1 ? columns : rows;
    if (size <= 0 || size > along) size = along > 0 ? along : 1;
  }
  int64_t scale_rows() const { return axis == 1 ? rows : (rows + size - 1) / size; }
  int64_t scale_columns() const { return axis == 1 ? (columns + size - 1) / size : columns; }
  int64_t scales() const { return batch * scale_rows() * scale_columns(); }
  int64_t scale_index(int64_t b, int64_t r, int64_t c) const {
    return axis == 1 ? (b * rows + r) * scale_columns() + c / size
                     : (b * scale_rows() + r / size) * columns + c;
  }
};

// What a plugin answered, unpacked.
struct Encoding {
  bool cache = true;  // else the weight of a layer, which takes fewer kinds of encoding
  int64_t block = 0;  // of the cache's policy
  int fills = 0;
  bool dense = false;
  ptq_affine how{};
  int64_t batch = 0, rows = 0, columns = 0;
  std::vector<uint8_t> codes;
  std::vector<float> scale, zero;  // zero: empty for the symmetric grids
  std::vector<float> values;       // of a dense encoding, already rounded to 16 bits
  // Of a codebook or low-rank encoding: `values` is what it decodes to, `bytes` what storing it
  // takes.
  bool decoded = false, low_rank = false;
  uint64_t bytes = 0;
  std::vector<int32_t> order;  // column j is column order[j] of the layer; empty: the same
  // Outliers: places in [batch, rows, columns] and exact values.
  std::vector<int64_t> outlier_at;
  std::vector<float> outlier_value;
  uint64_t outlier_bytes = 0;
  bool has_outliers = false;
  // All blocks of a layer and side agree in these: the kind with its parameters, and what is stored
  // once for all.
  std::string form;
  std::vector<float> shared;

  bool filled() const { return fills > 0; }
  float n() const { return float((1 << how.bits) - 1); }
  float middle() const { return float(1 << (how.bits - 1)); }

  std::vector<float> decode() const {
    std::vector<float> x = dense || decoded ? values : decode_affine();
    for (size_t i = 0; i < outlier_at.size(); ++i) x[size_t(outlier_at[i])] = outlier_value[i];
    return x;
  }
  std::vector<float> decode_affine() const {
    std::vector<float> x(codes.size());
    const Groups groups(batch, rows, columns, how);
    for (int64_t i = 0; i < int64_t(x.size()); ++i) {
      const int64_t c = i % columns, r = i / columns % rows, b = i / columns / rows;
      const size_t g = size_t(groups.scale_index(b, r, c));
      const float q = float(codes[size_t(i)]);
      const int64_t place = order.empty() ? i : i - c + order[size_t(c)];
      x[size_t(place)] = how.grid == PTQ_GRID_MIN ? q * scale[g] + zero[g]
                         : zero.empty()           ? (q - middle()) * scale[g]
                                                  : (q - zero[g]) * scale[g];
    }
    return x;
  }
  // Bytes that storing it takes (docs/abi.md, "What is stored"): codes packed, each row padded to a
  // byte; scales float16; zero points float16, or packed and each matrix padded to a byte.
  uint64_t stored_bytes() const {
    if (dense) return 2 * values.size() + outlier_bytes;
    if (decoded) return bytes + outlier_bytes;
    const uint64_t zeros =
        batch == 0 ? 0
        : how.grid == PTQ_GRID_MIN
            ? 2 * zero.size()
            : uint64_t(batch) * packed_bytes(int64_t(zero.size()) / batch, how.bits);
    return uint64_t(batch * rows) * packed_bytes(columns, how.bits) + 2 * scale.size() + zeros +
           4 * order.size() + outlier_bytes;
  }
};

// [.., rows, columns] as batch x rows x columns; a matrix has batch 1.
struct Shape {
  int64_t batch, rows, columns;
};
// What is wrong with a tensor that a plugin handed over, or an empty string and its shape.
std::string problem_of(const ptq_tensor* x, ptq_dtype dtype, Shape& shape);

// The elements in row-major order.
template <class T>
std::vector<T> gather(const ptq_tensor& x) {
  int64_t count = 1;
  for (int i = 0; i < x.ndim; ++i) count *= x.shape[i];
  std::vector<T> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i, offset = 0;
    for (int axis = x.ndim - 1; axis >= 0; --axis) {
      offset += rest % x.shape[axis] * x.stride[axis];
      rest /= x.shape[axis];
    }
    out[size_t(i)] = static_cast<const T*>(x.data)[offset];
  }
  return out;
}

// Bytes of a growing struct in version 1.`minor` of plugin.h.
template <class T>
constexpr size_t size_in(uint32_t) {
  return sizeof(T);
}
template <>
constexpr size_t size_in<ptq_kv_policy>(uint32_t minor) {
  return minor < 1 ? offsetof(ptq_kv_policy, flags) : sizeof(ptq_kv_policy);
}
template <>
constexpr size_t size_in<ptq_linear>(uint32_t minor) {
  return minor < 2 ? offsetof(ptq_linear, inputs) : sizeof(ptq_linear);
}

class Host {
 public:
  uint64_t seed = 1;
  // A host of an older or a later version: structs end where they ended then, or go on with fields
  // that nobody knows; services of later versions are missing.
  uint32_t minor = PTQ_ABI_MINOR;
  bool later = false;
  // How ptq.math/1 runs tasks: any way has to give the same numbers.
  enum class Tasks { backwards, forwards, threads } tasks = Tasks::backwards;
  bool has_services = true;
  int64_t allocations_left = -1;  // alloc returns NULL when 0; -1 = always gives memory
  std::vector<std::pair<std::string, std::string>> options;  // name, value as JSON text

  std::string sentence;  // of the latest `fail`
  int fails = 0;         // since begin()
  std::string refused;   // why its latest answer was refused, until another is taken
  bool cancelled = false;
  std::string mistake;  // what the plugin did to the host's memory or functions, or empty

  Host() = default;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Before and after each call into the plugin.
  const ptq_call* begin() {
    sentence.clear();
    refused.clear();
    fails = 0;
    ptq_call call{};
    call.device_type = PTQ_CPU;
    call.seed = seed;
    call.ctx = this;
    call.fail = fail;
    call.log = log;
    call.alloc = alloc;
    call.release = release;
    call.cancelled = [](const ptq_call* c) noexcept -> int32_t { return of(c).cancelled ? 1 : 0; };
    call.service = service;
    return lend(call, "the ptq_call");
  }
  void end() {
    lent_.clear();
    for (auto block = blocks_.begin(); block != blocks_.end();) {
      check_guards(*block);
      block = block->purpose == PTQ_SCRATCH ? blocks_.erase(block) : std::next(block);
    }
  }
  // Bookkeeping that was not released.
  size_t kept() const { return blocks_.size(); }

  // A copy of a growing struct for the plugin, as long as this host knows it; until end().
  template <class T>
  T* lend(T value, const char* what, bool writable = false) {
    const size_t known = size_in<T>(minor), size = known + (later ? kLaterBytes : 0);
    value.struct_size = uint32_t(size);
    Guarded& copy = *lent_.emplace_back(std::make_unique<Guarded>(what, size, alignof(T)));
    std::memset(copy.data(), kGuardByte, size);
    std::memcpy(copy.data(), &value, known);
    if (!writable) copy.make_read_only();
    return reinterpret_cast<T*>(copy.data());
  }
  // The values that a plugin left in a struct that it was lent; the later fields are not its own.
  template <class T>
  T returned(const T* copy, const T& start, const char* what) const {
    T value = start;
    const size_t known = size_in<T>(minor);
    std::memcpy(&value, copy, known);
    const auto* bytes = reinterpret_cast<const uint8_t*>(copy);
    for (size_t i = known; i < known + (later ? kLaterBytes : 0); ++i)
      if (bytes[i] != kGuardByte) fail_with("it writes fields of {} that it cannot know", what);
    if (value.struct_size != known + (later ? kLaterBytes : 0))
      fail_with("it changes struct_size of {}", what);
    value.struct_size = start.struct_size;
    return value;
  }
  // A copy of a text, a tensor (not of its numbers) or numbers, read-only, until end().
  const ptq_tensor* lend_tensor(const ptq_tensor& tensor) {
    return reinterpret_cast<const ptq_tensor*>(
        lend_bytes(&tensor, sizeof tensor, alignof(ptq_tensor), "a ptq_tensor"));
  }
  const char* lend(const std::string& text, const char* what) {
    return reinterpret_cast<const char*>(lend_bytes(text.c_str(), text.size() + 1, 1, what));
  }
  const float* lend(const std::vector<float>& values, const char* what) {
    return reinterpret_cast<const float*>(
        lend_bytes(values.data(), values.size() * sizeof(float), alignof(float), what));
  }

 private:
  static constexpr size_t kLaterBytes = 64;
  static constexpr uint8_t kGuardByte = 0xA5;

  struct Block {
    int32_t purpose;
    std::unique_ptr<Guarded> memory;
  };

  template <class... Arguments>
  [[noreturn]] static void fail_with(fmt::format_string<Arguments...> text,
                                     Arguments&&... arguments) {
    ptq::check::fail(text, std::forward<Arguments>(arguments)...);
  }
  const uint8_t* lend_bytes(const void* bytes, size_t size, size_t alignment, const char* what) {
    Guarded& copy = *lent_.emplace_back(std::make_unique<Guarded>(what, size, alignment));
    if (size > 0) std::memcpy(copy.data(), bytes, size);
    copy.make_read_only();
    return copy.data();
  }

  static Host& of(const ptq_call* call) { return *static_cast<Host*>(call->ctx); }

  void check_guards(Block& block) {
    if (const std::string where = block.memory->written(); !where.empty())
      mistake = fmt::format("it wrote {} {} bytes that alloc gave", where, block.memory->size());
  }

  static ptq_status fail(const ptq_call* call, ptq_status status, const char* sentence) noexcept {
    Host& host = of(call);
    const std::lock_guard lock(host.mutex_);  // [any thread]
    ++host.fails;
    host.sentence = sentence ? sentence : "";
    return status;
  }
  // Of an answer: may be followed by a better one.
  static ptq_status refuse(const ptq_call* call, const std::string& text) noexcept {
    Host& host = of(call);
    const std::lock_guard lock(host.mutex_);
    host.refused = host.sentence = text;
    return PTQ_INVALID;
  }
  static ptq_status take(const ptq_call* call, ptq_encoding* out, Encoding answer) noexcept {
    Encoding& place = *reinterpret_cast<Encoding*>(out);
    answer.fills = place.fills + 1;
    answer.cache = place.cache;
    answer.block = place.block;
    place = std::move(answer);
    of(call).refused.clear();
    return PTQ_OK;
  }
  static void report(const ptq_call* call, double fraction) noexcept {
    if (fraction >= 0 && fraction <= 1) return;
    const std::lock_guard lock(of(call).mutex_);
    of(call).mistake = fmt::format("it reported the progress {}, not 0 to 1", fraction);
  }
  static void log(const ptq_call*, int32_t, const char*) noexcept {}

  static void* alloc(const ptq_call* call, int32_t purpose, uint64_t bytes) noexcept {
    Host& host = of(call);
    if (purpose != PTQ_SCRATCH && purpose != PTQ_BOOKKEEPING) {
      host.mistake = fmt::format("alloc was called with the unknown purpose {}", purpose);
      return nullptr;
    }
    if (host.allocations_left == 0 || bytes > (uint64_t(1) << 32)) return nullptr;
    if (host.allocations_left > 0) --host.allocations_left;
    // The memory is not zero: who relies on zeros shall notice here.
    try {
      Block block{purpose, std::make_unique<Guarded>("memory of alloc", size_t(bytes), 64)};
      std::memset(block.memory->data(), 0xCD, size_t(bytes));
      host.blocks_.push_back(std::move(block));
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
    return host.blocks_.back().memory->data();
  }
  static void release(const ptq_call* call, void* memory) noexcept {
    Host& host = of(call);
    if (!memory) return;
    for (auto block = host.blocks_.begin(); block != host.blocks_.end(); ++block) {
      if (block->memory->data() != memory) continue;
      host.check_guards(*block);
      host.blocks_.erase(block);
      return;
    }
    host.mistake = "release was called with memory that alloc did not give";
  }
  static const void* service(const ptq_call* call, const char* id) noexcept {
    static const ptq_options_service options_table = {sizeof(ptq_options_service), 0, get_int,
                                                      get_float, get_string};
    static const ptq_progress_service progress_table = {sizeof(ptq_progress_service), 0, report};
    static const ptq_encode_service encode_table = {sizeof(ptq_encode_service), 0, affine,
                                                    affine_codes, dense};
    static const ptq_codebook_service codebook_table = {sizeof(ptq_codebook_service), 0,
                                                        codebook_codes};
    static const ptq_lowrank_service lowrank_table = {sizeof(ptq_lowrank_service), 0, factor};
    static const ptq_outliers_service outliers_table = {sizeof(ptq_outliers_service), 0, overlay};
    static const ptq_math math_table = {sizeof(ptq_math), 0,    parallel, gemm, cholesky,
                                        invert_lower,     eigen};
    if (!of(call).has_services || !id) return nullptr;
    const struct {
      const char* name;
      const void* table;
      uint32_t since;
    } tables[] = {{PTQ_OPTIONS_1, &options_table, 0},
                  {PTQ_PROGRESS_1, &progress_table, 2},
                  {PTQ_ENCODE_1, &encode_table, 0},
                  {PTQ_ENCODE_CODEBOOK_1, &codebook_table, 1},
                  {PTQ_ENCODE_LOWRANK_1, &lowrank_table, 1},
                  {PTQ_ENCODE_OUTLIERS_1, &outliers_table, 1},
                  {PTQ_MATH_1, &math_table, 2}};
    for (const auto& t : tables) {
      if (std::strcmp(id, t.name) == 0 && t.since <= of(call).minor) return t.table;
    }
    return nullptr;
  }

  // --- ptq.options/1 ---
  static nlohmann::json option(const ptq_call* call, const char* name) noexcept {
    for (const auto& [key, text] : of(call).options) {
      if (name && key == name) return nlohmann::json::parse(text, nullptr, false);
    }
    return nullptr;
  }
  static int64_t get_int(const ptq_call* call, const char* name) noexcept {
    const nlohmann::json value = option(call, name);
    if (value.is_boolean()) return value.get<bool>();
    return value.is_number() ? value.get<int64_t>() : 0;
  }
  static double get_float(const ptq_call* call, const char* name) noexcept {
    const nlohmann::json value = option(call, name);
    return value.is_number() ? value.get<double>() : 0.0;
  }
  static const char* get_string(const ptq_call* call, const char* name) noexcept {
    const nlohmann::json value = option(call, name);
    if (!value.is_string()) return nullptr;
    return of(call).lend(value.get<std::string>(), "a text of ptq.options/1");
  }

  // --- ptq.encode/1 ---
  static ptq_status affine(const ptq_call*, const ptq_tensor*, const ptq_affine*,
                           ptq_encoding*) noexcept;
  static ptq_status affine_codes(const ptq_call*, const ptq_tensor*, const ptq_tensor*,
                                 const ptq_tensor*, const ptq_affine*, ptq_encoding*) noexcept;
  static ptq_status dense(const ptq_call*, const ptq_tensor*, ptq_dtype, ptq_encoding*) noexcept;

  // --- ptq.encode.codebook/1, .lowrank/1, .outliers/1 (cache_encodings.cpp) ---
  static ptq_status codebook_codes(const ptq_call*, const ptq_tensor*, const ptq_tensor*,
                                   const ptq_tensor*, const ptq_tensor*, const ptq_codebook*,
                                   ptq_encoding*) noexcept;
  static ptq_status factor(const ptq_call*, const ptq_tensor*, const ptq_lowrank*,
                           ptq_encoding*) noexcept;
  static ptq_status overlay(const ptq_call*, const ptq_tensor*, const ptq_tensor*, int32_t,
                            ptq_encoding*) noexcept;

  // --- a codebook's scale per group, ptq.math/1 (weights_host.cpp) ---
  static ptq_status grouped_codes(const ptq_call*, const ptq_tensor*, const ptq_tensor*,
                                  const ptq_tensor*, const ptq_tensor*, const ptq_codebook*,
                                  ptq_encoding*) noexcept;
  static void parallel(const ptq_call*, int64_t, void (*)(void*, int64_t), void*) noexcept;
  static void gemm(const ptq_call*, int32_t, int32_t, int64_t, int64_t, int64_t, float,
                   const float*, int64_t, const float*, int64_t, float, float*, int64_t) noexcept;
  static int64_t cholesky(const ptq_call*, int64_t, float*) noexcept;
  static int64_t invert_lower(const ptq_call*, int64_t, float*) noexcept;
  static int64_t eigen(const ptq_call*, int64_t, float*, float*) noexcept;

  std::vector<std::unique_ptr<Guarded>> lent_;  // until end()
  std::list<Block> blocks_;
  std::mutex mutex_;
};

}  // namespace ptq::check
