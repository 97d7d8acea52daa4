// What the check's own host has for weights alone: codebooks with a scale per group, and linear
// algebra in plain loops (definitions in plugin.h).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "host/check/host.hpp"

namespace ptq::check {
namespace {

// The nearest number of a scale type, or NaN when there is none.
float as_scale(float s, int32_t type) {
  if (!std::isfinite(s)) return NAN;
  switch (type) {
    case PTQ_SCALE_FLOAT16: return std::isfinite(as_float16(s)) ? as_float16(s) : NAN;
    case PTQ_SCALE_FLOAT32: return s;
    case PTQ_SCALE_E4M3: {
      if (std::fabs(s) > 448) return NAN;
      const int exponent = std::max(s == 0 ? -6 : std::ilogb(s), -6);  // steps of 2^-9 below 2^-6
      return std::ldexp(std::nearbyint(std::ldexp(s, 3 - exponent)), exponent - 3);
    }
    case PTQ_SCALE_E8M0: {
      if (!(s > 0)) return NAN;
      const int below = std::ilogb(s);  // half up in the exponent: at the root of two
      const bool up = s / std::ldexp(1.0f, below) >= 1.41421356f;
      return std::ldexp(1.0f, std::clamp(below + (up ? 1 : 0), -127, 127));
    }
    default: return NAN;
  }
}
uint64_t scale_bytes(int32_t type) {
  return type == PTQ_SCALE_FLOAT32 ? 4 : type == PTQ_SCALE_FLOAT16 ? 2 : 1;
}

}  // namespace

ptq_status Host::grouped_codes(const ptq_call* call, const ptq_tensor* codes,
                               const ptq_tensor* levels, const ptq_tensor* scale,
                               const ptq_tensor* offset, const ptq_codebook* how,
                               ptq_encoding* out) noexcept {
  const auto refuse = [&](const std::string& problem) {
    return Host::refuse(call, "ptq.encode.codebook/1: " + problem);
  };
  if (reinterpret_cast<const Encoding*>(out)->cache)
    return refuse("a scale per group of columns is for weights");
  if (!PTQ_HAS(how, tensor_scale)) return refuse("ptq_codebook.struct_size is too small");
  const int b = how->bits;
  if (b != 1 && b != 2 && b != 3 && b != 4 && b != 8)
    return refuse(fmt::format("bits = {}, but only 1, 2, 3, 4 and 8 exist", b));
  if (offset) return refuse("a scale per group takes no offset");
  if (how->group_size < 0) return refuse(fmt::format("group_size = {}", how->group_size));
  if (!(how->tensor_scale >= 0) || !std::isfinite(how->tensor_scale))
    return refuse(fmt::format("tensor_scale = {}", how->tensor_scale));
  Shape shape{};
  const std::string problem = problem_of(codes, {PTQ_UINT, 8, 1}, shape);
  if (!problem.empty()) return refuse(problem);
  const int64_t group =
      how->group_size == 0 || how->group_size > shape.columns ? shape.columns : how->group_size;
  const int64_t groups = (shape.columns + group - 1) / group;
  const auto numbers = [](const ptq_tensor* x, int64_t count) {
    if (!x || !x->data || x->dtype.code != PTQ_FLOAT || x->dtype.bits != 32 || x->ndim < 1 ||
        x->ndim > 6)
      return std::vector<float>();
    std::vector<float> all = gather<float>(*x);
    return int64_t(all.size()) == count ? all : std::vector<float>();
  };
  const std::vector<float> level = numbers(levels, int64_t(1) << b),
                           s = numbers(scale, shape.rows * groups);
  if (level.empty() || s.empty()) return refuse("levels or scale have the wrong shape or dtype");
  for (const float l : level)
    if (!std::isfinite(l)) return refuse("a level is not finite");
  Encoding encoding;
  encoding.decoded = true;
  encoding.batch = shape.batch;
  encoding.rows = shape.rows;
  encoding.columns = shape.columns;
  const std::vector<uint8_t> code = gather<uint8_t>(*codes);
  for (size_t i = 0; i < code.size(); ++i) {
    if (code[i] >> b != 0) return refuse(fmt::format("code {} is {}", i, code[i]));
    const int64_t r = int64_t(i) / shape.columns, c = int64_t(i) % shape.columns;
    const float stored = as_scale(s[size_t(r * groups + c / group)], how->scale_type);
    if (std::isnan(stored)) return refuse("a scale has no number in its type");
    const float whole = how->tensor_scale > 0 ? how->tensor_scale : 1.0f;
    encoding.values.push_back(level[code[i]] * (stored * whole));
  }
  encoding.bytes = uint64_t(shape.rows) * packed_bytes(shape.columns, b) +
                   uint64_t(shape.rows * groups) * scale_bytes(how->scale_type) + 4 * level.size() +
                   (how->tensor_scale > 0 ? 4 : 0);
  return take(call, out, std::move(encoding));
}

// ---- ptq.math/1 ----

void Host::parallel(const ptq_call* call, int64_t count, void (*task)(void*, int64_t),
                    void* context) noexcept {
  switch (of(call).tasks) {
    case Tasks::backwards:
      for (int64_t i = count - 1; i >= 0; --i) task(context, i);
      break;
    case Tasks::forwards:
      for (int64_t i = 0; i < count; ++i) task(context, i);
      break;
    case Tasks::threads: {
      std::atomic<int64_t> next{0};
      const auto work = [&] {
        for (int64_t i; (i = next++) < count;) task(context, i);
      };
      std::thread threads[] = {std::thread(work), std::thread(work), std::thread(work)};
      for (std::thread& thread : threads) thread.join();
    }
  }
}

void Host::gemm(const ptq_call*, int32_t ta, int32_t tb, int64_t m, int64_t n, int64_t k,
                float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                float* c, int64_t ldc) noexcept {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p)
        sum += double(ta ? a[p * lda + i] : a[i * lda + p]) *
               double(tb ? b[j * ldb + p] : b[p * ldb + j]);
      const float old = beta == 0 ? 0.0f : beta * c[i * ldc + j];
      c[i * ldc + j] = float(double(alpha) * sum) + old;
    }
}

int64_t Host::cholesky(const ptq_call*, int64_t n, float* a) noexcept {
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = j; i < n; ++i) {
      double sum = double(a[i * n + j]);
      for (int64_t p = 0; p < j; ++p) sum -= double(a[i * n + p]) * double(a[j * n + p]);
      if (i > j) {
        a[i * n + j] = float(sum / double(a[j * n + j]));
        continue;
      }
      if (!(sum > 0)) return j + 1;
      a[j * n + j] = float(std::sqrt(sum));
      std::fill(a + j * n + j + 1, a + (j + 1) * n, 0.0f);
    }
  return 0;
}

int64_t Host::invert_lower(const ptq_call*, int64_t n, float* a) noexcept {
  for (int64_t i = 0; i < n; ++i)
    if (a[i * n + i] == 0) return i + 1;
  std::vector<double> inverse(size_t(n * n));
  for (int64_t j = 0; j < n; ++j) {
    inverse[size_t(j * n + j)] = 1.0 / double(a[j * n + j]);
    for (int64_t i = j + 1; i < n; ++i) {
      double sum = 0;
      for (int64_t p = j; p < i; ++p) sum -= double(a[i * n + p]) * inverse[size_t(p * n + j)];
      inverse[size_t(i * n + j)] = sum / double(a[i * n + i]);
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) a[i * n + j] = float(inverse[size_t(i * n + j)]);
  return 0;
}

// By turns of two axes (Jacobi), then sorted.
int64_t Host::eigen(const ptq_call*, int64_t n, float* a, float* w) noexcept {
  std::vector<double> m(a, a + n * n), v(size_t(n * n));
  for (int64_t i = 0; i < n; ++i) v[size_t(i * n + i)] = 1;
  for (int sweep = 0; sweep < 60; ++sweep)
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) {
        const double apq = m[size_t(p * n + q)];
        if (apq == 0) continue;
        const double angle = 0.5 * std::atan2(2 * apq, m[size_t(q * n + q)] - m[size_t(p * n + p)]);
        const double c = std::cos(angle), s = std::sin(angle);
        const auto turn = [&](std::vector<double>& x, int64_t ip, int64_t iq) {
          const double xp = x[size_t(ip)], xq = x[size_t(iq)];
          x[size_t(ip)] = c * xp - s * xq;
          x[size_t(iq)] = s * xp + c * xq;
        };
        for (int64_t k = 0; k < n; ++k) turn(m, k * n + p, k * n + q);
        for (int64_t k = 0; k < n; ++k) turn(m, p * n + k, q * n + k);
        for (int64_t k = 0; k < n; ++k) turn(v, k * n + p, k * n + q);
      }
  std::vector<int64_t> order(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[size_t(i)] = i;
  std::sort(order.begin(), order.end(),
            [&](int64_t x, int64_t y) { return m[size_t(x * n + x)] < m[size_t(y * n + y)]; });
  for (int64_t i = 0; i < n; ++i) {
    w[i] = float(m[size_t(order[size_t(i)] * n + order[size_t(i)])]);
    for (int64_t k = 0; k < n; ++k) a[k * n + i] = float(v[size_t(k * n + order[size_t(i)])]);
  }
  return 0;
}

}  // namespace ptq::check
