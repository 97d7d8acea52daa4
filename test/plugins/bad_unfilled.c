/* Wrong on purpose: says ok and stores nothing. */
#define BAD_NAME "bad_unfilled"
#define BAD_ENCODE forget
#include "bad.h"

static ptq_status forget(void* method, const ptq_call* call, const ptq_kv_block* block,
                         const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block, (void)x, (void)out;
  return PTQ_OK;
}
