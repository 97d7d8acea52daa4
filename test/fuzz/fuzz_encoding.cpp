// Every encoding: a format, a shape and codes that the bytes choose are refused, or stored and read
// back, the whole as each part of it. Answers go through the objects that store those of methods.
#include "ptq/encoding/activation.hpp"
#include "ptq/engine/cpu/encoded_rows.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/model/gguf_parts.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

// decode(begin, end, out) of rows [0, rows): any part is what it is in the whole.
template <class Decode>
void check_parts(Draw& draw, int64_t rows, int64_t columns, const Decode& decode) {
  std::vector<float> whole(size_t(rows * columns)), part(whole.size());
  decode(0, rows, whole.data());
  for (int i = 0; i < 3; ++i) {
    const int64_t begin = draw.between(0, rows - 1), end = draw.between(begin, rows);
    decode(begin, end, part.data());
    require(same_numbers(part.data(), whole.data() + begin * columns, (end - begin) * columns),
            "a part is decoded as in the whole");
  }
}

// What host_services refuses before an encoding sees it.
void only_finite(std::vector<float>& x) {
  for (float& value : x)
    if (!std::isfinite(value)) value = 0;
}

AffineFormat affine_format(Draw& draw) {
  AffineFormat f;
  f.bits = int(draw.between(0, 9));
  f.grid = Grid(draw.between(0, 7));
  f.axis = int(draw.between(0, 2));
  f.group_size = draw.between(-1, 80);
  return f;
}

// Groups of a side, as the service counts them.
int64_t groups(int64_t n, int64_t size) { return size <= 0 ? 1 : (n + size - 1) / size; }

void fill_affine(Draw& draw, RowSink& sink, int64_t batch, int64_t rows, int64_t columns) {
  const AffineFormat f = affine_format(draw);
  if (draw.byte() & 1) {
    std::vector<float> x = draw.floats(batch * rows * columns);
    only_finite(x);
    return sink.affine(f, batch, rows, columns, x.data());
  }
  const int64_t params = batch * (f.axis == 1 ? rows * groups(columns, f.group_size)
                                              : groups(rows, f.group_size) * columns);
  const bool zeros = (draw.byte() & 1) != 0;
  const std::vector<float> scale = draw.floats(params);
  std::vector<float> zero = draw.floats(params);
  if (draw.byte() & 1)  // integers are rare among bit patterns
    for (float& z : zero) z = float(draw.byte());
  std::vector<uint8_t> codes = draw.bytes(batch * rows * columns);
  if (f.bits < 8 && (draw.byte() & 1))
    for (uint8_t& code : codes) code &= uint8_t((1 << f.bits) - 1);
  sink.affine_codes(f, batch, rows, columns, codes.data(), scale.data(),
                    zeros ? zero.data() : nullptr);
}

void fill_codebook(Draw& draw, RowSink& sink, int64_t batch, int64_t rows, int64_t columns) {
  const CodebookFormat f{int(draw.between(1, 8)), ScaleOf(draw.between(1, 3)),
                         (draw.byte() & 1) != 0};
  const int64_t scales = f.scale == ScaleOf::row     ? batch * rows
                         : f.scale == ScaleOf::token ? rows
                                                     : batch * columns;
  const std::vector<float> levels = draw.floats(1 << f.bits), scale = draw.floats(scales),
                           offset = draw.floats(f.has_offset ? scales : 0);
  std::vector<uint8_t> codes = draw.bytes(batch * rows * columns);
  for (uint8_t& code : codes) code &= uint8_t((1 << f.bits) - 1 + (code == 0xFF));
  sink.codebook(f, batch, rows, columns, codes.data(), levels.data(), scale.data(),
                f.has_offset ? offset.data() : nullptr);
}

void fill_lowrank(Draw& draw, RowSink& sink, int64_t batch, int64_t rows, int64_t columns) {
  LowRankFormat f;
  f.chunk = draw.between(0, 32);
  f.min_rank = draw.between(-1, 40);
  f.max_rank = draw.between(-1, 255);
  f.energy = double(draw.byte()) / 200;
  const uint8_t flags = draw.byte();
  f.center = flags & 1;
  f.shared_rank = flags & 2;
  f.raw_fallback = flags & 4;
  sink.lowrank(f, batch, rows, columns, draw.floats(batch * rows * columns).data());
}

// Rows of a cache: several blocks, and exact values on top.
void check_cache(Draw& draw) {
  const int64_t heads = draw.between(1, 3), columns = draw.between(1, 40),
                block = draw.between(1, 33);
  const bool turned = (columns & (columns - 1)) == 0 && (draw.byte() & 1) != 0;
  EncodedRows rows(heads, columns, block, 0, "layer", nullptr, turned);
  const uint8_t kind = draw.byte();
  for (int64_t b = draw.between(1, 3); b > 0; --b) {
    rows.expect(block);
    switch (kind % 4) {
      case 0: fill_affine(draw, rows, heads, block, columns); break;
      case 1: {
        const DType type = kind & 4 ? DType::f16 : DType::bf16;
        rows.dense(type, heads, block, columns, draw.floats(heads * block * columns).data());
        break;
      }
      case 2: fill_codebook(draw, rows, heads, block, columns); break;
      default: fill_lowrank(draw, rows, heads, block, columns);
    }
    require(rows.filled(), "an answer that is not refused is stored");
    if ((kind & 8) == 0) continue;
    const int64_t k = draw.between(0, 4);
    std::vector<int32_t> index;
    for (int64_t i = 0; i < heads * block * k; ++i)
      index.push_back(int32_t(draw.between(-1, columns)));
    rows.outliers((kind & 16) != 0, heads, block, k, index.data(),
                  draw.floats(heads * block * k).data());
  }
  require(rows.bytes() <= rows.allocated(), "what is counted is there");
  for (int64_t h = 0; h < heads; ++h)
    check_parts(draw, rows.rows(), columns, [&](int64_t begin, int64_t end, float* out) {
      rows.decode(h, begin, end, out, columns);
    });
}

void fill_grouped(Draw& draw, RowSink& sink, int64_t rows, int64_t columns) {
  GroupedFormat f;
  f.bits = int(draw.between(1, 8));
  f.group_size = draw.between(-1, 80);
  f.scale = ScaleType(draw.between(0, 4));
  f.tensor_scale = draw.floats(1)[0];
  const std::vector<float> levels = draw.floats(1 << f.bits),
                           scale = draw.floats(rows * groups(columns, f.group_size));
  std::vector<uint8_t> codes = draw.bytes(rows * columns);
  for (uint8_t& code : codes) code &= uint8_t((1 << f.bits) - 1);
  sink.grouped_codes(f, rows, columns, codes.data(), levels.data(), scale.data());
}

void check_weight(Draw& draw) {
  const int64_t rows = draw.between(1, 9), columns = draw.between(1, 80);
  const std::vector<uint8_t> file = draw.bytes(2 * rows * columns);
  LinearWeight weight("layer",
                      TensorInfo{"w", DType::f16, {rows, columns}, file.data(), file.size()});
  switch (draw.between(0, 3)) {
    case 0: fill_affine(draw, weight, 1, rows, columns); break;
    case 1: fill_grouped(draw, weight, rows, columns); break;
    case 2: weight.dense(DType::bf16, 1, rows, columns, draw.floats(rows * columns).data()); break;
    default: {
      const AffineFormat f = affine_format(draw);
      std::vector<int32_t> order;
      for (int64_t c = 0; c < columns; ++c) order.push_back(int32_t((c * 7 + 3) % columns));
      if (draw.byte() & 1) order[0] = int32_t(draw.between(-1, columns));
      const int64_t n = rows * groups(columns, f.group_size);
      const std::vector<float> scale = draw.floats(n), zero = draw.floats(n);
      if (f.axis == 1)
        weight.ordered_codes(f, order.data(), rows, columns, draw.bytes(rows * columns).data(),
                             scale.data(), draw.byte() & 1 ? zero.data() : nullptr);
    }
  }
  check_parts(draw, rows, columns,
              [&](int64_t begin, int64_t end, float* out) { weight.decode(begin, end, out); });
}

// Rows of a file: plain numbers and the blocks of GGUF, in either order of the rows.
void check_stored(Draw& draw) {
  constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
  StoredRows stored;
  const uint8_t kind = draw.byte();
  const BlockFormat* blocks =
      gguf_detail::kStoredTypes[kind % std::size(gguf_detail::kStoredTypes)].blocks;
  stored.blocks = blocks;
  stored.columns = blocks ? blocks->numbers * draw.between(1, 2) : draw.between(1, 70);
  if (!blocks) stored.dtype = kTypes[draw.between(0, 2)];
  const int64_t rows = 2 * draw.between(1, 4);
  if (draw.byte() & 1) stored.paired = 2;
  // A place of its own: reading behind the last byte is a finding.
  const std::vector<uint8_t> data = draw.bytes(rows * stored.row_bytes());
  stored.data = data.data();
  check_parts(draw, rows, stored.columns,
              [&](int64_t begin, int64_t end, float* out) { stored.decode(begin, end, out); });
}

void check_activation(Draw& draw) {
  const std::vector<float> x = draw.floats(3);
  for (const ActivationKind kind : {ActivationKind::int8_token, ActivationKind::int8_static,
                                    ActivationKind::fp8_token, ActivationKind::fp8_static}) {
    const float step = step_per_token(kind) ? activation_step(kind, std::fabs(x[1])) : x[1];
    volatile float rounded = rounded_activation(x[0], kind, step, x[2]);
    (void)rounded;
  }
  const float code = int8_code(x[0], x[1]);
  require(std::isnan(code) || std::fabs(code) <= 127, "a code has 8 bits");
}

}  // namespace

bool encoding(Bytes input) {
  return accepts([&] {
    Draw draw(input);
    switch (draw.between(0, 3)) {
      case 0: return check_cache(draw);
      case 1: return check_weight(draw);
      case 2: return check_stored(draw);
      default: check_activation(draw);
    }
  });
}

}  // namespace ptq::fuzz
