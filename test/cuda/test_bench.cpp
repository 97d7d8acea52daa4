// The kernel bench with its smallest shapes: every kernel runs, every row is there and says what it
// moved and computed.
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "ptq/engine/cuda/bench/kernel_list.hpp"

using namespace ptq;

namespace {

std::vector<KernelRow> measure(const std::string& names, double seconds = 1e9) {
  KernelBenchSettings settings;
  settings.tiny = true;
  settings.seconds = seconds;
  settings.names = kernel_names(names);
  std::vector<KernelRow> rows;
  cuda::measure_kernels(0, settings, [&](const KernelRow& row) { rows.push_back(row); });
  return rows;
}

}  // namespace

TEST_CASE("cuda bench: every kernel is timed and its memory given back", "[cuda][bench]") {
  size_t before = 0, after = 0, total = 0;
  measure("add");  // a library keeps what it loads with its first call
  cudaMemGetInfo(&before, &total);
  const std::vector<KernelRow> rows = measure("");
  cudaMemGetInfo(&after, &total);
  CHECK(after == before);

  std::map<std::string, int> count;
  std::map<std::string, KernelRow> by_line;
  for (const KernelRow& row : rows) {
    INFO(row.kernel << ", " << row.shape << ": " << row.error);
    ++count[row.kernel];
    CHECK(by_line.emplace(row.kernel + " " + row.shape, row).second);
    CHECK(row.error.empty());
    CHECK((row.seconds > 0 && std::isfinite(row.seconds)));
    CHECK(row.bytes > 0);
    CHECK((row.rate > 0 && std::isfinite(row.rate)));
    CHECK((row.share > 0 && std::isfinite(row.share)));
    if (row.kernel == "limit") continue;
    CHECK(row.launches >= 1);
    // The shim's second-level cache has 4096 bytes.
#ifndef __CUDACC__
    CHECK(double(row.copies) * row.bytes >= 2 * 4096);
#endif
  }
  const std::map<std::string, int> expected = {
      {"limit", 2},
      {"linear_small bf16", 5 * 4},  // q, k, gate, down, head at 1, 2, 4, 8 rows
      {"linear_small W4", 5 * 4},
      {"linear_tiles W4", 5 * 2},  // 16, 64
      {"gemm bf16", 5 * 7},        // 9 rows, too: those of a pass
      {"attention decode", 2 * 5},
      {"attention prefill", 2 * 5},
      {"rms_norm", 2},
      {"add", 2},
      {"swiglu", 2},
      {"rope", 2},
      {"gather_rows", 2},
      {"decode_affine W4", 1},
      {"convert f16 to bf16", 1},
      {"append_rows", 3},
      {"read_rows", 3},
      {"store_rows", 3},
      {"hadamard_rows", 3},
      {"encode_affine", 3 + 1},  // values; keys only in whole groups of rows
      {"pack_affine", 3 + 1},
      {"score_rows", 2},
      {"copy to host", 4}};
  for (const auto& [kernel, n] : expected) {
    INFO(kernel);
    CHECK(count[kernel] == n);
  }
  CHECK(count.size() == expected.size());
}

TEST_CASE("cuda bench: bytes and operations are those of the result", "[cuda][bench]") {
  std::map<std::string, KernelRow> rows;
  for (const KernelRow& row :
       measure("linear_small bf16 tiny gate,linear_tiles W4 tiny down,gemm bf16 tiny head,rms_norm,"
               "rope,swiglu,append_rows,encode_affine,decode_affine,score_rows,attention"))
    rows[row.kernel + " " + row.shape] = row;
  const auto check = [&](const std::string& line, double bytes, double flops) {
    INFO(line);
    REQUIRE(rows.count(line) == 1);
    CHECK(rows[line].bytes == bytes);
    CHECK(rows[line].flops == flops);
  };
  // W, x and y in 16 bit.
  check("linear_small bf16 tiny gate, up [96, 32], n 4", 2 * (96 * 32 + 4 * (96 + 32)),
        2. * 4 * 96 * 32);
  check("gemm bf16 tiny head [80, 32], n 64", 2 * (80 * 32 + 64 * (80 + 32)), 2. * 64 * 80 * 32);
  // 4 bits a weight; for 32 of them a scale of 2 bytes and a zero of 4 bits.
  check("linear_tiles W4 tiny down [32, 96], n 16", 1536 + 96 * 2 + 48 + 2 * 16 * (32 + 96),
        2. * 16 * 96 * 32);
  check("decode_affine W4 tiny gate, up 64 x 32", 1024 + 64 * 2 + 32 + 2 * 64 * 32, 0);
  check("rms_norm tiny 9 x 32", 2 * (9 * 32 + 32 + 9 * 32), 0);
  check("swiglu tiny 9 x 96", 3 * 2 * 9 * 96, 0);
  check("rope tiny 9 x 64", 2 * 2 * 9 * 64 + 9 * 2 * 8 * 4, 0);  // 8 angles a row, cos and sin
  check("append_rows tiny 32 x 32", 2 * 2 * 2 * 32 * 32, 0);  // keys and values, read and written
  // float32 in; 2 bits a code; scale and minimum per column of 32 rows, per row of a head.
  check("encode_affine tiny 32 x 32, keys", 4 * 1024 + 256 + 4 * 32, 0);
  check("encode_affine tiny 32 x 32, values", 4 * 1024 + 256 + 4 * 64, 0);
  check("score_rows tiny 3 x 80, with reference", 2 * 2 * 3 * 80, 0);

  // 96 rows of 2 heads of 16 columns, 4 query heads.
  const double q_and_out = 2 * 2 * 64, flops = 4. * 64 * 96;
  check("attention decode tiny 4/2 heads, 96 rows, 16 bit", 2 * 2 * 96 * 32 + q_and_out, flops);
  // Keys: 2 blocks of 32 rows are encoded, scale and minimum for 32 rows of a column; the rest is
  // dense. Values: all but the newest 32 and the last, a scale and minimum per row and head.
  const double keys = 64 * 8 + 4 * 2 * 32 + 2 * 32 * 32, values = 63 * 8 + 4 * 63 * 2 + 2 * 33 * 32;
  check("attention decode tiny 4/2 heads, 96 rows, kivi 2 bit", keys + values + q_and_out, flops);
  check("attention decode tiny 4/2 heads, 96 rows, kivi 4 bit",
        keys + values + (64 + 63) * 8 + q_and_out, flops);
  // One dense row; 95 of 8 bytes of codes, and an exact number of 4 bytes with the row's pointer of
  // 4 bytes; scale and offset for each column of the keys, each row of the values.
  check("attention decode tiny 4/2 heads, 96 rows, codebook 2 bit",
        2 * (2 * 32 + 95 * (8 + 8)) + 4 * 32 + 4 * 95 + q_and_out, flops);
  // 3 chunks of 16 rows: per head the mean row, factors of rank 8, the rank and where they stand.
  check("attention decode tiny 4/2 heads, 96 rows, low rank 8",
        2 * (3 * 2 * (2 * (16 + 8 * (16 + 16)) + 1 + 8) + 2 * 48 * 32) + q_and_out, flops);
  // Causal: 64 * 65 / 2 pairs.
  check("attention prefill tiny 4/2 heads, 64 rows, 16 bit", 2 * 2 * 64 * 32 + 64 * q_and_out,
        4. * 64 * 64 * 65 / 2);
}

TEST_CASE("cuda bench: names choose rows, time that is up leaves rows out", "[cuda][bench]") {
  const std::vector<KernelRow> rows = measure("swiglu,hadamard");
  std::set<std::string> kernels;
  for (const KernelRow& row : rows) kernels.insert(row.kernel);
  CHECK(kernels == std::set<std::string>{"limit", "swiglu", "hadamard_rows"});
  CHECK_THROWS_WITH(measure("no such"), Catch::Contains("linear_small W4"));

  const std::vector<KernelRow> none = measure("swiglu", 0);
  REQUIRE(none.size() == 4);
  CHECK(none[0].error.empty());  // the limits
  CHECK(none[3].error == "no time left");
  const auto json = nlohmann::json::parse(kernels_json("a \"card\"", none));
  CHECK(json["device"] == "a \"card\"");
  CHECK(json["rows"].size() == 4);
  CHECK(json["rows"][0]["unit"] == "GB/s");
  CHECK(json["rows"][3]["error"] == "no time left");
}

TEST_CASE("cuda bench: the nearer limit is the one that a row is compared with", "[cuda][bench]") {
  KernelRow row;
  row.seconds = 1;
  row.bytes = 500e9;
  row.flops = 100e12;
  compare_with_limits(row, 400e12, 1000e9);  // memory takes 0.5 s, the products 0.25 s
  CHECK(row.unit == "GB/s");
  CHECK(row.rate == Approx(500));
  CHECK(row.share == Approx(0.5));
  row.flops = 300e12;
  compare_with_limits(row, 400e12, 1000e9);
  CHECK(row.unit == "TFLOP/s");
  CHECK(row.rate == Approx(300));
  CHECK(row.share == Approx(0.75));
}
