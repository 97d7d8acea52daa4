// The other way round of packed_weights.hpp: our affine encoding written in the layouts of other
// programs, and what config.json says of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/core/suggest.hpp"
#include "ptq/encoding/affine.hpp"
#include "ptq/model/packed_weights.hpp"

namespace ptq {

// A linear layer to write; column j of rows is column order[j] of the matrix, an empty order: the
// same.
struct LayerToPack {
  std::string name;
  const AffineRows* rows;
  std::vector<int32_t> order;
};

// A tensor that owns its bytes.
struct PackedTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};

template <class T>
PackedTensor packed_tensor(const std::string& name, DType dtype, std::vector<int64_t> shape,
                           const std::vector<T>& numbers) {
  PackedTensor t{name, dtype, std::move(shape), {}};
  t.bytes.resize(numbers.size() * sizeof(T));
  if (!numbers.empty()) std::memcpy(t.bytes.data(), numbers.data(), t.bytes.size());
  return t;
}

namespace packed_detail {

inline const std::vector<std::string>& export_formats() {
  static const std::vector<std::string> names = {"compressed-tensors", "gptq", "gptq_v2", "awq"};
  return names;
}

[[noreturn]] inline void cannot_say(const std::string& format, const std::string& layer,
                                    const std::string& what, const std::string& who_can) {
  throw usage_error("the format " + format + " cannot hold " + what, layer, who_can);
}

// Errors: what `format` cannot say of one layer, and which formats can.
inline void check_exportable(const std::string& format, const LayerToPack& layer) {
  const AffineFormat& f = layer.rows->format();
  const int64_t rows = layer.rows->rows(), columns = layer.rows->columns();
  const bool awq = format == "awq", compressed = format == "compressed-tensors";
  const auto no = [&](const std::string& what, const std::string& who_can) {
    cannot_say(format, layer.name, what, who_can);
  };
  if (f.axis != 1) no("groups that run across the rows", "no format can");
  if (f.grid == Grid::min) {
    no("zero points that are no integers (grid min)",
       "no format can; asym_gptq and asym_awq have integers");
  }
  if (f.bits != 4 && f.bits != 8)
    no(std::to_string(f.bits) + " bits",
       "compressed-tensors, gptq and gptq_v2 hold 4 and 8 bits, awq 4");
  if (awq && f.bits != 4) no("8 bits", "compressed-tensors, gptq and gptq_v2 can");
  if (awq && !layer.order.empty())
    no("columns in another order", "compressed-tensors, gptq and gptq_v2 can");
  if (f.group_size > 0 && columns % f.group_size != 0)
    no(std::to_string(columns) + " columns in groups of " + std::to_string(f.group_size),
       "choose a group_size that divides them, or 0 for whole rows");
  const int64_t per = 32 / f.bits;
  if (!compressed && (rows % per != 0 || (!awq && columns % per != 0)))
    no(shape_text({rows, columns}) + ", which fills no words of " + std::to_string(per) +
           " numbers",
       "compressed-tensors can");
}

}  // namespace packed_detail

// How `format` (one of export_formats()) stores these layers. Errors: a format that does not exist,
// no layer, and what the format cannot say, with those that can.
inline PackedWeights choose_packing(const std::string& format,
                                    const std::vector<LayerToPack>& layers) {
  using namespace packed_detail;
  const auto& names = export_formats();
  if (std::find(names.begin(), names.end(), format) == names.end())
    throw usage_error("unknown format `" + format + "`", "--format", did_you_mean(format, names));
  if (layers.empty())
    throw usage_error("the method encoded no layer in codes with a scale", "",
                      "codebooks and plain numbers have no place in compressed-tensors "
                      "pack-quantized, gptq or awq; weight methods such as rtn give codes");
  const AffineFormat& first = layers.front().rows->format();
  for (const LayerToPack& layer : layers) {
    check_exportable(format, layer);
    const AffineFormat& f = layer.rows->format();
    if (f.bits != first.bits || f.group_size != first.group_size ||
        grid_has_zero(f.grid) != grid_has_zero(first.grid))
      cannot_say(format, layer.name,
                 "layers of several kinds: " + layers.front().name +
                     " has other bits, groups or zero points",
                 "no format can here; give all layers one setting");
  }
  PackedWeights how;
  how.layout = format == "compressed-tensors" ? PackedLayout::compressed_tensors
               : format == "awq"              ? PackedLayout::awq
                                              : PackedLayout::gptq;
  how.bits = first.bits;
  how.group_size = first.group_size;
  // The others always store zero points.
  how.symmetric = format == "compressed-tensors" && !grid_has_zero(first.grid);
  how.zero_offset = format == "gptq" ? 1 : 0;
  how.interleaved = format == "awq";
  return how;
}

namespace packed_detail {

// Codes, scales and zero points of an encoding, as they are stored there.
class StoredCodes {
 public:
  explicit StoredCodes(const AffineRows& rows)
      : bits_(rows.format().bits),
        row_bytes_(packed_bytes(rows.columns(), bits_)),
        stored_(rows.stored()),
        has_zero_(grid_has_zero(rows.format().grid)) {}
  uint32_t code(int64_t row, int64_t column) const {
    return bits_at(stored_.codes, 8 * row * row_bytes_ + column * bits_);
  }
  // index: row * groups + group.
  uint16_t scale(int64_t index) const {
    uint16_t half;
    std::memcpy(&half, static_cast<const uint8_t*>(stored_.scales) + 2 * index, 2);
    return half;
  }
  uint32_t zero(int64_t index) const {
    return has_zero_ ? bits_at(stored_.zeros, index * bits_) : 1u << (bits_ - 1);
  }

 private:
  // 4 or 8 bits, which no byte cuts.
  uint32_t bits_at(const void* bytes, int64_t bit) const {
    return static_cast<const uint8_t*>(bytes)[bit / 8] >> (bit % 8) & ((1u << bits_) - 1);
  }
  int bits_;
  int64_t row_bytes_;
  AffineRows::Bytes stored_;
  bool has_zero_;
};

}  // namespace packed_detail

// The tensors of one layer, NAME.qweight and so on: what unpack_weight reads. `how` is
// choose_packing's.
//
// Zero points less one are subtracted from whole words, so that a zero point of 0 borrows from its
// neighbour: GPTQModel, utils/model.py, convert_gptq_v2_to_v1_format_module.
inline std::vector<PackedTensor> pack_weight(const PackedWeights& how, const LayerToPack& layer) {
  using namespace packed_detail;
  const int64_t rows = layer.rows->rows(), columns = layer.rows->columns();
  const int64_t per = 32 / how.bits, group = how.group_size > 0 ? how.group_size : columns,
                groups = (columns + group - 1) / group;
  const bool by_row = how.layout == PackedLayout::compressed_tensors,
             awq = how.layout == PackedLayout::awq;
  const auto up = [&](int64_t n) { return (n + per - 1) / per; };
  const auto put = [&](std::vector<uint32_t>& words, int64_t index, int64_t lane, uint32_t code) {
    words[size_t(index)] |= code << (how.bits * (how.interleaved ? kAwqOrder[lane] : lane));
  };
  const StoredCodes from(*layer.rows);
  // Codes: compressed-tensors [rows, words], gptq [words, rows], awq [columns, words of rows].
  const std::vector<int64_t> shape = by_row ? std::vector<int64_t>{rows, up(columns)}
                                     : awq  ? std::vector<int64_t>{columns, rows / per}
                                            : std::vector<int64_t>{columns / per, rows};
  std::vector<uint32_t> words(size_t(shape[0] * shape[1]));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t c = layer.order.empty() ? j : layer.order[size_t(j)];
      const uint32_t code = from.code(r, j);
      if (by_row)
        put(words, r * up(columns) + c / per, c % per, code);
      else if (awq)
        put(words, c * (rows / per) + r / per, r % per, code);
      else
        put(words, c / per * rows + r, c % per, code);
    }
  // Scales and zero points: compressed-tensors [rows, groups], the others [groups, rows]; zero
  // points in words along the rows.
  std::vector<uint16_t> scales(static_cast<size_t>(rows * groups));
  std::vector<uint32_t> zeros(static_cast<size_t>(groups * up(rows)));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t g = 0; g < groups; ++g) {
      scales[size_t(by_row ? r * groups + g : g * rows + r)] = from.scale(r * groups + g);
      put(zeros, by_row ? r / per * groups + g : g * up(rows) + r / per, r % per,
          from.zero(r * groups + g));
    }
  const uint32_t less_one = uint32_t(how.zero_offset) * (0xFFFFFFFFu / ((1u << how.bits) - 1));
  for (uint32_t& word : zeros) word -= less_one;
  std::vector<int32_t> of_column;  // the group of every column
  const bool index = how.layout == PackedLayout::gptq || (by_row && !layer.order.empty());
  if (index) {
    of_column.resize(size_t(columns));
    for (int64_t j = 0; j < columns; ++j)
      of_column[size_t(layer.order.empty() ? j : layer.order[size_t(j)])] = int32_t(j / group);
  }

  std::vector<PackedTensor> tensors = {
      packed_tensor(layer.name + how.codes(), DType::i32, shape, words)};
  const auto add = [&](const char* suffix, DType dtype, std::vector<int64_t> sides,
                       const auto& numbers) {
    tensors.push_back(packed_tensor(layer.name + suffix, dtype, std::move(sides), numbers));
  };
  if (by_row) {
    add(".weight_scale", DType::f16, {rows, groups}, scales);
    if (!how.symmetric) add(".weight_zero_point", DType::i32, {up(rows), groups}, zeros);
    add(".weight_shape", DType::i64, {2}, std::vector<int64_t>{rows, columns});
    if (index) add(".weight_g_idx", DType::i32, {columns}, of_column);
  } else {
    add(".scales", DType::f16, {groups, rows}, scales);
    add(".qzeros", DType::i32, {groups, rows / per}, zeros);
    if (index) add(".g_idx", DType::i32, {columns}, of_column);
  }
  return tensors;
}

// Groups with the zero point 0, which `how` stores as -1: readers that take each number of a word
// by itself read 2^bits there.
inline int64_t borrowing_groups(const PackedWeights& how, const LayerToPack& layer) {
  if (how.zero_offset == 0) return 0;
  const int64_t columns = layer.rows->columns();
  const int64_t groups = how.group_size > 0 ? columns / how.group_size : 1;
  const packed_detail::StoredCodes from(*layer.rows);
  int64_t found = 0;
  for (int64_t i = 0; i < layer.rows->rows() * groups; ++i) found += from.zero(i) == 0;
  return found;
}

// `quantization_config` of config.json. plain: linear layers that stay as they are. Errors: plain
// layers or an output head that the format cannot say.
inline Json quantization_config(const std::string& format, const PackedWeights& how,
                                const std::vector<LayerToPack>& layers,
                                const std::vector<std::string>& plain) {
  using namespace packed_detail;
  const Json group = how.group_size > 0 ? Json(how.group_size) : Json(-1);
  const auto ordered = [](const LayerToPack& l) { return !l.order.empty(); };
  const bool act_order = std::any_of(layers.begin(), layers.end(), ordered);
  const bool head = std::any_of(layers.begin(), layers.end(),
                                [](const LayerToPack& l) { return l.name == "lm_head"; });
  std::vector<std::string> inner;  // without the head
  for (const std::string& name : plain)
    if (name != "lm_head") inner.push_back(name);
  const bool symmetric = !grid_has_zero(layers.front().rows->format().grid);
  if (how.layout == PackedLayout::compressed_tensors) {
    Json weights = {{"num_bits", how.bits},
                    {"type", "int"},
                    {"symmetric", how.symmetric},
                    {"strategy", how.group_size > 0 ? "group" : "channel"},
                    {"group_size", how.group_size > 0 ? group : Json(nullptr)},
                    {"dynamic", false}};
    if (act_order) weights["actorder"] = "group";
    return {{"quant_method", "compressed-tensors"},
            {"format", "pack-quantized"},
            {"quantization_status", "compressed"},
            {"config_groups",
             {{"group_0", {{"targets", Json::array({"Linear"})}, {"weights", weights}}}}},
            {"ignore", plain}};
  }
  if (how.layout == PackedLayout::awq) {
    if (head) cannot_say(format, "lm_head", "the output head", "compressed-tensors and gptq can");
    return {{"quant_method", "awq"},
            {"version", "gemm"},
            {"bits", how.bits},
            {"group_size", group},
            {"zero_point", true},
            {"modules_to_not_convert", inner.empty() ? Json(nullptr) : Json(inner)}};
  }
  if (!inner.empty())
    cannot_say(format, inner.front(), "a layer that stays as it is",
               "compressed-tensors and awq can");
  return {{"quant_method", "gptq"}, {"bits", how.bits},      {"group_size", group},
          {"sym", symmetric},       {"desc_act", act_order}, {"checkpoint_format", format},
          {"lm_head", head}};
}

}  // namespace ptq
