// Checkpoints whose linear layers another program quantized: the layouts in which they are stored,
// read into our affine encoding, w = scale * (code - zero), groups along the input; or, of FP8,
// used as they are (fp8_matrix.hpp).
//
// Sources of the layouts:
//   compressed-tensors  vllm-project/compressed-tensors, compressors/pack_quantized and
//                       naive_quantized (FP8: the formats float-quantized and naive-quantized)
//   gptq                AutoGPTQ/AutoGPTQ, nn_modules/qlinear: `checkpoint_format` gptq stores zero
//                       points less one, gptq_v2 as they are
//   awq                 casper-hansen/AutoAWQ, modules/linear/gemm.py and utils/packing_utils.py
// All store words of 32 bits, little end first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/json.hpp"
#include "ptq/core/safe_text.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/model/fp8_matrix.hpp"
#include "ptq/model/tensor.hpp"

namespace ptq {

enum class PackedLayout { compressed_tensors, fp8, gptq, awq };

// What config.json says of them.
struct PackedWeights {
  PackedLayout layout = PackedLayout::compressed_tensors;
  int bits = 4;              // 4 or 8
  int64_t group_size = 0;    // numbers along the input that share a scale; 0: a whole row
  int64_t group_rows = 1;    // rows that share it (FP8 only); 0: all
  bool symmetric = true;     // no zero points are stored
  int zero_offset = 0;       // added to stored zero points, word by word; see unpack_weight
  bool interleaved = false;  // numbers of a word in AWQ's order
  bool activations = false;  // the checkpoint wants its activations quantized, too

  // The tensor of the codes, NAME.<suffix>, and its number format: what marks a packed module.
  const char* codes() const {
    return layout == PackedLayout::compressed_tensors ? ".weight_packed"
           : layout == PackedLayout::fp8              ? ".weight"
                                                      : ".qweight";
  }
  DType code_type() const { return layout == PackedLayout::fp8 ? DType::f8_e4m3 : DType::i32; }
};

namespace packed_detail {

inline int read_bits(const JsonValue& value) {
  const int64_t bits = value.as_integer(1, 16);
  if (bits != 4 && bits != 8)
    throw value.error("packed weights of " + std::to_string(bits) + " bits are not supported",
                      "supported: 4, 8");
  return int(bits);
}
// -1 and absent: a whole row.
inline int64_t read_group(const JsonValue& parent) {
  const auto value = parent.find("group_size");
  if (!value) return 0;
  const int64_t size = value->as_integer(-1, 1 << 20);
  return size < 0 ? 0 : size;
}
inline void expect_off(const JsonValue& parent, const char* key, const char* what) {
  const auto value = parent.find(key);
  if (value) throw value->error(std::string(what) + " is not supported");
}

// The weights of FP8: which numbers share a scale.
inline void read_fp8_weights(const JsonValue& w, PackedWeights& p) {
  p.layout = PackedLayout::fp8;
  p.bits = int(w.get("num_bits").as_integer(1, 16));
  if (p.bits != 8 || w.get("type").as_string() != "float")
    throw w.error("only FP8 weights are supported in this format",
                  "`num_bits` 8 and `type` float; 4 and 8 bit integers as `pack-quantized`");
  const auto symmetric = w.find("symmetric");
  if (symmetric && !symmetric->as_bool())
    throw symmetric->error("FP8 weights with zero points are not supported");
  const auto strategy = w.get("strategy");
  if (strategy.as_string() == "tensor") {
    p.group_rows = 0;
  } else if (strategy.as_string() == "group") {
    p.group_size = read_group(w);
  } else if (strategy.as_string() == "block") {
    std::vector<int64_t> sides;
    w.get("block_structure").for_each_element([&](const JsonValue& side) {
      sides.push_back(side.as_integer(1, 1 << 20));
    });
    if (sides.size() != 2) throw w.get("block_structure").error("two numbers are expected");
    p.group_rows = sides[0];
    p.group_size = sides[1];
  } else if (strategy.as_string() != "channel") {
    throw strategy.error("the strategy " + shown(strategy.as_string()) + " is not supported",
                         "supported: tensor, channel, group, block");
  }
}

inline void read_integer_weights(const JsonValue& w, PackedWeights& p) {
  p.bits = read_bits(w.get("num_bits"));
  if (w.get("type").as_string() != "int")
    throw w.error("only weights of type `int` are supported in this format");
  const auto strategy = w.get("strategy");
  if (strategy.as_string() == "group") {
    p.group_size = read_group(w);
  } else if (strategy.as_string() != "channel") {
    throw strategy.error("the strategy " + shown(strategy.as_string()) + " is not supported",
                         "supported: group, channel");
  }
  const auto symmetric = w.find("symmetric");
  p.symmetric = !symmetric || symmetric->as_bool();
}

inline PackedWeights read_compressed_tensors(const JsonValue& q) {
  PackedWeights p;
  const auto format = q.find("format");
  const std::string name(format ? format->as_string() : "");
  const bool fp8 = name == "float-quantized" || name == "naive-quantized";
  if (!fp8 && name != "pack-quantized") {
    throw(format ? *format : q)
        .error("this format of compressed-tensors is not supported",
               "supported: pack-quantized (4 and 8 bits), float-quantized (FP8)");
  }
  expect_off(q, "kv_cache_scheme", "a quantized key/value cache of the checkpoint");
  int groups = 0;
  q.get("config_groups").for_each_member([&](std::string_view, const JsonValue& group) {
    if (++groups > 1) throw group.error("several quantization groups are not supported");
    if (!fp8) expect_off(group, "input_activations", "quantization of activations");
    expect_off(group, "output_activations", "quantization of activations");
    p.activations = group.find("input_activations").has_value();
    fp8 ? read_fp8_weights(group.get("weights"), p) : read_integer_weights(group.get("weights"), p);
  });
  if (groups == 0) throw q.error("`config_groups` is empty");
  return p;
}

inline PackedWeights read_gptq(const JsonValue& q) {
  PackedWeights p;
  const auto format = q.find("checkpoint_format");
  const std::string name(format ? format->as_string() : "gptq");
  if (name != "gptq" && name != "gptq_v2")
    throw format->error("the layout " + shown(name) + " is not supported",
                        "supported: gptq, gptq_v2");
  p.layout = PackedLayout::gptq;
  p.zero_offset = name == "gptq" ? 1 : 0;
  p.bits = read_bits(q.get("bits"));
  p.group_size = read_group(q);
  p.symmetric = false;
  return p;
}

inline PackedWeights read_awq(const JsonValue& q) {
  PackedWeights p;
  p.layout = PackedLayout::awq;
  p.interleaved = true;
  const auto version = q.find("version");
  if (version && version->as_string() != "gemm" && version->as_string() != "GEMM")
    throw version->error("the layout " + shown(version->as_string()) + " is not supported",
                         "supported: gemm");
  p.bits = read_bits(q.get("bits"));
  if (p.bits != 4) throw q.get("bits").error("AWQ checkpoints have 4 bits");
  p.group_size = read_group(q);
  p.symmetric = false;
  return p;
}

}  // namespace packed_detail

// Reads `quantization_config`. Errors: every layout that is not read, by name.
inline PackedWeights read_packed_weights(const JsonValue& q) {
  const auto method = q.find("quant_method");
  const std::string name(method ? method->as_string() : "");
  if (name == "compressed-tensors") return packed_detail::read_compressed_tensors(q);
  if (name == "gptq") return packed_detail::read_gptq(q);
  if (name == "awq") return packed_detail::read_awq(q);
  throw(method ? *method : q)
      .error(
          "a checkpoint quantized by " + (name.empty() ? "an unnamed method" : shown(name)) +
              " cannot be read",
          "supported: compressed-tensors (pack-quantized, float-quantized), gptq, awq; or use the "
          "folder of the "
          "original 16-bit model");
}

// Every tensor that a packed module may have beside its codes. input_scale is not used: activations
// are not quantized here.
inline constexpr const char* kPackedParts[] = {
    ".weight_scale", ".weight_shape", ".weight_zero_point",
    ".weight_g_idx", ".input_scale",  ".qzeros",
    ".scales",       ".g_idx"};

// ---- matrices ----------------------------------------------------------------------------------

namespace packed_detail {

inline uint32_t word(const TensorInfo& t, int64_t at) {
  uint32_t w;
  std::memcpy(&w, t.data + 4 * at, 4);
  return w;
}
// Where AWQ keeps number i of 8 in a word, in units of 4 bits.
inline constexpr int kAwqOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};

inline void expect_shape(const TensorInfo& t, const std::vector<int64_t>& shape) {
  if (t.shape != shape)
    throw environment_error("the tensor `" + t.name + "` has shape " + shape_text(t.shape) +
                            ", expected " + shape_text(shape));
}
inline void expect_words(const TensorInfo& t, const std::vector<int64_t>& shape) {
  if (t.dtype != DType::i32) throw environment_error("the tensor `" + t.name + "` is not I32");
  expect_shape(t, shape);
}

inline void expect_numbers(const TensorInfo& t, const std::vector<int64_t>& shape) {
  if (t.dtype != DType::f32 && t.dtype != DType::f16 && t.dtype != DType::bf16)
    throw environment_error("the tensor `" + t.name + "` has " + std::string(t.format()) +
                            ", expected f32, f16 or bf16");
  expect_shape(t, shape);
}

// The order of the columns that brings the columns of each group side by side; empty where they
// are. index: the group of every column (act-order), -1 everywhere: none is meant. Errors: groups
// of other sizes.
inline std::vector<int32_t> group_order(const TensorInfo& index, int64_t columns, int64_t group) {
  expect_words(index, {columns});
  std::vector<int32_t> order(static_cast<size_t>(columns));
  std::iota(order.begin(), order.end(), 0);
  const auto of = [&](int64_t column) { return int32_t(word(index, column)); };
  if (std::all_of(order.begin(), order.end(), [&](int32_t c) { return of(c) == -1; })) return {};
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return of(a) < of(b); });
  for (int64_t j = 0; j < columns; ++j)
    if (of(order[size_t(j)]) != j / group)
      throw environment_error("the groups of `" + index.name + "` do not have " +
                              std::to_string(group) + " columns each");
  if (std::is_sorted(order.begin(), order.end())) return {};
  return order;
}

}  // namespace packed_detail

// A matrix of a checkpoint as it is held, W [rows, columns].
struct PackedMatrix {
  AffineRows affine;                // empty where `fp8` is there
  std::vector<int32_t> order = {};  // column j of affine is column order[j] of W; empty: the same
  std::optional<Fp8Matrix> fp8 = {};

  int64_t rows() const { return fp8 ? fp8->rows() : affine.rows(); }
  int64_t columns() const { return fp8 ? fp8->columns() : affine.columns(); }
  // Is W nothing but `affine`?
  bool plainly_affine() const { return !fp8 && order.empty(); }

  // Rows [begin, end) to w [end - begin, columns].
  void decode(int64_t begin, int64_t end, float* w) const {
    if (fp8) return fp8->decode(begin, end, w);
    const int64_t n = columns();
    if (order.empty()) return affine.decode(begin, end, w, n);
    std::vector<float> row(static_cast<size_t>(n));
    for (int64_t r = begin; r < end; ++r, w += n) {
      affine.decode(r, r + 1, row.data(), n);
      for (int64_t j = 0; j < n; ++j) w[order[size_t(j)]] = row[size_t(j)];
    }
  }
  uint64_t bytes() const { return fp8 ? fp8->bytes() : affine.bytes() + 4 * order.size(); }
};

// Tensors of one packed module: find(suffix) gives NAME<suffix>, or nullptr.
//
// W [rows, columns] as it is stored. Errors: missing tensors, other shapes or types.
//
// Zero points less one are added to as whole words: GPTQModel (utils/model.py,
// convert_gptq_v1_to_v2_format_module) stores a zero point of 0 as -1 that borrows from its
// neighbour.
template <class Find>
PackedMatrix unpack_weight(const PackedWeights& p, const std::string& name, int64_t rows,
                           int64_t columns, const Find& find) {
  using namespace packed_detail;
  const auto need = [&](const char* suffix) -> const TensorInfo& {
    const TensorInfo* t = find(suffix);
    if (!t) throw environment_error("the packed layer `" + name + "` has no `" + suffix + "`");
    return *t;
  };
  PackedMatrix result;
  if (p.layout == PackedLayout::fp8) {
    result.fp8.emplace(need(".weight"), need(".weight_scale"), rows, columns,
                       p.group_rows > 0 ? p.group_rows : rows,
                       p.group_size > 0 ? p.group_size : columns);
    return result;
  }
  const int64_t per = 32 / p.bits, group = p.group_size > 0 ? p.group_size : columns,
                groups = (columns + group - 1) / group;
  const uint32_t mask = (1u << p.bits) - 1;
  const uint32_t less_one = uint32_t(p.zero_offset) * (0xFFFFFFFFu / mask);  // 1 in every number
  const bool by_row = p.layout == PackedLayout::compressed_tensors,
             awq = p.layout == PackedLayout::awq;
  const auto up = [&](int64_t n) { return (n + per - 1) / per; };
  const auto at = [&](uint32_t word, int64_t lane) {
    return word >> (p.bits * (p.interleaved ? kAwqOrder[lane] : lane)) & mask;
  };
  if (!by_row && (rows % per != 0 || columns % (awq ? 1 : per) != 0))
    throw environment_error("the packed layer `" + name + "` has a shape that fills no words");

  // Codes: compressed-tensors [rows, words], gptq [words, rows], awq [columns, words of rows].
  const TensorInfo& q = need(p.codes());
  expect_words(q, by_row ? std::vector<int64_t>{rows, up(columns)}
                  : awq  ? std::vector<int64_t>{columns, rows / per}
                         : std::vector<int64_t>{columns / per, rows});
  const TensorInfo& scale = need(by_row ? ".weight_scale" : ".scales");
  expect_numbers(scale,
                 by_row ? std::vector<int64_t>{rows, groups} : std::vector<int64_t>{groups, rows});
  std::vector<float> scales(size_t(rows * groups));
  scale.rows().decode(0, scale.shape[0], scales.data());
  // Zero points: compressed-tensors [words of rows, groups], the others [groups, words of rows].
  const bool zeros = !p.symmetric;
  const TensorInfo* z = zeros ? &need(by_row ? ".weight_zero_point" : ".qzeros") : nullptr;
  if (z)
    expect_words(*z, by_row ? std::vector<int64_t>{up(rows), groups}
                            : std::vector<int64_t>{groups, rows / per});
  if (const TensorInfo* index = find(by_row ? ".weight_g_idx" : ".g_idx"))
    result.order = group_order(*index, columns, group);
  result.affine = AffineRows({p.bits, zeros ? Grid::asym_gptq : Grid::sym_full, 1, group}, columns);
  std::vector<uint8_t> codes(static_cast<size_t>(columns));
  std::vector<float> s(static_cast<size_t>(groups)), zero(static_cast<size_t>(groups));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t c = result.order.empty() ? j : result.order[size_t(j)];
      codes[size_t(j)] = uint8_t(by_row ? at(word(q, r * up(columns) + c / per), c % per)
                                 : awq  ? at(word(q, c * (rows / per) + r / per), r % per)
                                        : at(word(q, c / per * rows + r), c % per));
    }
    for (int64_t g = 0; g < groups; ++g) {
      s[size_t(g)] = scales[size_t(by_row ? r * groups + g : g * rows + r)];
      if (!z) continue;
      const int64_t index = by_row ? r / per * groups + g : g * (rows / per) + r / per;
      zero[size_t(g)] = float(at(word(*z, index) + less_one, r % per));
    }
    result.affine.append_codes(codes.data(), s.data(), z ? zero.data() : nullptr, 1,
                               name + ", output " + std::to_string(r));
  }
  return result;
}

}  // namespace ptq
