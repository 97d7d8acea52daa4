/* Wrong on purpose: takes a host of a later version for none. */
#define BAD_NAME "bad_later"
#define BAD_ENCODE compare_sizes
#include "bad.h"

static ptq_status compare_sizes(void* method, const ptq_call* call, const ptq_kv_block* block,
                                const ptq_tensor* x, ptq_encoding* out) {
  if (block->struct_size != sizeof *block)
    return call->fail(call, PTQ_UNSUPPORTED, "this host has another ptq_kv_block");
  return encode_codes(method, call, block, x, out);
}
