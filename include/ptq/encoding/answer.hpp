// What a method's answer has to be, whoever stores it: exactly one encoding, of the shape that was
// asked for, all blocks in one format. And the byte formulas of encodings, on which every figure of
// this project rests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "ptq/core/error.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/encoding/encoding.hpp"

namespace ptq {

// One call of an encoder: `batch` matrices [rows, columns] are asked for.
class Answer {
 public:
  Answer() = default;
  // where: names the layer, for messages; unit: what a call is made for, "block" or "layer".
  Answer(std::string where, const char* unit, int64_t batch, int64_t columns)
      : where_(std::move(where)), unit_(unit), batch_(batch), columns_(columns) {}

  const std::string& where() const { return where_; }
  int64_t expected() const { return rows_; }
  bool filled() const { return filled_; }

  // Before the call: so many rows have to come.
  void expect(int64_t rows) {
    rows_ = rows;
    filled_ = false;
  }
  // Before an encoding is stored. A refused answer leaves what is stored as it was, so that the
  // method may try another.
  void accept(int64_t batch, int64_t rows, int64_t columns) const {
    if (filled_)
      throw Error(ExitCode::cells_failed, "the encoding was filled twice", where_,
                  std::string("call exactly one function that fills it per ") + unit_);
    if (batch != batch_ || rows != rows_ || columns != columns_)
      throw Error(ExitCode::cells_failed,
                  "encoding of shape " + shape(batch, rows, columns) + ", expected " +
                      shape(batch_, rows_, columns_),
                  where_);
  }
  // After it is stored.
  void fill() { filled_ = true; }

  // Before outliers are laid on the encoding that was just filled in.
  void accept_outliers(int64_t batch, int64_t rows) const {
    if (!filled_ || rows != rows_ || batch != batch_)
      throw Error(ExitCode::cells_failed, "outliers without the encoding that they lie on", where_,
                  "fill the encoding first, then call overlay once");
  }
  // Lays them on: `store` holds those of all blocks so far, all_rows counts the rows of all blocks,
  // those of this answer included. make(): an empty store; append(store). A refused answer leaves
  // the store as it was.
  template <class Store, class Make, class Append>
  void overlay(std::optional<Store>& store, bool fixed, int64_t k, int64_t all_rows,
               const Make& make, const Append& append) const {
    const bool first = !store;
    if (first) {
      if (all_rows != rows_) throw mixed_formats();  // earlier blocks have none
      store.emplace(make());
    }
    if (store->fixed() != fixed || (fixed && store->k() != k) || store->rows() + rows_ != all_rows)
      throw mixed_formats();
    try {
      append(*store);
    } catch (...) {
      if (first) store.reset();  // refused: another form may follow
      throw;
    }
  }
  Error mixed_formats() const {
    return Error(ExitCode::cells_failed, "blocks of one layer and side in different formats",
                 where_, "a method uses one encoding for all blocks of a layer and side");
  }

  // The format in which blocks of `block` rows are stored: groups over a whole block of rows are
  // spelled out, since one call may bring several blocks.
  AffineFormat block_format(AffineFormat f, int64_t block) const {
    if (f.axis == 0 && (f.group_size == 0 || f.group_size > block)) f.group_size = block;
    check_format(f, where_);
    if (f.axis == 0 && block % f.group_size != 0)
      throw usage_error(
          "a block of " + std::to_string(block) +
              " rows is not a multiple of group_size = " + std::to_string(f.group_size),
          where_, "choose a residual length that is a multiple of the group size");
    return f;
  }

 private:
  static std::string shape(int64_t batch, int64_t rows, int64_t columns) {
    return "[" + std::to_string(batch) + ", " + std::to_string(rows) + ", " +
           std::to_string(columns) + "]";
  }

  std::string where_;
  const char* unit_ = "block";
  int64_t batch_ = 1, columns_ = 0, rows_ = 0;
  bool filled_ = true;
};

}  // namespace ptq
