/* Wrong on purpose: writes one number more than it has asked memory for. */
#define BAD_NAME "bad_scratch"
#define BAD_SPOIL one_more
#include "bad.h"

static void one_more(uint8_t* codes, float* scales) {
  (void)codes;
  scales[-1] = 1;
}
