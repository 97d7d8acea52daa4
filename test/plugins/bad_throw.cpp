/* Wrong on purpose: an exception leaves the plugin. */
#define BAD_NAME "bad_throw"
#define BAD_ENCODE raise_error
#include <stdexcept>

#include "bad.h"

static ptq_status raise_error(void* method, const ptq_call* call, const ptq_kv_block* block,
                              const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)call, (void)block, (void)x, (void)out;
  throw std::runtime_error("thrown across the C border");
}
