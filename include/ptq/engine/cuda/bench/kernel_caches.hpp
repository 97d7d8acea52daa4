// One side of a cache as attention reads it, made without a model: random codes in the layouts of
// encoding/*.hpp, with windows and groups as the methods have them. For kernel_list.hpp.
#pragma once

#include <string>
#include <vector>

#include "ptq/engine/cuda/bench/kernel_bench.hpp"
#include "ptq/engine/cuda/row_views.hpp"

namespace ptq::cuda {

// What a model's layers look like.
struct BenchModel {
  std::string name;
  int64_t hidden, heads, kv_heads, dim, inner, vocab;
  int64_t kv_width() const { return kv_heads * dim; }
};

enum class BenchCache { dense, kivi2, kivi4, codebook, lowrank };
inline constexpr BenchCache kBenchCaches[] = {BenchCache::dense, BenchCache::kivi2,
                                              BenchCache::kivi4, BenchCache::codebook,
                                              BenchCache::lowrank};
inline const char* cache_name(BenchCache cache) {
  switch (cache) {
    case BenchCache::dense: return "16 bit";
    case BenchCache::kivi2: return "kivi 2 bit";
    case BenchCache::kivi4: return "kivi 4 bit";
    case BenchCache::codebook: return "codebook 2 bit";
    default: return "low rank 8";
  }
}

// Groups of KIVI, chunks and rank of FORGE, share of exact numbers of KVQuant: defaults of the
// plugins, and a rank that its energy often chooses.
inline constexpr int64_t kKiviGroup = 32, kChunk = 16, kRank = 8;
inline constexpr double kOutlierShare = 0.01;

// Which rows a side holds in which form.
struct BenchSideShape {
  BenchCache cache;
  bool keys;
  KvPolicy policy;
  int64_t context;         // rows of the sequence
  int64_t encoded = 0;     // rows [policy.sink, encoded end)
  int64_t tail_begin = 0;  // rows [tail_begin, context) are dense, too
  int64_t tail_rows_read = 0;

  // residual: newest rows that KIVI keeps dense. pass: the queries are all rows, whose dense forms
  // are still there; else one, the last.
  BenchSideShape(BenchCache c, bool is_keys, int64_t rows, int64_t residual, bool pass)
      : cache(c), keys(is_keys), context(rows) {
    if (c == BenchCache::kivi2 || c == BenchCache::kivi4) {
      if (keys)
        policy.block = residual;
      else
        policy.window = residual;
    } else if (c == BenchCache::codebook) {
      policy.sink = 1;
      policy.current = true;
    } else if (c == BenchCache::lowrank) {
      policy.window = 2 * kChunk;
      policy.block = kChunk;
    }
    policy.pre_rope = keys && (c == BenchCache::codebook || c == BenchCache::lowrank);
    if (c == BenchCache::dense) {
      tail_rows_read = context;
      return;
    }
    const int64_t last = context - 1,
                  held = policy.sink + policy.encoded(policy.current ? context : last);
    encoded = held - policy.sink;
    tail_begin = pass ? policy.sink : held;
    // In a pass each query finds itself dense, unless it reads itself encoded.
    tail_rows_read = last >= held ? context - tail_begin : 0;
  }

  int bits() const { return cache == BenchCache::kivi4 ? 4 : 2; }
  int64_t chunks() const { return encoded / kChunk; }
  static int64_t chunk_numbers(int64_t dim) { return dim + kRank * (kChunk + dim); }
  // Groups of a head in KIVI's encoding.
  int64_t head_params(const BenchModel& m) const {
    return keys ? ceil_div(encoded, kKiviGroup) * m.dim : encoded * ceil_div(m.dim, kKiviGroup);
  }
  // Exact numbers of a row of all heads.
  static int64_t outliers(const BenchModel& m) {
    return std::max<int64_t>(1, int64_t(kOutlierShare * double(m.kv_width())));
  }

  // That queries have to read, each row once in each form. Rotation tables are no part of it: all
  // layers share them.
  double bytes(const BenchModel& m) const {
    const double width = double(m.kv_width()), rows = double(encoded);
    const double dense = 2 * width * double(policy.sink + tail_rows_read);
    const double codes = rows * width * bits() / 8;
    switch (cache) {
      case BenchCache::dense: return dense;
      case BenchCache::codebook:
        return dense + codes + (keys ? 4 * width : 4 * rows) +
               rows * (4 + 4.0 * double(outliers(m)));
      case BenchCache::lowrank:
        return dense + double(chunks() * m.kv_heads) * (9 + 2 * double(chunk_numbers(m.dim)));
      default:  // scale and minimum of every group
        return dense + codes + 4 * double(m.kv_heads * head_params(m));
    }
  }
};

// The buffers of a side, and what kernels see of one copy of them.
class BenchSide {
 public:
  BenchSide(Workbench& bench, const BenchModel& model, const BenchSideShape& shape)
      : m_(model), s_(shape) {
    tail_ = bench.random<Bf16>((s_.context - s_.tail_begin) * m_.kv_width());
    if (s_.policy.sink > 0) sinks_ = bench.random<Bf16>(s_.policy.sink * m_.kv_width());
    if (s_.policy.pre_rope) {
      cosine_ = bench.random<float>(s_.context * m_.dim / 2, 1);
      sine_ = bench.random<float>(s_.context * m_.dim / 2, 1);
    }
    if (s_.cache == BenchCache::dense) return;
    if (s_.cache == BenchCache::lowrank) {
      low_rank(bench);
      return;
    }
    codes_ = bench.random<uint8_t>(s_.encoded * m_.kv_heads * row_bytes() + 8);
    const int64_t params = s_.cache == BenchCache::codebook ? (s_.keys ? m_.kv_width() : s_.encoded)
                                                            : m_.kv_heads * s_.head_params(m_);
    scales_ = bench.random<F16>(params);
    zeros_ = bench.random<F16>(params);
    if (s_.cache == BenchCache::codebook) codebook(bench);
  }

  SideView view(int64_t copy) const {
    SideView v;
    const int64_t width = m_.kv_width();
    v.tail = {tail_.at(copy), DType::bf16, s_.tail_begin, width, m_.dim};
    v.sinks = {sinks_.at(copy), DType::bf16, 0, width, m_.dim};
    v.policy = s_.policy;
    v.cosine = cosine_.at(0);
    v.sine = sine_.at(0);
    if (s_.cache == BenchCache::dense) {
      v.fixed = 0;
    } else if (s_.cache == BenchCache::codebook) {
      v.stored = Stored::codebook;
      describe_codebook(v, copy);
    } else if (s_.cache == BenchCache::lowrank) {
      v.stored = Stored::lowrank;
      v.lowrank = {ranks_.at(copy),  offsets_.at(copy), words(data_, copy), s_.policy.sink,
                   int(m_.kv_heads), int(m_.dim),       int(kChunk),        true};
    } else {
      v.stored = Stored::affine;
      describe_affine(v.affine, copy);
    }
    return v;
  }

 private:
  static const uint16_t* words(const Rotating<F16>& x, int64_t copy) {
    return reinterpret_cast<const uint16_t*>(x.at(copy));
  }
  int64_t row_bytes() const { return packed_bytes(m_.dim, s_.bits()); }

  void codebook(Workbench& bench) {
    levels_ = bench.random<float>(int64_t{1} << s_.bits());
    const int64_t k = BenchSideShape::outliers(m_);
    std::mt19937 random(2);
    std::vector<uint16_t> index(size_t(s_.encoded * k));
    for (uint16_t& i : index) i = uint16_t(random() % uint32_t(m_.kv_width()));
    std::vector<uint32_t> begin(size_t(s_.encoded + 1));
    for (size_t row = 0; row < begin.size(); ++row) begin[row] = uint32_t(int64_t(row) * k);
    outlier_index_ = bench.table(index);
    outlier_begin_ = bench.table(begin);
    outlier_values_ = bench.random<F16>(s_.encoded * k);
  }
  void low_rank(Workbench& bench) {
    const int64_t n = s_.chunks() * m_.kv_heads;
    std::vector<uint64_t> offsets(static_cast<size_t>(n));
    for (size_t i = 0; i < offsets.size(); ++i)
      offsets[i] = i * uint64_t(BenchSideShape::chunk_numbers(m_.dim));
    ranks_ = bench.table(std::vector<uint8_t>(size_t(n), uint8_t(kRank)));
    offsets_ = bench.table(offsets);
    data_ = bench.random<F16>(n * BenchSideShape::chunk_numbers(m_.dim));
  }

  void describe_codebook(SideView& v, int64_t copy) const {
    CodebookView& c = v.codebook;
    c.codes = codes_.at(copy);
    c.levels = levels_.at(copy);
    c.scales = words(scales_, copy);
    c.offsets = words(zeros_, copy);
    c.first = s_.policy.sink;
    c.columns = m_.dim;
    c.row_bytes = row_bytes();
    c.heads = int(m_.kv_heads);
    c.bits = s_.bits();
    c.scale = s_.keys ? ScaleOf::column : ScaleOf::token;
    OutlierView& o = v.outliers;
    o.indices = reinterpret_cast<const uint8_t*>(outlier_index_.at(copy));
    o.values = words(outlier_values_, copy);
    o.begin = outlier_begin_.at(copy);
    o.first = s_.policy.sink;
    o.heads = int(m_.kv_heads);
    o.columns = int(m_.dim);
    o.index_bytes = 2;
    o.present = true;
  }
  void describe_affine(AffineView& a, int64_t copy) const {
    a.codes = codes_.at(copy);
    a.scales = words(scales_, copy);
    a.zeros = zeros_.at(copy);
    a.bits = s_.bits();
    a.axis = s_.keys ? 0 : 1;
    a.grid = Grid::min;
    a.first = s_.policy.sink;
    a.columns = m_.dim;
    a.set_group(s_.keys ? kKiviGroup : std::min(kKiviGroup, m_.dim));
    a.groups = s_.keys ? 0 : ceil_div(m_.dim, kKiviGroup);
    a.row_bytes = row_bytes();
    a.head_codes = s_.encoded * row_bytes();
    a.head_params = s_.head_params(m_);
    a.head_zeros = 2 * s_.head_params(m_);
  }

  BenchModel m_;
  BenchSideShape s_;
  Rotating<Bf16> tail_, sinks_;      // [rows, heads, dim]
  Rotating<uint8_t> codes_, ranks_;  // affine: [heads, rows, bytes]; codebook: [rows, heads, bytes]
  Rotating<F16> scales_, zeros_, data_, outlier_values_;
  Rotating<float> levels_, cosine_, sine_;
  Rotating<uint64_t> offsets_;
  Rotating<uint16_t> outlier_index_;
  Rotating<uint32_t> outlier_begin_;
};

}  // namespace ptq::cuda
