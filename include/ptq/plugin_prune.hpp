// ptq/plugin_prune.hpp: what several pruning methods share: their options, and sums over the rows
// or columns of a group. Optional, as plugin.hpp is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ptq/plugin.hpp"

namespace ptq::plugin {

// How much is removed.
class PruneAmount {
 public:
  void declare(Options& o) {
    o.number("ratio", ratio_, "share of all parameters to remove, embeddings included")
        .between(0, 1);
    o.number("collapse_below", collapse_below_, "a layer of which less is left goes whole; 0: none")
        .between(0, 1);
    o.integer("round_mlp_to", round_mlp_to_, "channels left of an MLP are a multiple of this")
        .between(1, 65536);
  }
  void fill(ptq_prune& table) const {
    table.ratio = ratio_;
    table.collapse_below = collapse_below_;
    table.round_mlp_to = round_mlp_to_;
  }

 private:
  double ratio_ = 0.2, collapse_below_ = 0;
  int64_t round_mlp_to_ = 1;
};

// What is measured on: pieces of the calibration text.
class PruneText {
 public:
  void declare(Options& o) {
    o.integer("seq_len", length_, "tokens of a piece of the calibration text").between(2, 65536);
    o.integer("num_samples", sequences_, "pieces of the calibration text").between(1, 65536);
  }
  void fill(ptq_prune& table) const {
    table.sequences = sequences_;
    table.length = length_;
  }

 private:
  int64_t sequences_ = 128, length_ = 128;
};

// The numbers of a tensor that was asked for.
inline const float* measured(const ptq_tensor* t, const char* what) {
  if (!t) throw Invalid(std::string("the host has not measured ") + what);
  return static_cast<const float*>(t->data);
}

// The lines of a linear that belong to groups: its rows (axis 0) or its columns. fn(value of the
// line's group, entry): called for every entry of the matrix, row by row.
struct PruneMatrix {
  const float* weight;
  int64_t rows, columns, groups, group_size;
  int32_t axis;

  explicit PruneMatrix(const ptq_prune_linear& l)
      : weight(static_cast<const float*>(l.linear->weight->data)),
        rows(l.linear->weight->shape[0]),
        columns(l.linear->weight->shape[1]),
        groups(l.groups),
        group_size(l.group_size),
        axis(l.axis) {
    if (groups * group_size != (axis == 0 ? rows : columns))
      throw Invalid("the groups are not all of the matrix");
  }

  // Adds to every group the sum of value(entry) over its entries.
  template <class Value>
  void add_sums(const Value& value, double* importance) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        importance[(axis == 0 ? r : c) / group_size] += double(value(r * columns + c));
  }
  // Adds to every group the sum over its lines of |sum of value(entry)|.
  template <class Value>
  void add_line_sums(const Value& value, double* importance) const {
    std::vector<double> lines(size_t(groups * group_size));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        lines[size_t(axis == 0 ? r : c)] += double(value(r * columns + c));
    for (size_t i = 0; i < lines.size(); ++i)
      importance[int64_t(i) / group_size] += lines[i] < 0 ? -lines[i] : lines[i];
  }
};

}  // namespace ptq::plugin
