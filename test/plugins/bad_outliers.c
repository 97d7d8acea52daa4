/* Wrong on purpose: its outliers are all left out. */
#define BAD_NAME "bad_outliers"
#define BAD_ENCODE no_outliers
#include "bad.h"

static ptq_status no_outliers(void* method, const ptq_call* call, const ptq_kv_block* block,
                              const ptq_tensor* x, ptq_encoding* out) {
  const ptq_status status = encode_codes(method, call, block, x, out);
  const ptq_outliers_service* service =
      (const ptq_outliers_service*)call->service(call, PTQ_ENCODE_OUTLIERS_1);
  if (status != PTQ_OK) return status;
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no outliers");
  const int64_t rows = x->shape[0] * x->shape[1];
  ptq_tensor index = *x, value = *x;
  index.data = call->alloc(call, PTQ_SCRATCH, (uint64_t)rows * sizeof(int32_t));
  value.data = call->alloc(call, PTQ_SCRATCH, (uint64_t)rows * sizeof(float));
  if (!index.data || !value.data) return call->fail(call, PTQ_NO_MEMORY, "no memory for outliers");
  memset(index.data, 0xff, (size_t)rows * sizeof(int32_t)); /* -1: none */
  memset(value.data, 0, (size_t)rows * sizeof(float));
  index.dtype.code = PTQ_INT;
  index.shape[2] = value.shape[2] = 1;
  index.stride[0] = value.stride[0] = x->shape[1];
  index.stride[1] = value.stride[1] = 1;
  return service->overlay(call, &index, &value, 0, out);
}
