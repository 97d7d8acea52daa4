/* Wrong on purpose: asks for a sample of the cache and learns nothing from it. */
#define BAD_NAME "bad_sample"
#define BAD_CALIBRATE look_away
#include "bad.h"

static ptq_status look_away(void* method, const ptq_call* call, const ptq_kv_block* rows,
                            const ptq_tensor* x, const ptq_tensor* fisher) {
  (void)method, (void)call, (void)rows, (void)x, (void)fisher;
  return PTQ_OK;
}
