// The low-rank encoding: chunks of rows X [T, D] as P Q, the truncated singular value decomposition
// (FORGE). P [T, r] holds eigenvectors of X X^T and Q = P^T X, or, where T > D, Q [r, D] holds
// those of X^T X and P = X Q^T; the rank is the smallest that keeps a share of the energy
// sum(sigma^2).
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

// Eigenvalues and eigenvectors of the symmetric matrix a [n, n], which is used up: values [n], not
// sorted, and v [n, n], one eigenvector per row. work has 3 n numbers. Householder reduction to a
// tridiagonal matrix, then implicit QL with Wilkinson's shift (Golub and Van Loan, Matrix
// Computations, 8.3); eigenvectors are rows so that every inner loop runs along memory.
PTQ_HD inline void symmetric_eigen(double* a, int n, double* values, double* v, double* work) {
  double *tau = work, *off = work + n, *w = work + 2 * n;  // off[i]: element (i, i + 1)
  // Step k reflects row k behind the diagonal onto its first element: H = 1 - tau x x^T, x[0] = 1.
  for (int k = 0; k + 1 < n; ++k) {
    const int m = n - k - 1;
    double* x = a + k * n + k + 1;
    double rest = 0;
    for (int i = 1; i < m; ++i) rest += x[i] * x[i];
    off[k] = x[0];
    tau[k] = 0;
    if (!(rest > 0)) continue;
    const double norm = sqrt(x[0] * x[0] + rest), to = x[0] > 0 ? -norm : norm, first = x[0] - to;
    off[k] = to;
    tau[k] = -first / to;
    x[0] = 1;
    for (int i = 1; i < m; ++i) x[i] /= first;
    // The rest becomes H S H = S - x w^T - w x^T.
    double* s = a + (k + 1) * n + k + 1;
    double along = 0;
    for (int i = 0; i < m; ++i) w[i] = 0;
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < m; ++j) w[j] += tau[k] * x[i] * s[i * n + j];
    for (int i = 0; i < m; ++i) along += w[i] * x[i];
    for (int i = 0; i < m; ++i) w[i] -= 0.5 * tau[k] * along * x[i];
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < m; ++j) s[i * n + j] -= x[i] * w[j] + w[i] * x[j];
  }
  off[n - 1] = 0;
  for (int i = 0; i < n; ++i) {
    values[i] = a[i * n + i];
    for (int j = 0; j < n; ++j) v[i * n + j] = i == j;
  }
  for (int k = n - 2; k >= 0; --k) {  // v = v H
    const int m = n - k - 1;
    const double* x = a + k * n + k + 1;
    if (tau[k] == 0) continue;
    for (int i = k + 1; i < n; ++i) {
      double* row = v + i * n + k + 1;
      double sum = 0;
      for (int j = 0; j < m; ++j) sum += row[j] * x[j];
      for (int j = 0; j < m; ++j) row[j] -= tau[k] * sum * x[j];
    }
  }
  // Chases the elements beside the diagonal to nothing, one eigenvalue after the other; 2 or 3
  // rounds each, the limit is for numbers that are not finite.
  for (int l = 0; l < n; ++l)
    for (int round = 0; round < 50; ++round) {
      int m = l;  // the block l .. m has no zero beside its diagonal
      while (m + 1 < n &&
             !(fabs(off[m]) <= 2.220446049250313e-16 * (fabs(values[m]) + fabs(values[m + 1]))))
        ++m;
      if (m == l) break;
      double g = (values[l + 1] - values[l]) / (2 * off[l]), r = sqrt(g * g + 1);
      g = values[m] - values[l] + off[l] / (g + (g >= 0 ? r : -r));
      double s = 1, c = 1, p = 0;
      int i = m - 1;
      for (; i >= l; --i) {
        const double f = s * off[i], b = c * off[i];
        off[i + 1] = r = sqrt(f * f + g * g);
        if (r == 0) break;  // the block falls apart here
        s = f / r;
        c = g / r;
        g = values[i + 1] - p;
        r = (values[i] - g) * s + 2 * c * b;
        p = s * r;
        values[i + 1] = g + p;
        g = c * r - b;
        double *vi = v + i * n, *vj = vi + n;
        for (int k = 0; k < n; ++k) {
          const double x = vi[k], y = vj[k];
          vi[k] = c * x - s * y;
          vj[k] = s * x + c * y;
        }
      }
      off[m] = 0;
      if (i >= l) {
        values[i + 1] -= p;
      } else {
        values[l] -= p;
        off[l] = g;
      }
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
  static constexpr int kRaw = LowRankFormat::kRaw;

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
  // One chunk X, its mean taken off, and the eigenvectors of X X^T, or of X^T X where that is the
  // smaller matrix.
  struct Factors {
    int rank = 0;                 // or kRaw
    std::vector<uint16_t> mean;   // float16 [columns], or empty
    std::vector<float> centered;  // [chunk, columns]
    std::vector<float> vectors;   // [n, n], n = min(chunk, columns); one per row, largest first
  };

  Factors factorise(const float* x) const {
    const int64_t t = format_.chunk;
    const int n = int(std::min(t, columns_));
    Factors f;
    f.centered.assign(x, x + t * columns_);
    if (format_.center) {
      std::vector<double> sum(static_cast<size_t>(columns_));
      for (int64_t i = 0; i < t; ++i)
        for (int64_t d = 0; d < columns_; ++d) sum[size_t(d)] += x[i * columns_ + d];
      std::vector<float> mean(static_cast<size_t>(columns_));
      for (int64_t d = 0; d < columns_; ++d) mean[size_t(d)] = float(sum[size_t(d)] / double(t));
      f.mean.resize(mean.size());
      from_float(DType::f16, mean.data(), columns_, f.mean.data());
      to_float(DType::f16, f.mean.data(), columns_, mean.data());
      for (int64_t i = 0; i < t; ++i)
        for (int64_t d = 0; d < columns_; ++d)
          f.centered[size_t(i * columns_ + d)] -= mean[size_t(d)];
    }
    // Y^T Y of Y = X^T or X, whose rows have n numbers.
    std::vector<double> gram(size_t(n) * size_t(n)), y(static_cast<size_t>(n));
    for (int64_t r = 0; r < std::max(t, columns_); ++r) {
      for (int i = 0; i < n; ++i)
        y[size_t(i)] =
            double(f.centered[size_t(t <= columns_ ? i * columns_ + r : r * columns_ + i)]);
      for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) gram[size_t(i * n + j)] += y[size_t(i)] * y[size_t(j)];
    }
    std::vector<double> values(y.size()), v(gram.size()), work(3 * y.size());
    symmetric_eigen(gram.data(), n, values.data(), v.data(), work.data());
    for (const double value : values)
      if (!std::isfinite(value)) f.rank = kRaw;
    if (f.rank == kRaw) return f;
    std::vector<int> order(y.size());
    for (int i = 0; i < n; ++i) order[size_t(i)] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return values[size_t(a)] > values[size_t(b)]; });
    f.vectors.resize(v.size());
    std::vector<double> energies;
    for (const int from : order) {
      std::copy_n(v.begin() + from * n, n, f.vectors.begin() + int64_t(energies.size()) * n);
      energies.push_back(std::max(0.0, values[size_t(from)]));
    }
    const int64_t limit = format_.max_rank > 0 ? format_.max_rank : n;
    const int largest = int(std::min<int64_t>({limit, n, 254}));
    f.rank = rank_of_energy(energies.data(), n, format_.energy);
    if (energies[0] > 0) f.rank = int(std::max<int64_t>(f.rank, format_.min_rank));
    f.rank = std::min(f.rank, largest);
    return f;
  }

  void store(const float* x, const Factors& f) {
    const int64_t t = format_.chunk, rank = f.rank, n = std::min(t, columns_);
    const size_t before = data_.size();
    offsets_.push_back(before);
    const auto put = [&](const float* numbers, int64_t count) {
      data_.resize(data_.size() + size_t(count));
      from_float(DType::f16, numbers, count, data_.data() + data_.size() - count);
    };
    const auto raw = [&] {
      data_.resize(before);
      put(x, t * columns_);
      ranks_.push_back(kRaw);
    };
    const bool larger = rank * (t + columns_) + (format_.center ? columns_ : 0) >= t * columns_;
    if (rank == kRaw || (format_.raw_fallback && larger)) return raw();
    std::vector<float> p(size_t(t * rank)), q(size_t(rank * columns_));
    for (int64_t k = 0; k < rank; ++k) {
      const float* vector = f.vectors.data() + k * n;
      float* row = q.data() + k * columns_;
      if (n < t) std::copy_n(vector, n, row);
      for (int64_t i = 0; i < t; ++i) {
        const float* xi = f.centered.data() + i * columns_;
        float& pik = p[size_t(i * rank + k)];
        if (n < t) {  // P = X Q^T
          for (int64_t d = 0; d < columns_; ++d) pik += xi[d] * row[d];
        } else {  // Q = P^T X
          pik = vector[i];
          for (int64_t d = 0; d < columns_; ++d) row[d] += pik * xi[d];
        }
      }
    }
    data_.insert(data_.end(), f.mean.begin(), f.mean.end());
    put(p.data(), t * rank);
    put(q.data(), rank * columns_);
    for (size_t i = before; i < data_.size(); ++i)  // a factor may be beyond float16
      if ((data_[i] & 0x7C00u) == 0x7C00u) return raw();
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
