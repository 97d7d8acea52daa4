// The weight of one linear layer, y = x W^T + b, in whichever encoding it is stored.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/answer.hpp"
#include "ptq/encoding/dense.hpp"
#include "ptq/encoding/grouped_codes.hpp"
#include "ptq/engine/method.hpp"
#include "ptq/model/packed_weights.hpp"
#include "ptq/model/tensor.hpp"

namespace ptq {

// W [out, in]. Until a method encodes it, a view of the memory-mapped file (packed blocks are
// decoded when they are used) or the codes of another program's checkpoint; afterwards the encoding
// is all that there is.
class LinearWeight final : public RowSink {
 public:
  LinearWeight() = default;
  LinearWeight(std::string name, const TensorInfo& tensor)
      : name_(std::move(name)),
        out_(tensor.shape[0]),
        in_(tensor.shape[1]),
        file_(tensor.rows()),
        answer_(name_, "layer", 1, in_) {
    answer_.expect(out_);
  }

  // Of a checkpoint that another program packed.
  LinearWeight(std::string name, PackedMatrix packed)
      : name_(std::move(name)),
        out_(packed.rows()),
        in_(packed.columns()),
        packed_file_(std::make_shared<const PackedMatrix>(std::move(packed))),
        answer_(name_, "layer", 1, in_) {
    answer_.expect(out_);
  }

  const std::string& name() const { return name_; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  int64_t scalars() const { return out_ * in_; }
  // What the file holds, which is the weight until a method encodes it.
  const StoredRows& file() const { return file_; }
  // The same where another program packed it, else nullptr; file() is empty then.
  const PackedMatrix* packed_file() const { return packed_file_.get(); }

  // Rows [begin, end) as float32 to w [end - begin, in].
  void decode(int64_t begin, int64_t end, float* w) const {
    if (affine_)
      affine_->decode(begin, end, w);
    else if (dense_)
      dense_->decode(begin, end, w, in_);
    else if (grouped_)
      grouped_->decode(begin, end, w);
    else if (packed_file_)
      packed_file_->decode(begin, end, w);
    else
      file_.decode(begin, end, w);
    if (!encoded() && scaled()) apply_factors(begin, end, w);
  }
  // The rows in the file when they can be used in place (float32, aligned), else nullptr.
  const float* in_place(int64_t begin) const {
    if (encoded() || scaled() || packed_file_ || !file_.plain() || file_.dtype != DType::f32 ||
        reinterpret_cast<uintptr_t>(file_.data) % 4 != 0)
      return nullptr;
    return reinterpret_cast<const float*>(file_.data) + begin * in_;
  }

  // The encoding that a method filled in, or nullptr.
  const AffineRows* packed() const { return affine_ ? &affine_->affine : nullptr; }
  const DenseRows* dense_rows() const { return dense_ ? &*dense_ : nullptr; }
  const GroupedCodes* grouped() const { return grouped_ ? &*grouped_ : nullptr; }
  // Column j of packed() is column order()[j] of the layer; empty: the same.
  const std::vector<int32_t>& order() const {
    static const std::vector<int32_t> kSame;
    return affine_ ? affine_->order : kSame;
  }
  // Drops the encoding: a device has it now.
  void forget() {
    affine_.reset();
    dense_.reset();
    grouped_.reset();
    answer_.expect(out_);
  }

  // How inputs are rounded before the product.
  const Activation& activation() const { return activation_; }
  void set_activation(const Activation& a) { activation_ = a; }

  // Factors that a transform has moved here, of columns and of rows: the file's numbers are
  // multiplied by them when they are read. Empty spans: none of that kind.
  void multiply(std::span<const float> columns, std::span<const float> rows) {
    const auto take = [](std::vector<float>& to, std::span<const float> by, int64_t n) {
      if (by.empty()) return;
      if (to.empty()) to.assign(size_t(n), 1.0f);
      for (size_t i = 0; i < to.size(); ++i) to[i] *= by[i];
    };
    take(column_factors_, columns, in_);
    take(row_factors_, rows, out_);
  }
  // Does the weight differ from the file's by such factors?
  bool scaled() const { return !column_factors_.empty() || !row_factors_.empty(); }

  bool encoded() const { return affine_ || dense_ || grouped_; }
  uint64_t bytes() const {
    if (affine_) return affine_->bytes();
    if (dense_) return dense_->bytes();
    if (grouped_) return grouped_->bytes();
    const uint64_t factors = 4 * (column_factors_.size() + row_factors_.size());
    if (packed_file_) return packed_file_->bytes() + factors;
    return uint64_t(out_ * file_.row_bytes()) + factors;
  }

  // RowSink: called by a weight method, once; an answer that is refused leaves nothing behind.
  void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
              const float* x) override {
    AffineRows stored = accept(format, batch, rows, columns);
    stored.append(x, rows);
    affine_ = PackedMatrix{std::move(stored)};
    answer_.fill();
  }
  void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                    const uint8_t* codes, const float* scale, const float* zero) override {
    AffineRows stored = accept(format, batch, rows, columns);
    stored.append_codes(codes, scale, zero, rows, name_);
    affine_ = PackedMatrix{std::move(stored)};
    answer_.fill();
  }
  void ordered_codes(const AffineFormat& format, const int32_t* order, int64_t rows,
                     int64_t columns, const uint8_t* codes, const float* scale,
                     const float* zero) override {
    AffineRows stored = accept(format, 1, rows, columns);
    std::vector<bool> seen(static_cast<size_t>(columns));
    for (int64_t j = 0; j < columns; ++j) {
      if (order[j] < 0 || order[j] >= columns || seen[size_t(order[j])])
        throw usage_error("the order of columns is no permutation: entry " + std::to_string(j) +
                              " is " + std::to_string(order[j]),
                          name_);
      seen[size_t(order[j])] = true;
    }
    if (format.axis != 1)
      throw usage_error("an order of columns is for groups along columns (axis 1)", name_);
    stored.append_codes(codes, scale, zero, rows, name_);
    affine_ = PackedMatrix{std::move(stored), std::vector<int32_t>(order, order + columns)};
    answer_.fill();
  }
  void grouped_codes(const GroupedFormat& format, int64_t rows, int64_t columns,
                     const uint8_t* codes, const float* levels, const float* scale) override {
    answer_.accept(1, rows, columns);
    grouped_.emplace(format, rows, columns, codes, levels, scale, name_);
    answer_.fill();
  }
  void dense(DType dtype, int64_t batch, int64_t rows, int64_t columns, const float* x) override {
    answer_.accept(batch, rows, columns);
    DenseRows stored(dtype, in_);
    stored.append(x, rows);
    dense_ = std::move(stored);
    answer_.fill();
  }
  bool filled() const override { return answer_.filled(); }

 private:
  AffineRows accept(const AffineFormat& format, int64_t batch, int64_t rows,
                    int64_t columns) const {
    answer_.accept(batch, rows, columns);
    check_format(format, name_, /*weights=*/true);
    return {format, in_};
  }

  void apply_factors(int64_t begin, int64_t end, float* w) const {
    for (int64_t r = begin; r < end; ++r, w += in_) {
      const float row = row_factors_.empty() ? 1.0f : row_factors_[size_t(r)];
      if (column_factors_.empty())
        for (int64_t c = 0; c < in_; ++c) w[c] *= row;
      else
        for (int64_t c = 0; c < in_; ++c) w[c] *= row * column_factors_[size_t(c)];
    }
  }

  std::string name_;
  int64_t out_ = 0, in_ = 0;
  StoredRows file_;  // [out, in], in the mapped file
  std::shared_ptr<const PackedMatrix> packed_file_;
  Answer answer_;
  std::optional<PackedMatrix> affine_;
  std::optional<DenseRows> dense_;
  std::optional<GroupedCodes> grouped_;
  std::vector<float> column_factors_, row_factors_;  // of the file's numbers; empty: none
  Activation activation_;
};

}  // namespace ptq
