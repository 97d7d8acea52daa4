/* Wrong on purpose: refuses everything, though properly. */
#define BAD_NAME "bad_fail"
#define BAD_ENCODE refuse
#include "bad.h"

static ptq_status refuse(void* method, const ptq_call* call, const ptq_kv_block* block,
                         const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)block, (void)x, (void)out;
  return call->fail(call, PTQ_INTERNAL, "the moon is in the wrong phase; try again tomorrow");
}
