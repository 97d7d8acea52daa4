/* Wrong on purpose: a code that needs more bits than were announced. */
#define BAD_NAME "bad_bits"
#define BAD_SPOIL overflow
#define BAD_BITS 4
#include "bad.h"

static void overflow(uint8_t* codes, float* scales) {
  (void)scales;
  codes[0] = 1u << BAD_BITS;
}
