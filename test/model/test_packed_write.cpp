// Layouts of other programs, written: what is read from a library's checkpoint is written back as
// its bytes, and what a layout cannot hold is refused.
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq/encoding/dense.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/load_config.hpp"
#include "ptq/model/packed_write.hpp"
#include "ptq/model/weight_files.hpp"

using namespace ptq;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const fs::path kWritten = fs::path(PTQ_SOURCE_DIR) / "test/fixtures/packed";

std::string format_of(const std::string& layout) {
  if (layout.starts_with("ct-")) return "compressed-tensors";
  return layout == "gptq-v2" ? "gptq_v2" : layout.starts_with("gptq") ? "gptq" : "awq";
}

std::vector<float> numbers(DType dtype, const uint8_t* data, size_t bytes) {
  std::vector<float> x(bytes / size_t(dtype_bytes(dtype)));
  to_float(dtype, data, int64_t(x.size()), x.data());
  return x;
}

// A layer of 16 rows and 64 columns.
AffineRows rows_of(int bits, Grid grid, int64_t group) {
  AffineRows rows({bits, grid, 1, group}, 64);
  std::vector<float> x(16 * 64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i * 37 % 101) / 50 - 1;
  rows.append(x.data(), 16);
  return rows;
}

std::string write_refusal(const std::string& format, const std::vector<LayerToPack>& layers,
                          const std::vector<std::string>& plain = {"lm_head"}) {
  try {
    quantization_config(format, choose_packing(format, layers), layers, plain);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("packed write: the checkpoints of the libraries come back byte by byte") {
  for (const std::string layout : {"ct-group-sym", "ct-group-asym", "ct-channel-8bit", "gptq",
                                   "gptq-act-order", "gptq-v2", "gptq-8bit", "awq"}) {
    INFO(layout);
    const ModelConfig config = load_config(kWritten / layout);
    const WeightFiles files(kWritten / layout);
    int compared = 0;
    for (const ExpectedTensor& t : anatomy_of(config).tensors()) {
      const std::string module = t.name.substr(0, t.name.rfind('.'));
      if (!files.is_packed(*config.packed, module)) continue;
      const auto matrix = files.packed(*config.packed, module, t.shape[0], t.shape[1]);
      const LayerToPack layer{module, &matrix->affine, matrix->order};
      const PackedWeights how = choose_packing(format_of(layout), {layer});
      CHECK(how.zero_offset == config.packed->zero_offset);
      CHECK(how.symmetric == config.packed->symmetric);
      for (const PackedTensor& written : pack_weight(how, layer)) {
        INFO(written.name);
        bool found = false;
        files.for_each([&](const TensorInfo& stored) {
          if (stored.name != written.name) return;
          found = true;
          CHECK(stored.shape == written.shape);
          if (written.dtype == DType::f16) {  // this library's scales are float32
            CHECK(numbers(stored.dtype, stored.data, stored.bytes) ==
                  numbers(written.dtype, written.bytes.data(), written.bytes.size()));
          } else {
            CHECK(stored.dtype == written.dtype);
            CHECK(std::vector<uint8_t>(stored.data, stored.data + stored.bytes) == written.bytes);
          }
        });
        CHECK(found);
        ++compared;
      }
      // A group without negative numbers, see make.py.
      CHECK(borrowing_groups(how, layer) ==
            (layout == "gptq" || layout == "gptq-8bit" || layout == "gptq-act-order"));
    }
    CHECK(compared >= 14 * 3);
  }
}

TEST_CASE("packed write: what a format cannot hold is refused, with those that can") {
  const AffineRows four = rows_of(4, Grid::asym_gptq, 32), three = rows_of(3, Grid::asym_gptq, 32),
                   eight = rows_of(8, Grid::asym_gptq, 32), whole = rows_of(4, Grid::sym_full, 0),
                   floats = rows_of(4, Grid::min, 32), uneven = rows_of(4, Grid::asym_gptq, 24);
  const auto one = [](const AffineRows& rows) {
    return std::vector<LayerToPack>{{"a.q_proj", &rows, {}}};
  };
  for (const std::string format : {"compressed-tensors", "gptq", "gptq_v2", "awq"}) {
    INFO(format);
    CHECK(write_refusal(format, one(four)) == "no error");
    CHECK(write_refusal(format, one(whole)) == "no error");
    CHECK_THAT(write_refusal(format, one(three)),
               Contains("3 bits") && Contains("4 and 8 bits, awq 4"));
    CHECK_THAT(write_refusal(format, one(floats)), Contains("grid min") && Contains("a.q_proj"));
    CHECK_THAT(write_refusal(format, one(uneven)), Contains("64 columns in groups of 24"));
    CHECK_THAT(write_refusal(format, {{"a", &four, {}}, {"b", &whole, {}}}),
               Contains("several kinds"));
    CHECK_THAT(write_refusal(format, {}), Contains("encoded no layer"));
  }
  CHECK(write_refusal("gptq", one(eight)) == "no error");
  CHECK_THAT(write_refusal("awq", one(eight)), Contains("8 bits") && Contains("gptq_v2 can"));
  std::vector<int32_t> order(64);
  for (int32_t i = 0; i < 64; ++i) order[size_t(i)] = 63 - i;
  CHECK(write_refusal("gptq", {{"a", &four, order}}) == "no error");
  CHECK_THAT(write_refusal("awq", {{"a", &four, order}}), Contains("columns in another order"));
  CHECK_THAT(write_refusal("gptq", one(four), {"b.k_proj"}), Contains("stays as it is"));
  CHECK(write_refusal("awq", one(four), {"b.k_proj"}) == "no error");
  CHECK_THAT(write_refusal("awq", {{"lm_head", &four, {}}}), Contains("the output head"));
  CHECK_THAT(write_refusal("gguf", one(four)), Contains("unknown format"));
}
