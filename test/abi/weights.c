/* A weight method that lets the host round to 4 bits, written with what every version of plugin.h
   has: test/abi/test_abi.sh builds it against each released header. */
#include <string.h>

#include "ptq/plugin.h"

static ptq_status encode(void* method, const ptq_call* call, const ptq_linear* linear,
                         ptq_encoding* out) {
  (void)method;
  const ptq_tensor* w = linear->weight;
  const ptq_encode_service* service = call->service(call, PTQ_ENCODE_1);
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no ptq.encode/1");
  if (w->ndim != 2 || w->dtype.code != PTQ_FLOAT || w->dtype.bits != 32)
    return call->fail(call, PTQ_INVALID, "the weight is not float32 [out, in]");
  const ptq_affine how = {.struct_size = sizeof how,
                          .bits = 4,
                          .grid = PTQ_GRID_ASYM_GPTQ,
                          .axis = 1,
                          .group_size = 32};
  return service->affine(call, w, &how, out);
}
static const ptq_weights weights = {
    .struct_size = sizeof weights, .devices = 1u << PTQ_CPU, .encode = encode};

static int instance; /* the method has nothing to remember */
static ptq_status create(const ptq_call* call, const char* options_json, void** method) {
  (void)call, (void)options_json;
  *method = &instance;
  return PTQ_OK;
}
static void destroy(void* method, const ptq_call* call) { (void)method, (void)call; }
static const void* get(void* method, const char* id) {
  (void)method;
  return strcmp(id, PTQ_WEIGHTS_1) == 0 ? &weights : NULL;
}

static const ptq_method method = {.struct_size = sizeof method,
                                  .capabilities = PTQ_CAN_WEIGHTS,
                                  .name = "frozen_weights",
                                  .version = "1.0.0",
                                  .summary = "4-bit weights, groups of 32",
                                  .paper = "",
                                  .create = create,
                                  .destroy = destroy,
                                  .get = get};
static const ptq_method* const methods[] = {&method};
PTQ_EXPORT const ptq_plugin ptq_plugin_v1 = {.magic = "PTQPLUG",
                                             .struct_size = sizeof ptq_plugin_v1,
                                             .abi_major = PTQ_ABI_MAJOR,
                                             .abi_minor = PTQ_ABI_MINOR,
                                             .n_methods = 1,
                                             .methods = methods,
                                             .name = "frozen_weights",
                                             .license = "Apache-2.0",
                                             .build = ""};
