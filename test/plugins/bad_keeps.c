/* Wrong on purpose: keeps its input and looks at it in the next call. */
#define BAD_NAME "bad_keeps"
#define BAD_ENCODE remember
#include "bad.h"

static ptq_status remember(void* method, const ptq_call* call, const ptq_kv_block* block,
                           const ptq_tensor* x, ptq_encoding* out) {
  static const volatile float* last;
  if (last) (void)last[0];
  last = (const float*)x->data;
  return encode_codes(method, call, block, x, out);
}
