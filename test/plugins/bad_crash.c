/* Wrong on purpose: writes through a null pointer. */
#define BAD_NAME "bad_crash"
#define BAD_ENCODE crash
#include "bad.h"

static ptq_status crash(void* method, const ptq_call* call, const ptq_kv_block* block,
                        const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block, (void)x, (void)out;
  volatile int* volatile nowhere = NULL;
  *nowhere = 1;
  return PTQ_OK;
}
