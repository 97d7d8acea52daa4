/* Wrong on purpose: keeps the call of `create`, and speaks through it later. */
#define BAD_NAME "bad_keeps_call"
#define BAD_ENCODE speak
#include "bad.h"

static const ptq_call* first_call;

static ptq_status speak(void* method, const ptq_call* call, const ptq_kv_block* block,
                        const ptq_tensor* x, ptq_encoding* out) {
  if (!first_call) first_call = call;
  first_call->log(first_call, 0, "hello again");
  return encode_codes(method, call, block, x, out);
}
