/* Wrong on purpose: the first scale is not a number. */
#define BAD_NAME "bad_nan"
#define BAD_SPOIL poison
#include "bad.h"

static void poison(uint8_t* codes, float* scales) {
  (void)codes;
  const uint32_t nan = 0x7fc00000u;
  memcpy(scales, &nan, sizeof nan);
}
