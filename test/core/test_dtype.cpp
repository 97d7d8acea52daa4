#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "ptq/core/dtype.hpp"

using namespace ptq;

TEST_CASE("dtype: every binary16 value survives the way through float") {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float x = f16_to_float(uint16_t(h));
    const uint16_t back = float_to_f16(x);
    if (std::isnan(x)) {
      if ((back & 0x7C00) != 0x7C00 || (back & 0x3FF) == 0) FAIL("NaN lost: " << h);
    } else if (back != h) {
      FAIL("binary16 " << h << " came back as " << back);
    }
  }
  SUCCEED();
}

TEST_CASE("dtype: binary16 values are the ones of IEEE 754") {
  // value = (-1)^s 2^(e-15) (1 + m/1024), or 2^-14 (m/1024) for e = 0
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const int e = int(h >> 10 & 31), m = int(h & 1023), sign = h & 0x8000 ? -1 : 1;
    if (e == 31) continue;
    const double value = e == 0 ? sign * std::ldexp(m, -24) : sign * std::ldexp(1024 + m, e - 25);
    if (double(f16_to_float(uint16_t(h))) != value) FAIL("binary16 " << h);
  }
  SUCCEED();
}

TEST_CASE("dtype: rounding to binary16 goes to the nearest, ties to even") {
  CHECK(float_to_f16(65504.0f) == 0x7BFF);
  CHECK(float_to_f16(65519.99f) == 0x7BFF);
  CHECK(float_to_f16(65520.0f) == 0x7C00);
  CHECK(float_to_f16(-65520.0f) == 0xFC00);
  CHECK(float_to_f16(std::ldexp(1.0f, -14)) == 0x0400);
  CHECK(float_to_f16(std::ldexp(1.0f, -24)) == 0x0001);
  CHECK(float_to_f16(std::ldexp(1.0f, -25)) == 0x0000);
  CHECK(float_to_f16(std::nextafter(std::ldexp(1.0f, -25), 1.0f)) == 0x0001);
  CHECK(float_to_f16(-0.0f) == 0x8000);
  CHECK(float_to_f16(std::numeric_limits<float>::infinity()) == 0x7C00);
  CHECK(std::isnan(f16_to_float(float_to_f16(std::numeric_limits<float>::quiet_NaN()))));
  // The midpoint of every pair of neighbours goes to the one with the even last bit.
  for (uint32_t h = 0; h < 0x7BFF; ++h) {
    const double low = f16_to_float(uint16_t(h)), high = f16_to_float(uint16_t(h + 1));
    const float middle = float((low + high) / 2);  // exact: 12 bits
    if (float_to_f16(middle) != (h % 2 == 0 ? h : h + 1)) FAIL("tie above binary16 " << h);
    if (float_to_f16(std::nextafter(middle, 0.0f)) != h) FAIL("below the tie at " << h);
    if (float_to_f16(std::nextafter(middle, 1e9f)) != h + 1) FAIL("above the tie at " << h);
  }
}

TEST_CASE("dtype: every bfloat16 value survives the way through float") {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float x = bf16_to_float(uint16_t(h));
    if (std::isnan(x)) {
      if (!std::isnan(bf16_to_float(float_to_bf16(x)))) FAIL("NaN lost: " << h);
    } else if (float_to_bf16(x) != h) {
      FAIL("bfloat16 " << h);
    }
  }
  SUCCEED();
}

TEST_CASE("dtype: rounding to bfloat16, listed bit patterns") {
  const auto round = [](uint32_t bits) { return float_to_bf16(bits_float(bits)); };
  CHECK(round(0x3F808000) == 0x3F80);  // tie to even
  CHECK(round(0x3F808001) == 0x3F81);
  CHECK(round(0x3F818000) == 0x3F82);
  CHECK(round(0x7F7FFFFF) == 0x7F80);  // infinity
  CHECK(round(0x00008000) == 0x0000);
  CHECK(round(0x00018000) == 0x0002);
  CHECK(round(0xFF800000) == 0xFF80);
  CHECK(std::isnan(bf16_to_float(round(0x7F800001))));  // must not become infinity
  CHECK(std::isnan(bf16_to_float(round(0xFFFFFFFF))));
}

TEST_CASE("dtype: sizes and names") {
  CHECK(dtype_bytes(DType::f32) == 4);
  CHECK(dtype_bytes(DType::bf16) == 2);
  CHECK(dtype_bytes(DType::i64) == 8);
  CHECK(dtype_bytes(DType::u8) == 1);
  CHECK(dtype_name(DType::bf16) == "bf16");
  CHECK(round_f16(0.1f) == 0.0999755859375f);
}
