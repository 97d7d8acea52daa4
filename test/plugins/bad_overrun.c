/* Wrong on purpose: reads one number past the end of its input. */
#define BAD_NAME "bad_overrun"
#define BAD_ENCODE look_further
#include "bad.h"

static ptq_status look_further(void* method, const ptq_call* call, const ptq_kv_block* block,
                               const ptq_tensor* x, ptq_encoding* out) {
  const volatile float* v = (const float*)x->data;
  (void)v[x->shape[0] * x->shape[1] * x->shape[2]];
  return encode_codes(method, call, block, x, out);
}
