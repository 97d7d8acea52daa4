/* Wrong on purpose: needs a function that nobody has. Built by test/abi/test_abi.sh, because the
   flags of ptq_add_plugin make this mistake an error of the linker. */
#define BAD_NAME "bad_symbol"
#define BAD_ENCODE call_nobody
#include "../plugins/bad.h"

ptq_status ptq_test_nobody_defines_this(const ptq_tensor* x, ptq_encoding* out);

static ptq_status call_nobody(void* method, const ptq_call* call, const ptq_kv_block* block,
                              const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block;
  return ptq_test_nobody_defines_this(x, out);
}
