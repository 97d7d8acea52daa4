// Weights that another program packed: quantization_config, and behind a NUL byte a layer's sides
// and the bytes of its tensors. Tensors have the shapes that are expected, but for a few that the
// bytes choose.
#include <map>

#include "ptq/model/packed_weights.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

// One tensor of a packed module with its memory.
struct Held {
  TensorInfo tensor;
  std::vector<uint8_t> memory;
};

Held held(Draw& draw, const std::string& name, DType type, std::vector<int64_t> shape) {
  constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i32,
                              DType::i64, DType::i8,  DType::u8,   DType::f8_e4m3};
  const uint8_t change = draw.byte();  // mostly none
  if (change >= 0xF0) type = kTypes[draw.between(0, 7)];
  if (change >= 0xE0 && change < 0xF0) shape[size_t(draw.between(0, int64_t(shape.size()) - 1))]++;
  if (change >= 0xD0 && change < 0xE0) shape.push_back(1);
  if (change >= 0xC0 && change < 0xD0) shape.clear();
  int64_t count = 1;
  for (const int64_t side : shape) count *= side;
  Held out;
  out.memory = draw.bytes(count * dtype_bytes(type));
  out.tensor = {name, type, shape, out.memory.data(), out.memory.size()};
  return out;
}

std::map<std::string, Held> module_of(Draw& draw, const PackedWeights& p, int64_t rows,
                                      int64_t columns) {
  constexpr DType kFloats[] = {DType::f32, DType::f16, DType::bf16};
  const DType number = kFloats[draw.between(0, 2)];
  const int64_t group = p.group_size > 0 ? p.group_size : columns, per = 32 / p.bits,
                groups = (columns + group - 1) / group;
  const auto up = [](int64_t n, int64_t by) { return (n + by - 1) / by; };
  std::map<std::string, Held> out;
  const auto add = [&](const char* part, DType type, std::vector<int64_t> shape) {
    if (draw.byte() == 0xFF) return;  // missing
    out.emplace(part, held(draw, part, type, std::move(shape)));
  };
  switch (p.layout) {
    case PackedLayout::fp8:
      add(".weight", DType::f8_e4m3, {rows, columns});
      add(".weight_scale", number, {up(rows, p.group_rows > 0 ? p.group_rows : rows), groups});
      return out;
    case PackedLayout::compressed_tensors:
      add(".weight_packed", DType::i32, {rows, up(columns, per)});
      add(".weight_scale", number, {rows, groups});
      add(".weight_zero_point", DType::i32, {up(rows, per), groups});
      if (draw.byte() & 1) add(".weight_g_idx", DType::i32, {columns});
      return out;
    case PackedLayout::gptq:
    case PackedLayout::awq:
      add(".qweight", DType::i32,
          p.layout == PackedLayout::awq ? std::vector<int64_t>{columns, rows / per}
                                        : std::vector<int64_t>{columns / per, rows});
      add(".scales", number, {groups, rows});
      add(".qzeros", DType::i32, {groups, rows / per});
      if (draw.byte() & 1) add(".g_idx", DType::i32, {columns});
      return out;
  }
  return out;
}

}  // namespace

bool packed(Bytes input) {
  std::string_view rest = text_of_bytes(input);
  const std::string_view json = next_part(rest);
  return accepts([&] {
    const JsonDocument document = JsonDocument::parse(json, "config.json");
    const PackedWeights p = read_packed_weights(document.root());
    require(p.bits == 4 || p.bits == 8, "codes have 4 or 8 bits");
    require(p.group_size >= 0 && p.group_rows >= 0, "groups have sizes");
    Draw draw(input.subspan(input.size() - rest.size()));
    const int64_t rows = draw.between(1, 24), columns = draw.between(1, 72);
    const std::map<std::string, Held> parts = module_of(draw, p, rows, columns);
    const PackedMatrix matrix =
        unpack_weight(p, "layer", rows, columns, [&](const char* part) -> const TensorInfo* {
          const auto found = parts.find(part);
          return found == parts.end() ? nullptr : &found->second.tensor;
        });
    require(matrix.rows() == rows && matrix.columns() == columns, "the shape that was asked for");
    std::vector<float> whole(size_t(rows * columns)), row(static_cast<size_t>(columns));
    matrix.decode(0, rows, whole.data());
    for (int64_t r = 0; r < rows; ++r) {
      matrix.decode(r, r + 1, row.data());
      require(same_numbers(row.data(), whole.data() + r * columns, columns),
              "a row is decoded as in the whole");
    }
  });
}

}  // namespace ptq::fuzz
