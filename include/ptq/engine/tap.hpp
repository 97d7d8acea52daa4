// A window into a forward pass: the places of model/anatomy.hpp, and what the device computes
// there.
//
// Calibration, pruning and `ptq-host trace` look through it. Sums over the rows of a pass are
// formed where the rows are: copying the inputs of a 7B model's layer over a calibration set would
// be gigabytes, their XtX is one matrix. A pass holds the sums of one point at a time.
#pragma once

#include <cstdint>
#include <span>

#include "ptq/model/anatomy.hpp"

namespace ptq {

// What is wanted at one place of one pass.
struct Wanted {
  int64_t rows = 0;      // the first rows of the pass, at most so many
  bool columns = false;  // per column: sum of squares, sum of magnitudes, largest magnitude
  bool gram = false;     // XtX
  bool any() const { return rows > 0 || columns || gram; }
};

// X [rows, width], the numbers of one point for the rows of one pass: of one sequence, or of
// several side by side. Long calls are several passes, at most 2048 rows each. Everything is valid
// during the call only.
struct Seen {
  int layer;  // -1: in front of the layers or behind them
  Point point;
  int64_t rows, width;
  std::span<const int32_t> positions;           // of the rows, absolute
  std::span<const float> values;                // [min(rows, Wanted::rows), width]
  std::span<const double> squares, magnitudes;  // [width], sums
  std::span<const float> largest;               // [width]
  std::span<const float> gram;                  // [width, width], both triangles, float32 sums
};

class Tap {
 public:
  virtual ~Tap() = default;
  // layer -1: embedding, final_norm and logits (of the rows whose logits are asked for).
  virtual Wanted wants(int layer, Point point) = 0;
  virtual void see(const Seen& seen) = 0;
};

}  // namespace ptq
