// The weight of one linear layer, y = x W^T + b, in whichever encoding it is stored.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/answer.hpp"
#include "ptq/encoding/dense.hpp"
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
        out_(packed.rows.rows()),
        in_(packed.rows.columns()),
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
      affine_->decode(begin, end, w, in_);
    else if (dense_)
      dense_->decode(begin, end, w, in_);
    else if (packed_file_)
      packed_file_->decode(begin, end, w);
    else
      file_.decode(begin, end, w);
  }
  // The rows in the file when they can be used in place (float32, aligned), else nullptr.
  const float* in_place(int64_t begin) const {
    if (encoded() || packed_file_ || !file_.plain() || file_.dtype != DType::f32 ||
        reinterpret_cast<uintptr_t>(file_.data) % 4 != 0)
      return nullptr;
    return reinterpret_cast<const float*>(file_.data) + begin * in_;
  }

  // The encoding that a method filled in, or nullptr.
  const AffineRows* packed() const { return affine_ ? &*affine_ : nullptr; }
  const DenseRows* dense_rows() const { return dense_ ? &*dense_ : nullptr; }
  // Drops the encoding: a device has it now.
  void forget() {
    affine_.reset();
    dense_.reset();
    answer_.expect(out_);
  }

  bool encoded() const { return affine_.has_value() || dense_.has_value(); }
  uint64_t bytes() const {
    if (affine_) return affine_->bytes();
    if (dense_) return dense_->bytes();
    if (packed_file_) return packed_file_->bytes();
    return uint64_t(out_ * file_.row_bytes());
  }

  // RowSink: called by a weight method, once; an answer that is refused leaves nothing behind.
  void affine(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
              const float* x) override {
    AffineRows stored = accept(format, batch, rows, columns);
    stored.append(x, rows);
    affine_ = std::move(stored);
    answer_.fill();
  }
  void affine_codes(const AffineFormat& format, int64_t batch, int64_t rows, int64_t columns,
                    const uint8_t* codes, const float* scale, const float* zero) override {
    AffineRows stored = accept(format, batch, rows, columns);
    stored.append_codes(codes, scale, zero, rows, name_);
    affine_ = std::move(stored);
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
    check_format(format, name_);
    return {format, in_};
  }

  std::string name_;
  int64_t out_ = 0, in_ = 0;
  StoredRows file_;  // [out, in], in the mapped file
  std::shared_ptr<const PackedMatrix> packed_file_;
  Answer answer_;
  std::optional<AffineRows> affine_;
  std::optional<DenseRows> dense_;
};

}  // namespace ptq
