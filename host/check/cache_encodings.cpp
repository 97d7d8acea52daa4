// The three encodings of the check's own host that only a cache has: codebook, low rank, outliers
// (definitions in plugin.h). They are decoded at once; a plugin sees no difference.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "host/check/host.hpp"

namespace ptq::check {
namespace {

// Why an encoding of this kind has no place here, or "".
std::string no_place(const ptq_encoding* out) {
  if (reinterpret_cast<const Encoding*>(out)->cache) return {};
  return "it is for the KV cache; weights take affine, dense and codebook with a scale per group";
}

Encoding begin_encoding(const Shape& shape) {
  Encoding encoding;
  encoding.decoded = true;
  encoding.batch = shape.batch;
  encoding.rows = shape.rows;
  encoding.columns = shape.columns;
  return encoding;
}

// Float32 numbers of a tensor of any rank; empty when there is something wrong with it.
std::vector<float> numbers(const ptq_tensor* x, int64_t count) {
  if (!x || x->ndim < 1 || x->ndim > 6 || !x->data || x->dtype.code != PTQ_FLOAT ||
      x->dtype.bits != 32) {
    return {};
  }
  int64_t n = 1;
  for (int i = 0; i < x->ndim; ++i) n *= x->shape[i];
  return n == count ? gather<float>(*x) : std::vector<float>();
}

// Rows of x [t, columns] turned among themselves until they are orthogonal (one-sided Jacobi,
// Hestenes 1958); j [t, t] collects the turns, so that x = j^T y.
void orthogonalise(std::vector<double>& y, std::vector<double>& j, int64_t t, int64_t columns) {
  const auto dot = [&](int64_t a, int64_t b) {
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c)
      sum += y[size_t(a * columns + c)] * y[size_t(b * columns + c)];
    return sum;
  };
  for (int64_t i = 0; i < t; ++i) j[size_t(i * t + i)] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool turned = false;
    for (int64_t a = 0; a < t; ++a) {
      for (int64_t b = a + 1; b < t; ++b) {
        const double aa = dot(a, a), bb = dot(b, b), ab = dot(a, b);
        if (std::abs(ab) <= 1e-13 * std::sqrt(aa * bb) || ab == 0) continue;
        turned = true;
        const double angle = 0.5 * std::atan2(2 * ab, aa - bb);
        const double c = std::cos(angle), s = std::sin(angle);
        const auto turn = [&](std::vector<double>& m, int64_t width) {
          for (int64_t k = 0; k < width; ++k) {
            double &p = m[size_t(a * width + k)], &q = m[size_t(b * width + k)];
            const double old = p;
            p = c * old + s * q;
            q = c * q - s * old;
          }
        };
        turn(y, columns);
        turn(j, t);
      }
    }
    if (!turned) return;
  }
}

// One chunk of one matrix: rows - mean = j^T y, where the rows of y are orthogonal.
struct Factored {
  int64_t rank = 0;
  std::vector<float> mean;
  std::vector<double> y, j, energy;
  std::vector<int64_t> order;  // rows of y by falling energy
  bool finite = true;          // the mean, and so everything, is within float16
};

int64_t rank_of(const Factored& f, int64_t t, int64_t columns, const ptq_lowrank& how) {
  double total = 0, sum = 0;
  for (const double e : f.energy) total += e;
  if (!(total > 0)) return 0;
  const auto energy = [&](int64_t k) { return f.energy[size_t(f.order[size_t(k)])]; };
  const int64_t n = std::min(t, columns);
  const double tiny = double(n) * 2.2e-16 * energy(0);
  int64_t rank = 0;
  for (; rank < n; sum += energy(rank++))
    if (how.energy >= 1 ? energy(rank) <= tiny : sum >= how.energy * total) break;
  rank = std::max(rank, how.min_rank);
  if (how.max_rank > 0) rank = std::min(rank, how.max_rank);
  return std::min({rank, n, int64_t(254)});
}

// rows [t, columns].
Factored factorise(const float* rows, int64_t t, int64_t columns, const ptq_lowrank& how) {
  Factored f;
  f.mean.resize(size_t(columns));
  for (int64_t c = 0; (how.flags & PTQ_LOWRANK_CENTER) && c < columns; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < t; ++i) sum += rows[i * columns + c];
    f.mean[size_t(c)] = as_float16(float(sum / double(t)));
    if (!std::isfinite(f.mean[size_t(c)])) f.finite = false;
  }
  if (!f.finite) return f;
  for (int64_t i = 0; i < t * columns; ++i)
    f.y.push_back(double(rows[i]) - double(f.mean[size_t(i % columns)]));
  f.j.resize(size_t(t * t));
  orthogonalise(f.y, f.j, t, columns);
  for (int64_t i = 0; i < t; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c)
      sum += f.y[size_t(i * columns + c)] * f.y[size_t(i * columns + c)];
    f.energy.push_back(sum);
  }
  f.order.resize(size_t(t));
  std::iota(f.order.begin(), f.order.end(), 0);
  std::stable_sort(f.order.begin(), f.order.end(),
                   [&](int64_t a, int64_t b) { return f.energy[size_t(a)] > f.energy[size_t(b)]; });
  f.rank = rank_of(f, t, columns, how);
  return f;
}

// What the float16 factors decode to, [t, columns]; nothing where one is beyond float16.
std::vector<float> product(const Factored& f, int64_t t, int64_t columns) {
  std::vector<float> out;
  if (!f.finite) return out;
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t c = 0; c < columns; ++c) {
      double value = f.mean[size_t(c)];
      for (int64_t k = 0; k < f.rank; ++k) {
        const int64_t row = f.order[size_t(k)];
        value += double(as_float16(float(f.j[size_t(row * t + i)]))) *
                 double(as_float16(float(f.y[size_t(row * columns + c)])));
      }
      if (!std::isfinite(value)) return {};
      out.push_back(float(value));
    }
  }
  return out;
}

}  // namespace

ptq_status Host::codebook_codes(const ptq_call* call, const ptq_tensor* codes,
                                const ptq_tensor* levels, const ptq_tensor* scale,
                                const ptq_tensor* offset, const ptq_codebook* how,
                                ptq_encoding* out) noexcept {
  const auto refuse = [&](const std::string& problem) {
    return Host::refuse(call, "ptq.encode.codebook/1: " + problem);
  };
  if (!how || !PTQ_HAS(how, reserved)) return refuse("struct_size is too small");
  if (how->scaling == PTQ_SCALE_PER_GROUP)
    return grouped_codes(call, codes, levels, scale, offset, how, out);
  Shape shape{};
  const std::string problem = problem_of(codes, {PTQ_UINT, 8, 1}, shape);
  if (!problem.empty()) return refuse(problem);
  if (const std::string why = no_place(out); !why.empty()) return refuse(why);
  const int b = how->bits;
  if (b != 1 && b != 2 && b != 3 && b != 4 && b != 8) {
    return refuse(fmt::format("bits = {}, but only 1, 2, 3, 4 and 8 exist", b));
  }
  const int64_t count = how->scaling == PTQ_SCALE_PER_ROW      ? shape.batch * shape.rows
                        : how->scaling == PTQ_SCALE_PER_TOKEN  ? shape.rows
                        : how->scaling == PTQ_SCALE_PER_COLUMN ? shape.batch * shape.columns
                                                               : -1;
  if (count < 0) return refuse(fmt::format("scaling = {}, not PTQ_SCALE_*", how->scaling));
  const std::vector<float> level = numbers(levels, int64_t(1) << b), s = numbers(scale, count),
                           o = offset ? numbers(offset, count) : std::vector<float>();
  if (level.empty()) return refuse("levels is not float32 [2^bits]");
  if (int64_t(s.size()) != count || (offset && int64_t(o.size()) != count)) {
    return refuse(fmt::format("scale or offset is not float32 of {} elements", count));
  }
  for (const std::vector<float>* list : {&level, &s, &o}) {
    for (const float value : *list) {
      if (!std::isfinite(list == &level ? value : as_float16(value))) {
        return refuse("a level, scale or offset is not finite");
      }
    }
  }
  Encoding encoding = begin_encoding(shape);
  encoding.form = fmt::format("codebook, {} bits, scaling {}, {}", b, how->scaling,
                              offset ? "with offsets" : "without offsets");
  encoding.shared = level;
  if (how->scaling == PTQ_SCALE_PER_COLUMN)
    for (const std::vector<float>* list : {&s, &o})
      for (const float value : *list) encoding.shared.push_back(as_float16(value));
  const std::vector<uint8_t> q = gather<uint8_t>(*codes);
  encoding.values.resize(q.size());
  for (int64_t i = 0; i < int64_t(q.size()); ++i) {
    if (q[size_t(i)] >> b) return refuse(fmt::format("code {} is {}", i, q[size_t(i)]));
    const int64_t c = i % shape.columns, r = i / shape.columns % shape.rows,
                  m = i / shape.columns / shape.rows;
    const size_t at = size_t(how->scaling == PTQ_SCALE_PER_ROW     ? m * shape.rows + r
                             : how->scaling == PTQ_SCALE_PER_TOKEN ? r
                                                                   : m * shape.columns + c);
    encoding.values[size_t(i)] =
        level[q[size_t(i)]] * as_float16(s[at]) + (offset ? as_float16(o[at]) : 0.0f);
  }
  // Levels and scales per column are stored once for all blocks: they do not count here.
  encoding.bytes = uint64_t(shape.batch * shape.rows) * packed_bytes(shape.columns, b);
  if (how->scaling != PTQ_SCALE_PER_COLUMN) encoding.bytes += 2 * (s.size() + o.size());
  return take(call, out, std::move(encoding));
}

ptq_status Host::factor(const ptq_call* call, const ptq_tensor* x, const ptq_lowrank* how,
                        ptq_encoding* out) noexcept {
  const auto refuse = [&](const std::string& problem) {
    return Host::refuse(call, "ptq.encode.lowrank/1: " + problem);
  };
  Shape shape{};
  const std::string problem = problem_of(x, {PTQ_FLOAT, 32, 1}, shape);
  if (!problem.empty()) return refuse(problem);
  if (const std::string why = no_place(out); !why.empty()) return refuse(why);
  if (!how || how->struct_size < sizeof(ptq_lowrank)) return refuse("struct_size is too small");
  if (how->chunk < 1 || how->chunk > 256 || shape.rows % how->chunk != 0) {
    return refuse(fmt::format("chunk = {} for {} rows", how->chunk, shape.rows));
  }
  if (!(how->energy > 0 && how->energy <= 1) || how->min_rank < 0 || how->max_rank < 0 ||
      how->max_rank > 254) {
    return refuse("energy or a rank is out of range");
  }
  const std::vector<float> all = gather<float>(*x);
  for (const float value : all) {
    if (!std::isfinite(value)) return refuse("a value is not finite");
  }
  const int64_t t = how->chunk, d = shape.columns;
  Encoding encoding = begin_encoding(shape);
  encoding.form = fmt::format("lowrank, chunk {}, ranks {} to {}, energy {}, flags {}", how->chunk,
                              how->min_rank, how->max_rank, how->energy, how->flags & 7u);
  encoding.low_rank = true;
  encoding.values.resize(all.size());
  for (int64_t first = 0; first < shape.rows; first += t) {
    std::vector<Factored> heads;
    int64_t most = 0;
    bool finite = true;
    for (int64_t b = 0; b < shape.batch; ++b) {
      heads.push_back(factorise(all.data() + (b * shape.rows + first) * d, t, d, *how));
      most = std::max(most, heads.back().rank);
      finite = finite && heads.back().finite;
    }
    for (int64_t b = 0; b < shape.batch; ++b) {
      Factored& f = heads[size_t(b)];
      if (finite && (how->flags & PTQ_LOWRANK_SHARED)) f.rank = most;
      const int64_t at = (b * shape.rows + first) * d;
      const int64_t size = f.rank * (t + d) + (how->flags & PTQ_LOWRANK_CENTER ? d : 0);
      std::vector<float> rows;
      if (!(how->flags & PTQ_LOWRANK_RAW) || size < t * d) rows = product(f, t, d);
      encoding.bytes += uint64_t(2 * (rows.empty() ? t * d : size) + 1);
      if (rows.empty())  // stored as they are
        for (int64_t i = at; i < at + t * d; ++i) rows.push_back(as_float16(all[size_t(i)]));
      std::copy(rows.begin(), rows.end(), encoding.values.begin() + at);
    }
  }
  return take(call, out, std::move(encoding));
}

ptq_status Host::overlay(const ptq_call* call, const ptq_tensor* index, const ptq_tensor* value,
                         int32_t fixed, ptq_encoding* out) noexcept {
  const auto refuse = [&](const std::string& problem) {
    return Host::refuse(call, "ptq.encode.outliers/1: " + problem);
  };
  Shape shape{};
  const std::string problem = problem_of(index, {PTQ_INT, 32, 1}, shape);
  if (!problem.empty()) return refuse(problem);
  if (const std::string why = no_place(out); !why.empty()) return refuse(why);
  Encoding& encoding = *reinterpret_cast<Encoding*>(out);
  if (!encoding.filled() || encoding.has_outliers) {
    return refuse("call overlay once, after the encoding was filled");
  }
  if (shape.batch != encoding.batch || shape.rows != encoding.rows) {
    return refuse("index has another number of rows than the encoding");
  }
  const std::vector<int32_t> at = gather<int32_t>(*index);
  const std::vector<float> exact = numbers(value, int64_t(at.size()));
  if (exact.size() != at.size()) return refuse("value is not float32 of the shape of index");
  for (size_t i = 0; i < at.size(); ++i) {
    if (at[i] < (fixed ? 0 : -1) || at[i] >= encoding.columns) {
      return refuse(fmt::format("an outlier at column {} of {}", at[i], encoding.columns));
    }
    if (at[i] >= 0 && !std::isfinite(as_float16(exact[i]))) {
      return refuse("an outlier does not fit float16");
    }
  }
  encoding.has_outliers = true;
  encoding.form += fixed ? fmt::format(", {} outliers in each row", shape.columns) : ", outliers";
  for (size_t i = 0; i < at.size(); ++i) {
    if (at[i] < 0) continue;
    encoding.outlier_at.push_back(int64_t(i) / shape.columns * encoding.columns + at[i]);
    encoding.outlier_value.push_back(as_float16(exact[i]));
  }
  // Fixed: an index into the row. Else: an index into the rows of all matrices, and where each row
  // of them begins.
  const uint64_t count = encoding.outlier_at.size();
  const uint64_t index_bytes = fixed ? (encoding.columns <= 256 ? 1 : 2)
                                     : (encoding.batch * encoding.columns <= 65536 ? 2 : 4);
  encoding.outlier_bytes = (2 + index_bytes) * count + (fixed ? 0 : 4 * uint64_t(shape.rows));
  of(call).refused.clear();
  return PTQ_OK;
}

}  // namespace ptq::check
