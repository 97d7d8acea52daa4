// The low-rank encoding: chunks of rows X [T, D] as P Q, the truncated singular value decomposition
// (FORGE). P [T, r] holds eigenvectors of X X^T, Q = P^T X; the rank is the smallest that keeps a
// share of the energy sum(sigma^2).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/core/error.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/encoding.hpp"

namespace ptq {

// ---- arithmetic, host and device ---------------------------------------------------------------

// Eigenvectors of the symmetric matrix a [n, n], which is destroyed; the eigenvalues are left on
// its diagonal, v [n, n] gets one eigenvector per row. Cyclic Jacobi rotations (Golub and Van Loan,
// Matrix Computations, 8.5), until the off-diagonal part is negligible.
PTQ_HD inline void jacobi_eigen(double* a, int n, double* v) {
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) v[i * n + j] = i == j ? 1.0 : 0.0;
  double all = 0;
  for (int i = 0; i < n * n; ++i) all += a[i] * a[i];
  // An element below this adds nothing to the sum of squares that a double would show.
  const double negligible = 1e-28 * all / (double(n) * n);
  for (int sweep = 0; sweep < 30; ++sweep) {
    bool turned = false;
    for (int p = 0; p < n - 1; ++p)
      for (int q = p + 1; q < n; ++q) {
        const double apq = a[p * n + q];
        if (!(apq * apq > negligible)) continue;
        turned = true;
        const double app = a[p * n + p], aqq = a[q * n + q], tau = (aqq - app) / (2 * apq);
        const double t = (tau >= 0 ? 1.0 : -1.0) / (fabs(tau) + sqrt(1 + tau * tau));
        const double c = 1 / sqrt(1 + t * t), s = t * c;
        // a = J^T a J: rows p and q, then columns p and q, which are the same numbers.
        double *ap = a + p * n, *aq = a + q * n, *vp = v + p * n, *vq = v + q * n;
        for (int k = 0; k < n; ++k) {
          const double x = ap[k], y = aq[k], vx = vp[k], vy = vq[k];
          ap[k] = c * x - s * y;
          aq[k] = s * x + c * y;
          vp[k] = c * vx - s * vy;
          vq[k] = s * vx + c * vy;
        }
        for (int k = 0; k < n; ++k) {
          a[k * n + p] = ap[k];
          a[k * n + q] = aq[k];
        }
        a[p * n + p] = app - t * apq;
        a[q * n + q] = aqq + t * apq;
        a[p * n + q] = a[q * n + p] = 0;
      }
    if (!turned) return;
  }
}

// The smallest rank whose eigenvalues (descending, >= 0) sum to `energy` of the total; the
// numerical rank where energy is 1; 0 for a matrix of zeros. Not yet clamped to limits.
PTQ_HD inline int rank_of_energy(const double* eigenvalues, int n, double energy) {
  double total = 0, sum = 0;
  for (int i = 0; i < n; ++i) total += eigenvalues[i];
  if (!(total > 0)) return 0;
  int rank = 0;
  if (energy >= 1) {
    while (rank < n && eigenvalues[rank] > n * 2.220446049250313e-16 * eigenvalues[0]) ++rank;
    return rank;
  }
  while (rank < n && sum < energy * total) sum += eigenvalues[rank++];
  return rank;
}

// Bytes of a chunk: float16 numbers and one byte for its rank.
PTQ_HD constexpr int64_t lowrank_bytes(int64_t rank, int64_t chunk, int64_t columns, bool center) {
  return 2 * (rank * (chunk + columns) + (center ? columns : 0)) + 1;
}

// ---- storage -----------------------------------------------------------------------------------

// `batch` matrices (heads) [rows, columns] that grow together by whole chunks. A chunk is one byte,
// its rank or kRaw, and float16 numbers: mean [columns] (center), P [chunk, rank], Q [rank,
// columns]; or its rows.
class LowRankRows {
 public:
  static constexpr int kRaw = 255;

  LowRankRows(const LowRankFormat& format, int64_t batch, int64_t columns)
      : format_(format), batch_(batch), columns_(columns) {}

  const LowRankFormat& format() const { return format_; }
  int64_t rows() const { return rows_; }

  // x [batch, n, columns], n a multiple of the chunk.
  void append(const float* x, int64_t n) {
    const int64_t t = format_.chunk;
    std::vector<Factors> heads(static_cast<size_t>(batch_));
    for (int64_t r = 0; r < n; r += t) {
      int rank = 0;
      for (int64_t b = 0; b < batch_; ++b) {
        heads[size_t(b)] = factorise(x + (b * n + r) * columns_);
        rank = std::max(rank, heads[size_t(b)].rank);
      }
      for (int64_t b = 0; b < batch_; ++b) {
        Factors& f = heads[size_t(b)];
        if (format_.shared_rank && f.rank != kRaw && rank != kRaw) f.rank = rank;
        store(x + (b * n + r) * columns_, f);
      }
      rows_ += t;
    }
  }

  // Rows [begin, end) of one matrix to out [end - begin, stride].
  void decode(int64_t matrix, int64_t begin, int64_t end, float* out, int64_t stride) const {
    const int64_t t = format_.chunk;
    std::vector<float> q(size_t((std::min<int64_t>(t, columns_) + 1) * columns_)), p(size_t(t * t));
    for (int64_t r = begin; r < end;) {
      const int64_t chunk = r / t, last = std::min((chunk + 1) * t, end);
      const size_t c = size_t(chunk * batch_ + matrix);
      const uint16_t* data = data_.data() + offsets_[c];
      const int64_t rank = ranks_[c];
      if (rank == kRaw) {
        for (; r < last; ++r, out += stride)
          to_float(DType::f16, data + (r - chunk * t) * columns_, columns_, out);
        continue;
      }
      float* mean = q.data() + rank * columns_;
      if (format_.center) {
        to_float(DType::f16, data, columns_, mean);
        data += columns_;
      } else {
        std::fill_n(mean, columns_, 0.0f);
      }
      to_float(DType::f16, data, t * rank, p.data());
      to_float(DType::f16, data + t * rank, rank * columns_, q.data());
      for (; r < last; ++r, out += stride) {
        const float* pr = p.data() + (r - chunk * t) * rank;
        // The sums of a few columns stay in a register.
        using Floats = VectorOf<float, 16>::type;
        constexpr int64_t kColumns = 16;
        int64_t d = 0;
        for (; d + kColumns <= columns_; d += kColumns) {
          Floats sum, x;
          std::memcpy(&sum, mean + d, sizeof sum);
          for (int64_t i = 0; i < rank; ++i) {
            std::memcpy(&x, q.data() + i * columns_ + d, sizeof x);
            sum += pr[i] * x;
          }
          std::memcpy(out + d, &sum, sizeof sum);
        }
        for (; d < columns_; ++d) {
          out[d] = mean[d];
          for (int64_t i = 0; i < rank; ++i) out[d] += pr[i] * q[size_t(i * columns_ + d)];
        }
      }
    }
  }

  // Ranks (or kRaw) of all chunks, [chunk, matrix].
  const std::vector<uint8_t>& ranks() const { return ranks_; }

  uint64_t bytes() const { return 2 * data_.size() + ranks_.size(); }
  // The offsets of chunks follow from their ranks; they are kept to find a chunk at once.
  uint64_t allocated() const {
    return 2 * data_.capacity() + ranks_.capacity() + 8 * offsets_.capacity();
  }

  // What is stored, for a device that keeps a copy; offsets count numbers of data.
  struct Parts {
    std::span<const uint8_t> ranks;
    std::span<const uint64_t> offsets;
    std::span<const uint16_t> data;
  };
  Parts stored() const { return {ranks_, offsets_, data_}; }

  // Flips one bit of a stored number of the chunk that holds `row`: for tests.
  void flip_bit(int64_t matrix, int64_t row, int bit) {
    data_[offsets_[size_t(row / format_.chunk * batch_ + matrix)]] ^= uint16_t(1u << bit);
  }

 private:
  struct Factors {
    int rank = 0;                 // or kRaw
    std::vector<uint16_t> mean;   // float16 [columns], or empty
    std::vector<double> vectors;  // [chunk, chunk], one per row, largest eigenvalue first
    std::vector<float> centered;  // [chunk, columns]
  };

  Factors factorise(const float* x) const {
    const int t = int(format_.chunk);
    Factors f;
    f.centered.assign(x, x + t * columns_);
    if (format_.center) {
      std::vector<double> sum(static_cast<size_t>(columns_));
      for (int i = 0; i < t; ++i)
        for (int64_t d = 0; d < columns_; ++d) sum[size_t(d)] += x[i * columns_ + d];
      for (int64_t d = 0; d < columns_; ++d) {
        f.mean.push_back(float_to_f16(float(sum[size_t(d)] / t)));
        for (int i = 0; i < t; ++i)
          f.centered[size_t(i * columns_ + d)] -= f16_to_float(f.mean.back());
      }
    }
    std::vector<double> gram(size_t(t * t)), v(size_t(t * t)), values(static_cast<size_t>(t)),
        column(static_cast<size_t>(t));
    for (int64_t d = 0; d < columns_; ++d) {  // X X^T, one column of X at a time
      for (int i = 0; i < t; ++i) column[size_t(i)] = double(f.centered[size_t(i * columns_ + d)]);
      for (int i = 0; i < t; ++i)
        for (int j = 0; j < t; ++j)
          gram[size_t(i * t + j)] += column[size_t(i)] * column[size_t(j)];
    }
    jacobi_eigen(gram.data(), t, v.data());
    std::vector<int> order(static_cast<size_t>(t));
    for (int i = 0; i < t; ++i) order[size_t(i)] = i;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return gram[size_t(a * t + a)] > gram[size_t(b * t + b)];
    });
    f.vectors.resize(size_t(t * t));
    for (int i = 0; i < t; ++i) {
      const int from = order[size_t(i)];
      values[size_t(i)] = std::max(0.0, gram[size_t(from * t + from)]);
      std::copy_n(v.begin() + from * t, t, f.vectors.begin() + i * t);
      if (!std::isfinite(values[size_t(i)])) f.rank = kRaw;
    }
    if (f.rank == kRaw) return f;
    const int64_t limit = format_.max_rank > 0 ? format_.max_rank : t;
    const int largest = int(std::min<int64_t>({limit, t, columns_, 254}));
    f.rank = rank_of_energy(values.data(), t, format_.energy);
    if (values[0] > 0) f.rank = int(std::max<int64_t>(f.rank, format_.min_rank));
    f.rank = std::min(f.rank, largest);
    return f;
  }

  void store(const float* x, const Factors& f) {
    const int64_t t = format_.chunk, rank = f.rank;
    offsets_.push_back(data_.size());
    const size_t before = data_.size();
    const auto raw = [&] {
      data_.resize(before);
      for (int64_t i = 0; i < t * columns_; ++i) data_.push_back(float_to_f16(x[i]));
      ranks_.push_back(kRaw);
    };
    const bool larger = rank * (t + columns_) + (format_.center ? columns_ : 0) >= t * columns_;
    if (rank == kRaw || (format_.raw_fallback && larger)) return raw();
    bool fits = true;  // into float16
    const auto push = [&](double value) {
      data_.push_back(float_to_f16(float(value)));
      fits = fits && (data_.back() & 0x7C00u) != 0x7C00u;
    };
    data_.insert(data_.end(), f.mean.begin(), f.mean.end());
    for (int64_t i = 0; i < t; ++i)
      for (int64_t k = 0; k < rank; ++k) push(f.vectors[size_t(k * t + i)]);
    std::vector<double> row(static_cast<size_t>(columns_));
    for (int64_t k = 0; k < rank; ++k) {
      std::fill(row.begin(), row.end(), 0.0);
      for (int64_t i = 0; i < t; ++i)
        for (int64_t d = 0; d < columns_; ++d)
          row[size_t(d)] +=
              f.vectors[size_t(k * t + i)] * double(f.centered[size_t(i * columns_ + d)]);
      for (const double value : row) push(value);
    }
    if (!fits) return raw();
    ranks_.push_back(uint8_t(rank));
  }

  LowRankFormat format_;
  int64_t batch_, columns_, rows_ = 0;
  std::vector<uint8_t> ranks_;     // [chunk, matrix]
  std::vector<uint64_t> offsets_;  // [chunk, matrix], into data_
  std::vector<uint16_t> data_;     // float16
};

// Throws when a format cannot be stored.
inline void check_format(const LowRankFormat& f, int64_t rows, const std::string& where) {
  if (f.chunk < 1 || f.chunk > 256)
    throw usage_error("low-rank encoding with chunk = " + std::to_string(f.chunk), where,
                      "chunk is 1 to 256 rows");
  if (rows % f.chunk != 0)
    throw usage_error(
        std::to_string(rows) + " rows are not a multiple of chunk = " + std::to_string(f.chunk),
        where, "choose a block that is a multiple of the chunk");
  if (!(f.energy > 0) || !(f.energy <= 1))
    throw usage_error("low-rank encoding with energy = " + std::to_string(f.energy), where,
                      "energy lies above 0 and is at most 1");
  if (f.min_rank < 0 || f.max_rank < 0 || f.max_rank > 254)
    throw usage_error("low-rank encoding with ranks " + std::to_string(f.min_rank) + " to " +
                          std::to_string(f.max_rank),
                      where, "ranks are 0 to 254");
}

}  // namespace ptq
