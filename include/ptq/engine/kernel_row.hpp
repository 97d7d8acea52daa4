// One CUDA kernel timed alone, and how that is printed: by ptq-bench and by the stand-alone program
// bench/kernels_main.cu, which has nothing but this tree and the CUDA toolkit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace ptq {

struct KernelRow {
  std::string kernel;    // "linear_small W4"
  std::string shape;     // "Qwen2.5-7B q, o [3584, 3584], n 1"
  double seconds = 0;    // of one call, the median
  double bytes = 0;      // that have to be read and written, each once
  double flops = 0;      // that the result takes, multiply and add counted apart
  int64_t launches = 0;  // that were timed
  int64_t copies = 0;    // of the buffers, which take turns
  double rate = 0;       // of what limits it
  std::string unit;      // of the rate: "GB/s" or "TFLOP/s"
  double share = 0;      // of the limit's time in this one's: 1 is as fast as the device
  std::string error;     // why there is no time
};
using KernelRowFn = std::function<void(const KernelRow&)>;

struct KernelBenchSettings {
  std::vector<std::string> names;  // only rows whose kernel or shape contains one; empty: all
  double seconds = 40;             // after these the rest is left out, and said to be
  double row_seconds = 0.03;       // of timed launches for each row
  bool tiny = false;               // smallest shapes, each once: do the kernels run at all?
};

// ---- the limit that a row comes nearer to ------------------------------------------------------

// flops, bytes: per second, at most. Fills rate, unit and share.
inline void compare_with_limits(KernelRow& row, double flops, double bytes) {
  const double by_flops = row.flops / flops, by_bytes = row.bytes / bytes;  // seconds
  const bool matrix = by_flops > by_bytes;
  row.rate = matrix ? row.flops / row.seconds / 1e12 : row.bytes / row.seconds / 1e9;
  row.unit = matrix ? "TFLOP/s" : "GB/s";
  row.share = (matrix ? by_flops : by_bytes) / row.seconds;
}

// ---- text --------------------------------------------------------------------------------------

inline std::string kernel_text(const KernelRow& row) {
  char start[128], rest[128];
  std::snprintf(start, sizeof start, "%-20s %-52s ", row.kernel.c_str(), row.shape.c_str());
  if (!row.error.empty()) return start + ("not measured: " + row.error);
  std::snprintf(rest, sizeof rest, "%11.2f us %9.1f %-7s %5.1f %% of %s", row.seconds * 1e6,
                row.rate, row.unit.c_str(), 100 * row.share, row.unit == "GB/s" ? "copy" : "bf16");
  return std::string(start) + rest;
}

namespace kernel_row_detail {

inline std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}
inline std::string number(double x) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", x);
  return std::isfinite(x) ? digits : "null";
}

}  // namespace kernel_row_detail

// {"device": ..., "rows": [...]}; the two limits are the first rows.
inline std::string kernels_json(const std::string& device, const std::vector<KernelRow>& rows) {
  using namespace kernel_row_detail;
  std::string out = "{\"device\": " + quoted(device) + ", \"rows\": [";
  for (const KernelRow& row : rows) {
    out += &row == rows.data() ? "\n" : ",\n";
    out += "  {\"kernel\": " + quoted(row.kernel) + ", \"shape\": " + quoted(row.shape) +
           ", \"bytes\": " + number(row.bytes) + ", \"flops\": " + number(row.flops);
    if (row.error.empty())
      out += ", \"seconds\": " + number(row.seconds) + ", \"rate\": " + number(row.rate) +
             ", \"unit\": " + quoted(row.unit) + ", \"share\": " + number(row.share) +
             ", \"launches\": " + std::to_string(row.launches) +
             ", \"copies\": " + std::to_string(row.copies) + "}";
    else
      out += ", \"error\": " + quoted(row.error) + "}";
  }
  return out + "\n]}\n";
}

// "a,b" -> {"a", "b"}
inline std::vector<std::string> kernel_names(const std::string& list) {
  std::vector<std::string> names;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    if (end > at) names.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

}  // namespace ptq
