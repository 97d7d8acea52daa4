/* Wrong on purpose: the same call gives other bytes the next time. */
#define BAD_NAME "bad_random"
#define BAD_SPOIL vary
#include "bad.h"

static void vary(uint8_t* codes, float* scales) {
  static uint8_t calls;
  (void)scales;
  codes[0] ^= ++calls & 1u;
}
