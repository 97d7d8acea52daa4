// Is a packed checkpoint the quantized form of a given 16-bit model, and does its label say how it
// is stored? Labels are known to lie: zero points stored as they are under the label `gptq`,
// numbers of a word in another order, tensors of another model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/packed_weights.hpp"
#include "ptq/model/weight_files.hpp"

namespace ptq {

// One module, or a tensor that is not packed.
struct CheckedTensor {
  std::string name;
  bool packed = false;
  double error = 0;    // |W - base| / |base| (Frobenius) as the label says; a plain tensor: largest
                       // difference over the largest number
  std::string better;  // another way to read it that lies nearer to the base; empty: the label's
  double better_error = 0;
  int64_t flat_groups = 0, groups = 0;  // whose codes are all the same; of all
  std::string problem;                  // empty: none
};

namespace checkpoint_check_detail {

// Rounding to 4 bits leaves 0.05 to 0.15, to 8 bits 0.01; unrelated numbers are 1 or more apart.
constexpr double kUnrelated = 0.5;
// How much nearer another reading must lie before it is believed.
constexpr double kClearly = 0.7;

inline double relative_error(const std::vector<float>& w, const std::vector<float>& base) {
  double gap = 0, size = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    gap += (double(w[i]) - double(base[i])) * (double(w[i]) - double(base[i]));
    size += double(base[i]) * double(base[i]);
  }
  return std::sqrt(gap / size);
}

struct Reading {
  std::string name;
  PackedWeights how;
};
// The label's own first.
inline std::vector<Reading> readings(const PackedWeights& label) {
  std::vector<Reading> list = {{"", label}};
  const auto add = [&](const std::string& name, int offset, bool interleaved) {
    PackedWeights how = label;
    how.zero_offset = offset;
    how.interleaved = interleaved;
    list.push_back({name, how});
  };
  const std::string order =
      label.interleaved ? "numbers of a word in their order" : "numbers of a word in AWQ's order";
  if (label.bits == 4) add(order, label.zero_offset, !label.interleaved);
  if (label.symmetric) return list;
  const int other = label.zero_offset == 0 ? 1 : 0;
  const std::string zeros =
      other == 1 ? "zero points stored less one" : "zero points stored as they are";
  add(zeros, other, label.interleaved);
  if (label.bits == 4) add(order + ", " + zeros, other, !label.interleaved);
  return list;
}

// Groups whose codes are all the same while the base's numbers are not.
inline int64_t flat_groups(const std::vector<float>& w, const std::vector<float>& base,
                           int64_t columns, int64_t group) {
  int64_t flat = 0;
  for (size_t row = 0; row < w.size(); row += size_t(columns))
    for (int64_t g = 0; g < columns; g += group) {
      const auto begin = long(row) + g, end = long(row) + std::min(g + group, columns);
      const auto same = [&](const std::vector<float>& x) {
        return std::all_of(x.begin() + begin, x.begin() + end,
                           [&](float v) { return v == x[size_t(begin)]; });
      };
      flat += same(w) && !same(base);
    }
  return flat;
}

inline std::vector<float> decoded(const TensorInfo& t) {
  int64_t n = 1;
  for (const int64_t size : t.shape) n *= size;
  std::vector<float> x(static_cast<size_t>(n));
  t.rows().decode(0, t.shape[0], x.data());
  return x;
}

inline CheckedTensor check_packed(const PackedWeights& label, const WeightFiles& files,
                                  const std::string& module, const TensorInfo& base) {
  const int64_t rows = base.shape[0], columns = base.shape[1];
  CheckedTensor result;
  result.name = module;
  result.packed = true;
  const std::vector<float> want = decoded(base);
  std::vector<float> w(want.size());
  double best = std::numeric_limits<double>::infinity();
  for (const Reading& reading : readings(label)) {
    double error = std::numeric_limits<double>::infinity();
    bool in_order = false;  // are the columns of a group neighbours?
    try {
      const auto packed = files.packed(reading.how, module, rows, columns);
      packed->decode(0, rows, w.data());
      error = relative_error(w, want);
      in_order = packed->order.empty();
    } catch (const Error& refused) {
      if (reading.name.empty()) result.problem = refused.message();
      continue;  // not stored like this
    }
    if (reading.name.empty()) {
      result.error = best = error;
      const int64_t group = label.group_size > 0 ? label.group_size : columns;
      result.groups = rows * ((columns + group - 1) / group);
      if (in_order) result.flat_groups = flat_groups(w, want, columns, group);
    } else if (error < kClearly * best) {
      best = result.better_error = error;
      result.better = reading.name;
    }
  }
  if (std::isinf(best)) return result;
  if (!(best <= kUnrelated)) {  // a number of the checkpoint may be NaN
    result.problem = "not the base's matrix, however it is read";
  } else if (!result.better.empty()) {
    result.problem = "not stored as the label says: " + result.better;
  } else if (result.flat_groups > 0) {
    result.problem = std::to_string(result.flat_groups) + " of " + std::to_string(result.groups) +
                     " groups have one value only, in the base they have more";
  }
  return result;
}

}  // namespace checkpoint_check_detail

// Holds every tensor of the checkpoint against the 16-bit model that it was made of. Errors:
// folders that cannot be read, models of other sizes, a checkpoint that is not packed.
inline std::vector<CheckedTensor> check_checkpoint(const std::filesystem::path& base_folder,
                                                   const std::filesystem::path& folder) {
  using namespace checkpoint_check_detail;
  const ModelConfig config = load_config(folder);
  if (!config.packed)
    throw usage_error("the checkpoint is not packed: no `quantization_config`", folder.string());
  WeightFiles base(base_folder), files(folder);
  base.check_tensors(load_config(base_folder));
  files.check_tensors(config);
  std::vector<CheckedTensor> result;
  for (const ExpectedTensor& tensor : anatomy_of(config).tensors()) {
    const TensorInfo& original = base.get(tensor.name, tensor.shape);
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    if (files.is_packed(*config.packed, module)) {
      result.push_back(check_packed(*config.packed, files, module, original));
      continue;
    }
    CheckedTensor plain;
    plain.name = tensor.name;
    const std::vector<float> a = decoded(files.get(tensor.name, tensor.shape)),
                             b = decoded(original);
    double largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      plain.error = std::max(plain.error, std::fabs(double(a[i]) - double(b[i])));
      largest = std::max(largest, std::fabs(double(b[i])));
    }
    plain.error /= largest > 0 ? largest : 1;
    if (plain.error > 0) plain.problem = "differs from the base, and is not packed";
    result.push_back(plain);
  }
  return result;
}

}  // namespace ptq
