/* Wrong on purpose: works in its input, which is read-only. */
#define BAD_NAME "bad_write"
#define BAD_ENCODE work_in_place
#include "bad.h"

static ptq_status work_in_place(void* method, const ptq_call* call, const ptq_kv_block* block,
                                const ptq_tensor* x, ptq_encoding* out) {
  float* v = (float*)x->data;
  v[0] = v[0] * 0.5f;
  return encode_codes(method, call, block, x, out);
}
