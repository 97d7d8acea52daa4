/* Wrong on purpose: aborts the process. */
#define BAD_NAME "bad_abort"
#define BAD_ENCODE give_up
#include <stdlib.h>

#include "bad.h"

static ptq_status give_up(void* method, const ptq_call* call, const ptq_kv_block* block,
                          const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block, (void)x, (void)out;
  abort();
}
