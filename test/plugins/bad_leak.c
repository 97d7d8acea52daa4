/* Wrong on purpose: every call keeps 64 bytes that nobody counts. */
#define BAD_NAME "bad_leak"
#define BAD_ENCODE keep_more
#include <stdlib.h>

#include "bad.h"

static void* volatile kept;

static ptq_status keep_more(void* method, const ptq_call* call, const ptq_kv_block* block,
                            const ptq_tensor* x, ptq_encoding* out) {
  kept = malloc(64);
  return encode_codes(method, call, block, x, out);
}
