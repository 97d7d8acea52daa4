/* Wrong on purpose: never returns. */
#define BAD_NAME "bad_hang"
#define BAD_ENCODE hang
#include "bad.h"

static ptq_status hang(void* method, const ptq_call* call, const ptq_kv_block* block,
                       const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block, (void)x, (void)out;
  volatile int forever = 1;
  while (forever) {
  }
  return PTQ_OK;
}
