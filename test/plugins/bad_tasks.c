/* Wrong on purpose: what its tasks compute depends on the order in which they run. */
#define BAD_NAME "bad_tasks"
#define BAD_ENCODE in_order
#include "bad.h"

static int64_t last_task;
static void task(void* context, int64_t i) {
  (void)context;
  last_task = i;
}

static ptq_status in_order(void* method, const ptq_call* call, const ptq_kv_block* block,
                           const ptq_tensor* x, ptq_encoding* out) {
  const ptq_math* math = (const ptq_math*)call->service(call, PTQ_MATH_1);
  last_task = 0;
  if (math) math->parallel(call, 8, task, NULL);
  ptq_tensor scaled = *x;
  const int64_t n = x->shape[0] * x->shape[1] * x->shape[2];
  float* v = (float*)call->alloc(call, PTQ_SCRATCH, (uint64_t)n * sizeof(float));
  if (!v) return call->fail(call, PTQ_NO_MEMORY, "no memory for scaled numbers");
  for (int64_t i = 0; i < n; ++i) v[i] = ((const float*)x->data)[i];
  if (n > 0 && last_task != 0) v[0] = -v[0];
  scaled.data = v;
  return encode_codes(method, call, block, &scaled, out);
}
