/* Wrong on purpose: gives other numbers after a dozen calls. */
#define BAD_NAME "bad_tired"
#define BAD_SPOIL tire
#include "bad.h"

static void tire(uint8_t* codes, float* scales) {
  static int calls;
  (void)scales;
  if (++calls > 12) codes[0] ^= 1u;
}
