/* Wrong on purpose: calls itself lossy and stores its input. */
#define BAD_NAME "bad_passthrough"
#define BAD_ENCODE pass
#include "bad.h"

static ptq_status pass(void* method, const ptq_call* call, const ptq_kv_block* block,
                       const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)block;
  const ptq_encode_service* service = (const ptq_encode_service*)call->service(call, PTQ_ENCODE_1);
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no ptq.encode/1");
  const ptq_dtype float16 = {PTQ_FLOAT, 16, 1};
  return service->dense(call, x, float16, out);
}
