/* Wrong on purpose: every call for a matrix keeps 64 bytes that nobody counts. */
#define BAD_NAME "bad_matrix_leak"
#define BAD_WIDTH keep_more
#include <stdlib.h>

#include "bad_layer.h"

static void* volatile kept;

static int32_t keep_more(const ptq_call* call, const ptq_linear* linear) {
  (void)call, (void)linear;
  kept = malloc(64);
  return 8;
}
