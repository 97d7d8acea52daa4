// Which kernels run: one table of functions for each set of instructions, chosen when the program
// starts. PTQ_KERNELS=plain, avx2, avx512 or avx512bf16 in the environment asks for less than the
// machine has.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/cpu/kernels/int8.hpp"
#include "ptq/engine/cpu/kernels/weight_rows.hpp"

namespace ptq::cpu {

struct PairKernels;

struct Kernels {
  const char* name;
  // Linear layers. Every number is the same whichever of the two ways computes it, and however many
  // tokens and rows there are; the order of its sums is in kernels/products.inl.
  // Few tokens: y[t * ldy + r - begin] = row r of w, begin <= r < end, times token t of x [n,
  // columns].
  void (*dots)(const WeightRows& w, int64_t begin, int64_t end, const float* x, int64_t n, float* y,
               int64_t ldy);
  // Many tokens: `depth` columns from c0 on, a multiple of kDepth, of the rows r0 .. min(r0 +
  // panel_rows, end) - 1 of w to out [depth rounded up to 16, panel_rows], and y [n, count] (+)=
  // x [n, depth] times that. nullptr: dots() for any number.
  void (*panel)(const WeightRows& w, int64_t r0, int64_t end, int64_t c0, int64_t depth,
                float* out);
  void (*by_panel)(const float* x, int64_t n, int64_t ldx, const float* panel, int64_t depth,
                   int64_t count, float* y, int64_t ldy, bool add);
  int64_t panel_rows;

  // Attention, and sums over tokens: y [n, columns] (+)= x [n, depth] b [depth, columns], row-major
  // with distances ldx, ldb and ldy of rows; b has readable numbers up to columns rounded up to
  // sixteens. Every number is one chain of multiply-adds along the depth.
  void (*multiply)(const float* x, int64_t n, int64_t ldx, const float* b, int64_t ldb,
                   int64_t depth, int64_t columns, float* y, int64_t ldy, bool add);
  // b [rows, columns], rows a distance ld apart, to out [columns, rows]; both are multiples of 16.
  void (*turn)(const float* b, int64_t ld, int64_t rows, int64_t columns, float* out);

  // y[t * kInt8Rows + r] = the exact sum of codes of row r, 0 .. 255, times token t of x [n,
  // stride]; rows of codes [count, columns], count <= kInt8Rows; stride is columns rounded up to
  // kInt8Step, with zeros behind columns.
  void (*int8)(const uint8_t* codes, int64_t columns, int64_t count, const int8_t* x, int64_t n,
               int64_t stride, int32_t* y);
  // y[t * ldy + r - begin] of the rows begin <= r < end of w, which sums_groups() allows, and of
  // token t < n. Units of int8_unit() columns have exact sums of integers; a unit adds offset
  // (s sum(q)) and then scale (s sum(codes q)) to a float32 sum, s the scale of its inputs. That is
  // one for wide units; else unit u adds to sum u mod 4, and y is (0 + 1) + (2 + 3) of these.
  void (*int8_groups)(const WeightRows& w, int64_t begin, int64_t end, const Int8Inputs& x,
                      int64_t n, float* y, int64_t ldy);

  const PairKernels* pairs;  // nullptr: no such instructions
};

// The same with two bfloat16 in the place of each number of x, b and panels, the first one in the
// low half, and so half the columns of x and w and half the rows of b; weights are rounded to
// bfloat16 as they are read. The sums are of float32, subnormal numbers count as zero. w has an
// even number of columns.
struct PairKernels {
  // n numbers, an even count, to n / 2 pairs, rounded to nearest, ties to even; `to` may be `from`.
  void (*pack)(const float* from, int64_t n, float* to);
  // Rows 2 i and 2 i + 1 of b [rows, columns], a distance ld apart, to row i of out [rows / 2,
  // columns]; columns is a multiple of 16. out may be b where ld is columns.
  void (*pack_rows)(const float* b, int64_t ld, int64_t rows, int64_t columns, float* out);
  decltype(Kernels::dots) dots;
  decltype(Kernels::panel) panel;
  decltype(Kernels::by_panel) by_panel;
  decltype(Kernels::multiply) multiply;
};

// Those that this machine can run, the plain ones first, the fastest last. Defined in table.cpp,
// the one place where the kernels are compiled.
const std::vector<Kernels>& runnable_kernels();

// Errors: this machine runs none of that name.
inline const Kernels& kernels_named(const std::string& name) {
  std::string names;
  for (const Kernels& k : runnable_kernels()) {
    if (k.name == name) return k;
    names += (names.empty() ? "" : ", ") + std::string(k.name);
  }
  throw usage_error("no kernels `" + name + "` on this machine", "PTQ_KERNELS",
                    "there are: " + names);
}

inline const Kernels& chosen_kernels() {
  const char* wish = std::getenv("PTQ_KERNELS");
  return wish && *wish ? kernels_named(wish) : runnable_kernels().back();
}

}  // namespace ptq::cpu
