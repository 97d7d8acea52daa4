/* A weight method for test/hostile/test_hostile.sh: its answer is what -DANSWER says. */
#include <string.h>

#include "ptq/plugin.h"

/* 4-bit codes into a table: an encoding that only a cache has. */
static inline ptq_status codebook(const ptq_call* call, const ptq_tensor* w, ptq_encoding* out) {
  const ptq_codebook_service* service =
      (const ptq_codebook_service*)call->service(call, PTQ_ENCODE_CODEBOOK_1);
  const int64_t n = w->shape[0] * w->shape[1];
  ptq_tensor codes = *w, scale = *w, levels = *w;
  float table[16];
  for (int i = 0; i < 16; ++i) table[i] = (float)(i - 8) / 8;
  codes.data = call->alloc(call, PTQ_SCRATCH, (uint64_t)n);
  scale.data = call->alloc(call, PTQ_SCRATCH, (uint64_t)w->shape[0] * sizeof(float));
  if (!codes.data || !scale.data) return call->fail(call, PTQ_NO_MEMORY, "no memory for codes");
  memset(codes.data, 7, (size_t)n);
  for (int64_t i = 0; i < w->shape[0]; ++i) ((float*)scale.data)[i] = 1;
  codes.dtype.code = PTQ_UINT;
  codes.dtype.bits = 8;
  scale.shape[1] = scale.stride[0] = 1;
  levels.data = table;
  levels.ndim = 1;
  levels.shape[0] = 16;
  levels.stride[0] = 1;
  const ptq_codebook how = {sizeof(ptq_codebook), 4, PTQ_SCALE_PER_ROW, 0, 0, 0, 0};
  return service->codes(call, &codes, &levels, &scale, NULL, &how, out);
}
static inline ptq_status rounded(const ptq_call* call, const ptq_tensor* w, int bits,
                                 ptq_encoding* out) {
  const ptq_encode_service* service = (const ptq_encode_service*)call->service(call, PTQ_ENCODE_1);
  const ptq_affine how = {sizeof(ptq_affine), bits, PTQ_GRID_SYM_FULL, 1, 0, NULL};
  return service->affine(call, w, &how, out);
}

static ptq_status encode(void* method, const ptq_call* call, const ptq_linear* linear,
                         ptq_encoding* out) {
  (void)method;
  const ptq_tensor* w = linear->weight;
  ANSWER;
}
static const ptq_weights weights = {sizeof(ptq_weights), 1u << PTQ_CPU, encode};
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
static const ptq_method method = {sizeof(ptq_method),
                                  0,
                                  PTQ_CAN_WEIGHTS,
                                  0,
                                  "hostile_weights",
                                  "1.0.0",
                                  "wrong on purpose",
                                  "",
                                  NULL,
                                  create,
                                  destroy,
                                  get};
static const ptq_method* const methods[] = {&method};
PTQ_EXPORT const ptq_plugin ptq_plugin_v1 = {"PTQPLUG",
                                             sizeof(ptq_plugin),
                                             PTQ_ABI_MAJOR,
                                             PTQ_ABI_MINOR,
                                             1,
                                             methods,
                                             "hostile_weights",
                                             "Apache-2.0",
                                             ""};
