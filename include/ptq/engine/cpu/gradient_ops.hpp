// The operations of the network, each with its derivative, for float and double. double is there to
// hold the formulas against finite differences; float is what runs.
//
// Formulas: every dY is the gradient of the scalar loss with respect to Y.
//   linear   Y = X W^T + b       dX = dY W, dW = dY^T X, db = sum of dY over the tokens
//   RMSNorm  y = w x r           dx = r g - x r^3 (g . x) / width, dw = sum of dy x r,
//            r = (mean(x^2) + eps)^(-1/2), g = dy w                           (arXiv 1910.07467)
//   SwiGLU   a = silu(g) u       du = da g s, dg = da u s (1 + g (1 - s)),
//            s = 1 / (1 + exp(-g))                                            (arXiv 2002.05202)
//   RoPE     a rotation, so its gradient is the rotation by the opposite angle (arXiv 2104.09864)
//   loss     mean of logsumexp(z) - z[target]; dz = (softmax(z) - onehot(target)) / count
#pragma once

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "ptq/core/threads.hpp"
#include "ptq/encoding/rotation.hpp"
#include "ptq/engine/cpu/simd.hpp"
#include "ptq/engine/weights/linear.hpp"

namespace ptq::cpu {

// C [m, n] = alpha op(A) op(B) + beta C, row-major, one thread.
inline void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k,
                 float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                 float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, int(m), int(n), int(k), alpha, a, int(lda), b, int(ldb), beta,
              c, int(ldc));
}
inline void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k,
                 double alpha, const double* a, int64_t lda, const double* b, int64_t ldb,
                 double beta, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, int(m), int(n), int(k), alpha, a, int(lda), b, int(ldb), beta,
              c, int(ldc));
}

// exp(x) for x <= 0.
inline float exp_of_nonpositive(float x) { return exp_nonpositive(x); }
inline double exp_of_nonpositive(double x) { return std::exp(x); }

// Sums and maxima in independent lanes, which the compiler turns into vectors.
template <class Real, class Term>
Real lane_sum(int64_t n, const Term& term) {
  constexpr int64_t kWide = 32;
  Real lanes[kWide] = {};
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide)
    for (int64_t v = 0; v < kWide; ++v) lanes[v] += term(i + v);
  for (; i < n; ++i) lanes[i % kWide] += term(i);
  for (int64_t w = kWide / 2; w > 0; w /= 2)
    for (int64_t v = 0; v < w; ++v) lanes[v] += lanes[v + w];
  return lanes[0];
}
template <class Real>
Real dot_of(const Real* a, const Real* b, int64_t n) {
  return lane_sum<Real>(n, [&](int64_t i) { return a[i] * b[i]; });
}
template <class Real>
Real largest_of(const Real* x, int64_t n) {
  constexpr int64_t kWide = 32;
  if (n < kWide) return *std::max_element(x, x + n);
  Real lanes[kWide];
  std::copy_n(x, kWide, lanes);
  int64_t i = kWide;
  for (; i + kWide <= n; i += kWide)
    for (int64_t v = 0; v < kWide; ++v) lanes[v] = lanes[v] < x[i + v] ? x[i + v] : lanes[v];
  for (; i < n; ++i) lanes[0] = std::max(lanes[0], x[i]);
  return *std::max_element(lanes, lanes + kWide);
}
// x becomes softmax(x); returns log(sum(exp(x))).
template <class Real>
Real softmax(Real* x, int64_t n) {
  const Real top = largest_of(x, n);
  for (int64_t i = 0; i < n; ++i) x[i] = exp_of_nonpositive(x[i] - top);
  const Real sum = lane_sum<Real>(n, [&](int64_t i) { return x[i]; });
  const Real inverse = 1 / sum;
  for (int64_t i = 0; i < n; ++i) x[i] *= inverse;
  return top + std::log(sum);
}

// All tensors are row-major [tokens, width]. Results do not depend on the number of threads.
template <class Real>
class GradientOps {
 public:
  explicit GradientOps(ThreadPool& pool) : pool_(&pool) {}
  ThreadPool& pool() const { return *pool_; }

  // y [n, out] = x [n, in] W^T + b; bias may be nullptr.
  void linear(const LinearWeight& w, const Real* bias, const Real* x, int64_t n, Real* y) const {
    const int64_t in = w.in(), out = w.out();
    tiles(n, out, [&](int64_t i0, int64_t i1, int64_t r0, int64_t r1) {
      thread_local std::vector<Real> decoded;
      const Real* rows = weight_rows(w, r0, r1, decoded);
      gemm(CblasNoTrans, CblasTrans, i1 - i0, r1 - r0, in, 1, x + i0 * in, in, rows, in, 0,
           y + i0 * out + r0, out);
      if (bias)
        for (int64_t i = i0; i < i1; ++i)
          for (int64_t r = r0; r < r1; ++r) y[i * out + r] += bias[r];
    });
  }
  // dx [n, in] = dy [n, out] W, or += with `add`. The weights are decoded some rows at a time.
  void linear_input_gradient(const LinearWeight& w, const Real* dy, int64_t n, bool add,
                             Real* dx) const {
    const int64_t in = w.in(), out = w.out(), step = std::max<int64_t>(kTile, kDecoded / in);
    std::vector<Real> decoded;
    for (int64_t r0 = 0; r0 < out; r0 += step) {
      const int64_t r1 = std::min(r0 + step, out);
      const Real* rows = in_place(w, r0);
      if (!rows) {
        decoded.resize(size_t((r1 - r0) * in));
        tiles(r1 - r0, 1, [&](int64_t b, int64_t e, int64_t, int64_t) {
          decode(w, r0 + b, r0 + e, decoded.data() + b * in);
        });
        rows = decoded.data();
      }
      tiles(n, in, [&](int64_t i0, int64_t i1, int64_t c0, int64_t c1) {
        gemm(CblasNoTrans, CblasNoTrans, i1 - i0, c1 - c0, r1 - r0, 1, dy + i0 * out + r0, out,
             rows + c0, in, add || r0 > 0 ? Real(1) : Real(0), dx + i0 * in + c0, in);
      });
    }
  }
  // dw [out, in] = dy^T x, or += with `add`.
  void linear_weight_gradient(const Real* dy, const Real* x, int64_t n, int64_t out, int64_t in,
                              bool add, Real* dw) const {
    tiles(out, in, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
      gemm(CblasTrans, CblasNoTrans, r1 - r0, c1 - c0, n, 1, dy + r0, out, x + c0, in,
           add ? Real(1) : Real(0), dw + r0 * in + c0, in);
    });
  }
  // db [out] = sum of dy over the tokens.
  static void bias_gradient(const Real* dy, int64_t n, int64_t out, Real* db) {
    std::fill(db, db + out, Real(0));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t r = 0; r < out; ++r) db[r] += dy[i * out + r];
  }

  void rms_norm(const Real* x, const Real* w, Real eps, int64_t n, int64_t width, Real* y) const {
    rows(n, [&](int64_t i) {
      const Real* xi = x + i * width;
      const Real r = inverse_norm(xi, eps, width);
      for (int64_t c = 0; c < width; ++c) y[i * width + c] = xi[c] * r * w[c];
    });
  }
  // dx += the gradient: the other branch of a residual connection is already there.
  void rms_norm_gradient(const Real* x, const Real* w, Real eps, const Real* dy, int64_t n,
                         int64_t width, Real* dx) const {
    rows(n, [&](int64_t i) {
      const Real *xi = x + i * width, *di = dy + i * width;
      const Real r = inverse_norm(xi, eps, width);
      const Real along = lane_sum<Real>(width, [&](int64_t c) { return di[c] * w[c] * xi[c]; });
      const Real back = r * r * r * along / Real(width);
      for (int64_t c = 0; c < width; ++c) dx[i * width + c] += r * di[c] * w[c] - xi[c] * back;
    });
  }
  // dw [width], or += with `add`.
  static void rms_norm_weight_gradient(const Real* x, Real eps, const Real* dy, int64_t n,
                                       int64_t width, bool add, Real* dw) {
    if (!add) std::fill(dw, dw + width, Real(0));
    for (int64_t i = 0; i < n; ++i) {
      const Real r = inverse_norm(x + i * width, eps, width);
      for (int64_t c = 0; c < width; ++c) dw[c] += dy[i * width + c] * x[i * width + c] * r;
    }
  }

  // Rotation in place of x [n, heads * dim], pairs i and i + dim/2; cosine, sine [n, dim / 2].
  // direction -1 is the gradient.
  void rope(Real* x, int64_t n, int64_t heads, int64_t dim, const Real* cosine, const Real* sine,
            int direction) const {
    const int64_t half = dim / 2;
    rows(n, [&](int64_t i) {
      const Real* __restrict c = cosine + i * half;
      const Real* __restrict s = sine + i * half;
      for (int64_t h = 0; h < heads; ++h) {
        Real* __restrict low = x + (i * heads + h) * dim;
        Real* __restrict high = low + half;
        for (int64_t d = 0; d < half; ++d)
          rotate_pair(low[d], high[d], c[d], Real(direction) * s[d]);
      }
    });
  }

  void swiglu(const Real* gate, const Real* up, int64_t n, int64_t width, Real* a) const {
    rows(n, [&](int64_t i) {
      for (int64_t c = i * width; c < (i + 1) * width; ++c)
        a[c] = gate[c] * sigmoid(gate[c]) * up[c];
    });
  }
  // gate and up become their gradients.
  void swiglu_gradient(const Real* da, int64_t n, int64_t width, Real* gate, Real* up) const {
    rows(n, [&](int64_t i) {
      for (int64_t c = i * width; c < (i + 1) * width; ++c) {
        const Real g = gate[c], s = sigmoid(g), u = up[c];
        up[c] = da[c] * g * s;
        gate[c] = da[c] * u * s * (1 + g * (1 - s));
      }
    });
  }

  // Logits z [n, vocab] become the gradient of the mean loss over `count` targets. Returns the sum
  // of the losses of these rows, nats.
  double cross_entropy(Real* z, const int32_t* targets, int64_t n, int64_t vocab,
                       int64_t count) const {
    std::vector<double> losses(static_cast<size_t>(n));
    const Real scale = 1 / Real(count);
    rows(n, [&](int64_t i) {
      Real* zi = z + i * vocab;
      const Real at_target = zi[targets[i]];
      losses[size_t(i)] = double(softmax(zi, vocab) - at_target);
      zi[targets[i]] -= 1;
      for (int64_t c = 0; c < vocab; ++c) zi[c] *= scale;
    });
    double sum = 0;
    for (const double loss : losses) sum += loss;
    return sum;
  }

  void add(Real* x, const Real* y, int64_t n, int64_t width) const {
    rows(n, [&](int64_t i) {
      for (int64_t c = i * width; c < (i + 1) * width; ++c) x[c] += y[c];
    });
  }

 private:
  static constexpr int64_t kTile = 256;                  // rows and columns of one product
  static constexpr int64_t kDecoded = int64_t{1} << 23;  // decoded weights at once

  // fn(row, end, column, end) for every tile of a matrix. Tiles do not depend on the number of
  // threads; taking both directions means that a product packs its operands few times.
  template <class Fn>
  void tiles(int64_t rows, int64_t columns, const Fn& fn) const {
    const int64_t down = (rows + kTile - 1) / kTile, across = (columns + kTile - 1) / kTile;
    pool_->for_each(down * across, [&](int64_t task) {
      const int64_t r = task / across * kTile, c = task % across * kTile;
      fn(r, std::min(r + kTile, rows), c, std::min(c + kTile, columns));
    });
  }
  template <class Fn>
  void rows(int64_t n, const Fn& fn) const {
    constexpr int64_t kRows = 16;
    pool_->for_each((n + kRows - 1) / kRows, [&](int64_t task) {
      for (int64_t i = task * kRows; i < std::min((task + 1) * kRows, n); ++i) fn(i);
    });
  }

  static Real inverse_norm(const Real* x, Real eps, int64_t width) {
    return 1 / std::sqrt(dot_of(x, x, width) / Real(width) + eps);
  }
  // From exp(-|g|), which cannot overflow.
  static Real sigmoid(Real g) {
    const Real e = exp_of_nonpositive(g < 0 ? g : -g);
    return (g < 0 ? e : Real(1)) / (1 + e);
  }

  static const Real* in_place(const LinearWeight& w, int64_t begin) {
    if constexpr (std::is_same_v<Real, float>) return w.in_place(begin);
    (void)w;
    (void)begin;
    return nullptr;
  }
  static void decode(const LinearWeight& w, int64_t begin, int64_t end, Real* to) {
    if constexpr (std::is_same_v<Real, float>) {
      w.decode(begin, end, to);
    } else {
      std::vector<float> single(size_t((end - begin) * w.in()));
      w.decode(begin, end, single.data());
      std::copy(single.begin(), single.end(), to);
    }
  }
  static const Real* weight_rows(const LinearWeight& w, int64_t begin, int64_t end,
                                 std::vector<Real>& decoded) {
    if (const Real* rows = in_place(w, begin)) return rows;
    decoded.resize(size_t((end - begin) * w.in()));
    decode(w, begin, end, decoded.data());
    return decoded.data();
  }

  ThreadPool* pool_;
};

}  // namespace ptq::cpu
