/* Wrong on purpose: a status without a sentence. */
#define BAD_NAME "bad_silent"
#define BAD_ENCODE refuse
#include "bad.h"

static ptq_status refuse(void* method, const ptq_call* call, const ptq_kv_block* block,
                         const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block, (void)x, (void)out;
  return PTQ_INVALID;
}
