/* Wrong on purpose: its low-rank factors have full rank. */
#define BAD_NAME "bad_rank"
#define BAD_ENCODE full_rank
#include "bad.h"

static ptq_status full_rank(void* method, const ptq_call* call, const ptq_kv_block* block,
                            const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)block;
  const ptq_lowrank_service* service =
      (const ptq_lowrank_service*)call->service(call, PTQ_ENCODE_LOWRANK_1);
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no low-rank encoding");
  ptq_lowrank how;
  memset(&how, 0, sizeof how);
  how.struct_size = sizeof how;
  how.flags = PTQ_LOWRANK_RAW;
  how.chunk = BAD_BLOCK;
  how.min_rank = BAD_BLOCK;
  how.energy = 1;
  return service->factor(call, x, &how, out);
}
