// The encoded rows of one layer and side of the KV cache, in whichever encoding the method chose.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/answer.hpp"
#include "ptq/encoding/codebook.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/encoding.hpp"
#include "ptq/encoding/hadamard.hpp"
#include "ptq/encoding/lowrank.hpp"
#include "ptq/encoding/outliers.hpp"
#include "ptq/engine/pass/rotary.hpp"

namespace ptq {

// Where attention takes rows from: keys or values of one layer, dense or encoded.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // Rows [begin, end) (absolute positions) of one kv head to out [end - begin, stride], head_dim
  // numbers each. Keys come out rotated, however they are stored.
  virtual void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const = 0;
};

class EncodedRows final : public RowSource, public RowSink {
 public:
  // One matrix [rows, head_dim] per kv head, or one object for all heads.
  using Affine = std::vector<AffineRows>;
  using Dense = std::vector<DenseRows>;
  using Store = std::variant<std::monostate, Affine, Dense, CodebookRows, LowRankRows>;

  // rotary: rotates what is read by its position (keys cached before rotation), or nullptr.
  // hadamard: what is stored was multiplied by the Hadamard matrix; reading undoes it.
  EncodedRows(int64_t kv_heads, int64_t head_dim, int64_t block, int64_t first, std::string where,
              const Rotary* rotary = nullptr, bool hadamard = false)
      : heads_(kv_heads),
        dim_(head_dim),
        block_(block),
        first_(first),
        answer_(std::move(where), "block", kv_heads, head_dim),
        rotary_(rotary),
        hadamard_(hadamard) {}

  // Prepares for one call of an encoder that has to deliver n rows.
  void expect(int64_t n) {
    check_outliers();
    answer_.expect(n);
  }

  // ---- RowSink ----

  void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
              const float* x) override {
    accept(batch, rows, columns);
    Affine& heads = affine_store(format);
    commit(rows, [&] {
      for (int64_t h = 0; h < heads_; ++h) heads[size_t(h)].append(x + h * rows * dim_, rows);
    });
  }
  void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                    const uint8_t* codes, const float* scale, const float* zero) override {
    accept(batch, rows, columns);
    Affine& heads = affine_store(format);
    const AffineFormat& f = heads[0].format();
    const auto groups = [](int64_t n, int64_t g) { return g == 0 ? 1 : (n + g - 1) / g; };
    const int64_t per_head =
        f.axis == 1 ? rows * groups(columns, f.group_size) : groups(rows, f.group_size) * columns;
    std::vector<std::vector<AffineParams>> params;  // all heads are checked before one is stored
    for (int64_t h = 0; h < heads_; ++h)
      params.push_back(heads[size_t(h)].checked_params(
          codes + h * rows * dim_, scale + h * per_head, zero ? zero + h * per_head : nullptr, rows,
          answer_.where()));
    commit(rows, [&] {
      for (int64_t h = 0; h < heads_; ++h)
        heads[size_t(h)].append_checked(codes + h * rows * dim_, params[size_t(h)], rows);
    });
  }
  void dense(DType dtype, int64_t batch, int64_t rows, int64_t columns, const float* x) override {
    accept(batch, rows, columns);
    Dense& heads = store<Dense>([&] { return Dense(size_t(heads_), DenseRows(dtype, dim_)); });
    if (heads[0].dtype() != dtype) throw answer_.mixed_formats();
    commit(rows, [&] {
      for (int64_t h = 0; h < heads_; ++h) heads[size_t(h)].append(x + h * rows * dim_, rows);
    });
  }
  void codebook(const CodebookFormat& format, int64_t batch, int64_t rows, int64_t columns,
                const uint8_t* codes, const float* levels, const float* scale,
                const float* offset) override {
    accept(batch, rows, columns);
    CodebookRows& s = store<CodebookRows>([&] { return CodebookRows(format, heads_, dim_); });
    if (!(s.format() == format)) throw answer_.mixed_formats();
    commit(rows, [&] { s.append(codes, levels, scale, offset, rows, answer_.where()); });
  }
  void lowrank(const LowRankFormat& format, int64_t batch, int64_t rows, int64_t columns,
               const float* x) override {
    accept(batch, rows, columns);
    check_format(format, rows, answer_.where());
    LowRankRows& s = store<LowRankRows>([&] { return LowRankRows(format, heads_, dim_); });
    if (!(s.format() == format)) throw answer_.mixed_formats();
    commit(rows, [&] { s.append(x, rows); });
  }
  void outliers(bool fixed, int64_t batch, int64_t rows, int64_t k, const int32_t* index,
                const float* value) override {
    answer_.accept_outliers(batch, rows);
    answer_.overlay(
        outliers_, fixed, k, rows_, [&] { return OutlierRows(fixed, heads_, dim_, k); },
        [&](OutlierRows& s) { s.append(index, value, rows, k, answer_.where()); });
  }
  bool filled() const override { return answer_.filled(); }

  // ---- RowSource ----

  void read(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const override {
    decode(head, begin, end, out, stride);
    if (rotary_) rotary_->rotate(begin, end, out, stride);
  }
  // As stored: without the rotation of keys.
  void decode(int64_t head, int64_t begin, int64_t end, float* out, int64_t stride) const {
    const int64_t b = begin - first_, e = end - first_;
    std::visit(
        [&](const auto& s) {
          using S = std::decay_t<decltype(s)>;
          if constexpr (std::is_same_v<S, Affine> || std::is_same_v<S, Dense>)
            s[size_t(head)].decode(b, e, out, stride);
          else if constexpr (!std::is_same_v<S, std::monostate>)
            s.decode(head, b, e, out, stride);
        },
        store_);
    if (outliers_) outliers_->apply(head, b, e, out, stride);
    if (hadamard_)
      for (int64_t r = 0; r < end - begin; ++r) ptq::hadamard(out + r * stride, dim_);
  }

  int64_t rows() const { return rows_; }
  bool is_dense() const { return std::holds_alternative<Dense>(store_) && !outliers_; }
  uint64_t bytes() const {
    return sum([](const auto& s) { return s.bytes(); }) + (outliers_ ? outliers_->bytes() : 0);
  }
  uint64_t allocated() const {
    return sum([](const auto& s) { return s.allocated(); }) +
           (outliers_ ? outliers_->allocated() : 0);
  }

  // What is stored, for other devices' copies and for tests that look inside or tamper with it.
  const Store& stored() const { return store_; }
  const std::optional<OutlierRows>& outliers() const { return outliers_; }
  AffineRows& affine_matrix(int64_t head) { return std::get<Affine>(store_).at(size_t(head)); }
  CodebookRows& codebook_matrices() { return std::get<CodebookRows>(store_); }
  LowRankRows& lowrank_matrices() { return std::get<LowRankRows>(store_); }

 private:
  // An answer that is refused leaves everything as it was, so that the method may try another.
  void accept(int64_t batch, int64_t rows, int64_t columns) const {
    answer_.accept(batch, rows, columns);
    if (stored_in_part_)
      throw Error(ExitCode::resources, "memory ran out while a block was stored", answer_.where());
  }
  // Stores checked rows. An Error means that nothing was stored; after anything else (no memory)
  // some heads may have the rows.
  template <class Append>
  void commit(int64_t rows, const Append& append) {
    stored_in_part_ = true;
    try {
      append();
    } catch (const Error&) {
      stored_in_part_ = false;
      throw;
    }
    stored_in_part_ = false;
    rows_ += rows;
    answer_.fill();
  }
  // Either every row has its outliers or none has.
  void check_outliers() const {
    if (outliers_ && outliers_->rows() != rows_) throw answer_.mixed_formats();
  }
  template <class S, class Make>
  S& store(const Make& make) {
    if (rows_ == 0) store_.emplace<S>(make());  // also where a first answer was refused
    if (!std::holds_alternative<S>(store_)) throw answer_.mixed_formats();
    return std::get<S>(store_);
  }
  Affine& affine_store(const AffineFormat& format) {
    const AffineFormat f = answer_.block_format(format, block_);
    Affine& heads = store<Affine>([&] { return Affine(size_t(heads_), AffineRows(f, dim_)); });
    if (!(heads[0].format() == f)) throw answer_.mixed_formats();
    return heads;
  }
  template <class Fn>
  uint64_t sum(const Fn& fn) const {
    return std::visit(
        [&](const auto& s) -> uint64_t {
          using S = std::decay_t<decltype(s)>;
          if constexpr (std::is_same_v<S, std::monostate>) {
            return 0;
          } else if constexpr (std::is_same_v<S, Affine> || std::is_same_v<S, Dense>) {
            uint64_t total = 0;
            for (const auto& m : s) total += fn(m);
            return total;
          } else {
            return fn(s);
          }
        },
        store_);
  }
  int64_t heads_, dim_, block_, first_, rows_ = 0;
  Answer answer_;
  const Rotary* rotary_;
  bool hadamard_, stored_in_part_ = false;
  Store store_;
  std::optional<OutlierRows> outliers_;
};

}  // namespace ptq
