// Vectors of float by the compiler's vector extension, where they lie, and the exponential built on
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace ptq::cpu {

// As wide as one register of the target, so that small arrays of them stay in registers.
#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
typedef float VecF __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));

inline VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, VecF v) { std::memcpy(p, &v, sizeof v); }

// Numbers of a line of the caches, and the first line at or behind p. Vectors that lie across two
// lines cost twice.
inline constexpr int64_t kLine = 16;
inline float* next_line(float* p) {
  return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64 / sizeof(float);
}

// One number of all lanes: the halves of v are joined, then the halves of that, in registers.
template <class Join>
inline float fold(VecF v, const Join& join) {
#ifdef __clang__  // has no shuffle by a variable, and finds the registers itself
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = join(lanes[i], lanes[i + half]);
  return lanes[0];
#else
  static constexpr int32_t kLane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  VecI lane;
  std::memcpy(&lane, kLane, sizeof lane);
  for (int half = kLanes / 2; half > 0; half /= 2) v = join(v, __builtin_shuffle(v, lane ^ half));
  return v[0];
#endif
}

// Largest and sum of n numbers, n a multiple of kLanes.
inline float largest(const float* p, int64_t n) {
  VecF top = load(p);
  for (int64_t i = kLanes; i < n; i += kLanes) {
    const VecF x = load(p + i);
    top = x > top ? x : top;
  }
  return fold(top, [](auto low, auto high) { return high > low ? high : low; });
}
inline float total(const float* p, int64_t n) {
  VecF sum = load(p);
  for (int64_t i = kLanes; i < n; i += kLanes) sum += load(p + i);
  return fold(sum, [](auto low, auto high) { return low + high; });
}

// Dot product of n numbers.
inline float dot(const float* a, const float* b, int64_t n) {
  VecF acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int v = 0; v < 4; ++v) acc[v] += load(a + i + v * kLanes) * load(b + i + v * kLanes);
  for (; i + kLanes <= n; i += kLanes) acc[0] += load(a + i) * load(b + i);
  const VecF sum = (acc[0] + acc[1]) + (acc[2] + acc[3]);
  float total = 0;
  for (int v = 0; v < kLanes; ++v) total += sum[v];
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

// exp(x) for x <= 88, relative error below 2e-7; 0 for x below -87.3 (and for -inf).
// exp(x) = 2^k exp(r), r = x - k ln 2 in [-ln2/2, ln2/2], exp(r) by its series to degree 7.
inline float exp_nonpositive(float x) {
  const float clamped = x < -87.3f ? -87.3f : x;
  const float shifted =
      clamped * 1.44269504f + 12582912.0f;  // rounds to an integer in the mantissa
  const float k = shifted - 12582912.0f;
  const float r = (clamped - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &p, 4);
  bits += int32_t(k) << 23;
  float result;
  std::memcpy(&result, &bits, 4);
  return x < -87.3f ? 0.0f : result;
}

// C [rows, columns] (+)= A [rows, k] B [k, columns], row-major; columns is a multiple of kLanes and
// B and C have that many readable columns. Plain register blocking: 4 rows by 4 vectors.
inline void small_gemm(const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                       int64_t ldc, int64_t rows, int64_t columns, int64_t k, bool accumulate) {
  const auto block = [&](auto row_count, auto vector_count, int64_t i, int64_t j) {
    constexpr int R = decltype(row_count)::value, V = decltype(vector_count)::value;
    VecF acc[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        acc[r][v] = accumulate ? load(c + (i + r) * ldc + j + v * kLanes) : VecF{};
    for (int64_t p = 0; p < k; ++p) {
      VecF bv[V];
      for (int v = 0; v < V; ++v) bv[v] = load(b + p * ldb + j + v * kLanes);
      for (int r = 0; r < R; ++r) {
        const float x = a[(i + r) * lda + p];
        for (int v = 0; v < V; ++v) acc[r][v] += x * bv[v];
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(c + (i + r) * ldc + j + v * kLanes, acc[r][v]);
  };
  const auto rows_of = [&](auto row_count, int64_t i) {
    int64_t j = 0;
    for (; j + 4 * kLanes <= columns; j += 4 * kLanes)
      block(row_count, std::integral_constant<int, 4>{}, i, j);
    for (; j < columns; j += kLanes) block(row_count, std::integral_constant<int, 1>{}, i, j);
  };
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) rows_of(std::integral_constant<int, 4>{}, i);
  for (; i < rows; ++i) rows_of(std::integral_constant<int, 1>{}, i);
}

}  // namespace ptq::cpu
