// The encoding service of the check's own host: validates what a plugin hands over, and rounds to
// nearest on the six grids (definitions: PTQ_GRID_* in plugin.h).
#include "host/check/host.hpp"

#include <algorithm>

namespace ptq::check {
std::string problem_of(const ptq_tensor* x, ptq_dtype dtype, Shape& shape) {
  if (!x) return "a tensor is NULL";
  if (x->ndim < 2 || x->ndim > 6) return fmt::format("a tensor has {} axes, not 2 to 6", x->ndim);
  if (x->dtype.code != dtype.code || x->dtype.bits != dtype.bits || x->dtype.lanes != 1) {
    return fmt::format("a tensor has the dtype {{{}, {}, {}}} where {{{}, {}, 1}} is needed",
                       x->dtype.code, x->dtype.bits, x->dtype.lanes, dtype.code, dtype.bits);
  }
  if (x->device_type != PTQ_CPU || x->device_id != 0)
    return "a tensor does not say that it lies on the CPU";
  shape = {1, x->shape[x->ndim - 2], x->shape[x->ndim - 1]};
  for (int i = 0; i < x->ndim - 2; ++i) shape.batch *= x->shape[i];
  if (shape.batch < 0 || shape.rows < 0 || shape.columns < 0) return "a length is negative";
  int64_t stride = 1;
  for (int i = x->ndim - 1; i >= 0; --i) {
    if (x->shape[i] > 1 && x->stride[i] != stride) return "a tensor is not contiguous";
    stride *= x->shape[i];
  }
  if (!x->data && shape.batch * shape.rows * shape.columns > 0) return "a tensor has no data";
  return {};
}

namespace {

bool symmetric(int32_t grid) {
  return grid == PTQ_GRID_SYM_NARROW || grid == PTQ_GRID_SYM_FULL || grid == PTQ_GRID_SYM_GPTQ;
}

// Groups along the rows of a cache are spelled out: one call may bring several blocks.
std::string problem_of(const ptq_affine* given, const Encoding& place, ptq_affine& own) {
  const ptq_affine* how = given;
  if (!how || !PTQ_HAS(how, group_size)) return "ptq_affine.struct_size is too small";
  const int b = how->bits;
  if (b < 1 || b > 8 || (place.cache && b > 4 && b < 8)) {
    return fmt::format("bits = {}, but only 1, 2, 3, 4 and 8 exist, and 5 to 7 for weights", b);
  }
  if (how->grid < PTQ_GRID_MIN || how->grid > PTQ_GRID_ASYM_AWQ) {
    return fmt::format("grid = {}, but only 1 to 6 exist", how->grid);
  }
  if (b == 1 && (how->grid == PTQ_GRID_SYM_NARROW || how->grid == PTQ_GRID_SYM_FULL))
    return "this grid has no step with 1 bit";
  if (how->axis != 0 && how->axis != 1) return fmt::format("axis = {}, not 0 or 1", how->axis);
  if (how->group_size < 0) return fmt::format("group_size = {} is negative", how->group_size);
  own = {};
  std::memcpy(&own, how, std::min<size_t>(how->struct_size, sizeof own));
  if (place.cache && own.order) return "an order of columns is for weights";
  if (place.cache && place.block > 0 && own.axis == 0) {
    if (own.group_size == 0 || own.group_size > place.block) own.group_size = place.block;
    if (place.block % own.group_size != 0) {
      return fmt::format("a block of {} rows is not a multiple of group_size = {}", place.block,
                         own.group_size);
    }
  }
  return {};
}

std::string form_of(const ptq_affine& how) {
  return fmt::format("affine, {} bits, grid {}, axis {}, group_size {}", how.bits, how.grid,
                     how.axis, how.group_size);
}

struct Step {
  float scale, zero;
};

// The range of one group becomes scale and zero point.
Step step_of(const ptq_affine& how, float lo, float hi) {
  constexpr float kSmallest = 1.0f / (1 << 24);  // of float16
  const float n = float((1 << how.bits) - 1), half = float((1 << (how.bits - 1)) - 1);
  const float largest = std::max(std::fabs(lo), std::fabs(hi));
  const auto stored = [&](float s) { return std::clamp(as_float16(s), kSmallest, 65504.0f); };
  switch (how.grid) {
    case PTQ_GRID_MIN:
      return {hi > lo ? stored((hi - lo) / n) : 0, as_float16(std::clamp(lo, -65504.0f, 65504.0f))};
    case PTQ_GRID_SYM_NARROW:
      if (largest == 0) return {1, 0};
      return {stored(largest / half), 0};
    case PTQ_GRID_SYM_FULL:
      if (largest == 0) return {1, 0};
      return {stored(std::max(largest, 1e-5f) / half), 0};
    case PTQ_GRID_SYM_GPTQ:
      if (largest == 0) return {1, 0};
      return {stored((lo < 0 ? 2 * largest : largest) / n), 0};
    case PTQ_GRID_ASYM_GPTQ: {
      lo = std::min(lo, 0.0f);
      hi = std::max(hi, 0.0f);
      if (lo == hi) return {1, float(1 << (how.bits - 1))};
      const float s = stored((hi - lo) / n);
      return {s, std::clamp(std::nearbyint(-lo / s), 0.0f, n)};
    }
    default: {  // PTQ_GRID_ASYM_AWQ
      if (lo == 0 && hi == 0) return {1, float(1 << (how.bits - 1))};
      const float s = stored(std::max(hi - lo, 1e-5f) / n);
      return {s, std::clamp(-std::nearbyint(lo / s), 0.0f, n)};
    }
  }
}

float code_of(const ptq_affine& how, const Step& step, float x) {
  const float n = float((1 << how.bits) - 1), middle = float(1 << (how.bits - 1));
  if (how.grid == PTQ_GRID_MIN) {
    return step.scale == 0 ? 0 : std::clamp(std::nearbyint((x - step.zero) / step.scale), 0.0f, n);
  }
  const float zero = symmetric(how.grid) ? middle : step.zero;
  const float lowest = how.grid == PTQ_GRID_SYM_NARROW ? 1.0f : 0.0f;
  return std::clamp(std::nearbyint(x / step.scale) + zero, lowest, n);
}

}  // namespace

ptq_status Host::affine(const ptq_call* call, const ptq_tensor* x, const ptq_affine* how,
                        ptq_encoding* out) noexcept {
  Shape shape{};
  std::string problem = problem_of(x, {PTQ_FLOAT, 32, 1}, shape);
  ptq_affine own{};
  if (problem.empty()) problem = problem_of(how, *reinterpret_cast<Encoding*>(out), own);
  if (!problem.empty()) return refuse(call, "ptq.encode/1: " + problem);
  if (own.order) return refuse(call, "ptq.encode/1: an order of columns is for affine_codes");
  const std::vector<float> values = gather<float>(*x);
  for (const float value : values) {
    if (!std::isfinite(value)) {
      return refuse(call, "ptq.encode/1: a value is not finite and has no code");
    }
  }
  const Groups groups(shape.batch, shape.rows, shape.columns, own);
  Encoding encoding;
  encoding.how = own;
  encoding.form = form_of(own);
  encoding.batch = shape.batch;
  encoding.rows = shape.rows;
  encoding.columns = shape.columns;
  std::vector<float> lo(size_t(groups.scales()), INFINITY), hi(size_t(groups.scales()), -INFINITY);
  const auto group_of = [&](size_t i) {
    const int64_t c = int64_t(i) % shape.columns, r = int64_t(i) / shape.columns;
    return size_t(groups.scale_index(r / shape.rows, r % shape.rows, c));
  };
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t g = group_of(i);
    lo[g] = std::min(lo[g], values[i]);
    hi[g] = std::max(hi[g], values[i]);
  }
  for (size_t g = 0; g < lo.size(); ++g) {
    const Step step = step_of(own, lo[g], hi[g]);
    encoding.scale.push_back(step.scale);
    if (!symmetric(own.grid)) encoding.zero.push_back(step.zero);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t g = group_of(i);
    const Step step{encoding.scale[g], encoding.zero.empty() ? 0 : encoding.zero[g]};
    encoding.codes.push_back(uint8_t(code_of(own, step, values[i])));
  }
  return take(call, out, std::move(encoding));
}

ptq_status Host::affine_codes(const ptq_call* call, const ptq_tensor* codes,
                              const ptq_tensor* scale, const ptq_tensor* zero,
                              const ptq_affine* how, ptq_encoding* out) noexcept {
  const auto refuse = [&](const std::string& problem) {
    return Host::refuse(call, "ptq.encode/1: " + problem);
  };
  Shape shape{}, scale_shape{}, zero_shape{};
  std::string problem = problem_of(codes, {PTQ_UINT, 8, 1}, shape);
  if (problem.empty()) problem = problem_of(scale, {PTQ_FLOAT, 32, 1}, scale_shape);
  if (problem.empty() && zero) problem = problem_of(zero, {PTQ_FLOAT, 32, 1}, zero_shape);
  ptq_affine own{};
  if (problem.empty()) problem = problem_of(how, *reinterpret_cast<Encoding*>(out), own);
  if (!problem.empty()) return refuse(problem);
  if (symmetric(how->grid) != (zero == nullptr)) {
    return refuse(zero ? "a symmetric grid has no zero points" : "the zero points are missing");
  }
  const Groups groups(shape.batch, shape.rows, shape.columns, own);
  for (const Shape* given : {&scale_shape, zero ? &zero_shape : &scale_shape}) {
    if (given->batch != shape.batch || given->rows != groups.scale_rows() ||
        given->columns != groups.scale_columns()) {
      return refuse(fmt::format("scale or zero has the shape [{}, {}, {}], needed is [{}, {}, {}]",
                                given->batch, given->rows, given->columns, shape.batch,
                                groups.scale_rows(), groups.scale_columns()));
    }
  }
  Encoding encoding;
  encoding.how = own;
  encoding.form = form_of(own);
  encoding.batch = shape.batch;
  encoding.rows = shape.rows;
  encoding.columns = shape.columns;
  if (own.order) {
    if (own.axis != 1) return refuse("an order of columns is for groups along columns");
    encoding.order.assign(own.order, own.order + shape.columns);
    std::vector<int32_t> sorted = encoding.order;
    std::sort(sorted.begin(), sorted.end());
    for (int64_t j = 0; j < shape.columns; ++j)
      if (sorted[size_t(j)] != j) return refuse("the order of columns is no permutation");
    encoding.how.order = nullptr;
  }
  encoding.codes = gather<uint8_t>(*codes);
  encoding.scale = gather<float>(*scale);
  if (zero) encoding.zero = gather<float>(*zero);

  for (size_t i = 0; i < encoding.codes.size(); ++i) {
    const int code = encoding.codes[i];
    if (code > int(encoding.n())) {
      return refuse(fmt::format("code {} is {}, outside 0 to {}", i, code, encoding.n()));
    }
  }
  for (size_t g = 0; g < encoding.scale.size(); ++g) {
    if (!std::isfinite(as_float16(encoding.scale[g]))) {
      return refuse(
          fmt::format("scale {} is {}, which float16 does not have", g, encoding.scale[g]));
    }
    encoding.scale[g] = as_float16(encoding.scale[g]);
  }
  for (size_t g = 0; g < encoding.zero.size(); ++g) {
    const float z = encoding.zero[g];
    if (how->grid == PTQ_GRID_MIN) {
      if (!std::isfinite(as_float16(z))) return refuse(fmt::format("zero {} is {}", g, z));
      encoding.zero[g] = as_float16(z);
    } else if (!(z >= 0 && z <= encoding.n() && z == std::nearbyint(z))) {
      return refuse(fmt::format("zero {} is {}, no integer in 0 to {}", g, z, encoding.n()));
    }
  }
  return take(call, out, std::move(encoding));
}

ptq_status Host::dense(const ptq_call* call, const ptq_tensor* x, ptq_dtype dtype,
                       ptq_encoding* out) noexcept {
  Shape shape{};
  std::string problem = problem_of(x, {PTQ_FLOAT, 32, 1}, shape);
  const bool bfloat = dtype.code == PTQ_BFLOAT;
  if (problem.empty() && (dtype.bits != 16 || (dtype.code != PTQ_FLOAT && !bfloat))) {
    problem = "a dense encoding is float16 or bfloat16";
  }
  if (!problem.empty()) return refuse(call, "ptq.encode/1: " + problem);
  Encoding encoding;
  encoding.dense = true;
  encoding.form = bfloat ? "bfloat16" : "float16";
  encoding.batch = shape.batch;
  encoding.rows = shape.rows;
  encoding.columns = shape.columns;
  encoding.values = gather<float>(*x);
  for (float& value : encoding.values) {
    if (!bfloat) {
      value = as_float16(value);
    } else if (std::isfinite(value) && value != 0) {
      const int keep =
          std::max(std::ilogb(value) - 7, -133);  // 8 bits; the smallest step is 2^-133
      value = std::ldexp(std::nearbyint(std::ldexp(value, -keep)), keep);
    }
  }
  return take(call, out, std::move(encoding));
}

}  // namespace ptq::check
