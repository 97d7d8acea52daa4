/* A small correct KV method (8 bit, own codes) for plugins that are wrong on purpose. A bad_*.c
   defines what it does differently before it includes this file, so that it shows only its
   fault. */
#ifndef PTQ_TEST_BAD_H
#define PTQ_TEST_BAD_H

#include <string.h>

#include "ptq/plugin.h"

#ifndef BAD_MAGIC
#define BAD_MAGIC "PTQPLUG"
#endif
#ifndef BAD_SIZE
#define BAD_SIZE sizeof(ptq_plugin)
#endif
#ifndef BAD_MAJOR
#define BAD_MAJOR PTQ_ABI_MAJOR
#endif
#ifndef BAD_BLOCK
#define BAD_BLOCK 4
#endif
#ifndef BAD_DEFAULT
#define BAD_DEFAULT "8"
#endif
#ifndef BAD_SUMMARY
#define BAD_SUMMARY "wrong on purpose"
#endif
#ifndef BAD_METHOD_NAME
#define BAD_METHOD_NAME BAD_NAME
#endif

/* What a faulty file may do to the numbers before they are handed over. */
#ifdef BAD_SPOIL
static void BAD_SPOIL(uint8_t* codes, float* scales);
#else
#define BAD_SPOIL(codes, scales) (void)0
#endif
#ifndef BAD_BITS
#define BAD_BITS 8
#endif

/* The fault of most files: an encode of their own, written below the inclusion. */
#ifdef BAD_ENCODE
static ptq_status BAD_ENCODE(void* method, const ptq_call* call, const ptq_kv_block* block,
                             const ptq_tensor* x, ptq_encoding* out);
#else
#define BAD_ENCODE encode_codes
#endif

/* The correct one; spoiled on demand. Scales are powers of two, which float16 has exactly. */
static inline ptq_status encode_codes(void* method, const ptq_call* call, const ptq_kv_block* block,
                                      const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)block;
  const ptq_encode_service* service = (const ptq_encode_service*)call->service(call, PTQ_ENCODE_1);
  const int64_t rows = x->shape[0] * x->shape[1], dim = x->shape[2];
  uint8_t* codes = (uint8_t*)call->alloc(call, PTQ_SCRATCH, (uint64_t)(rows * dim));
  float* scales = (float*)call->alloc(call, PTQ_SCRATCH, (uint64_t)rows * sizeof(float));
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no ptq.encode/1");
  if (!codes || !scales) return call->fail(call, PTQ_NO_MEMORY, "no memory for codes and scales");
  const int half = 1 << (BAD_BITS - 1);
  for (int64_t row = 0; row < rows; ++row) {
    const float* v =
        (const float*)x->data + row / x->shape[1] * x->stride[0] + row % x->shape[1] * x->stride[1];
    float largest = 0, scale = 1.0f / (1 << 20);
    for (int64_t i = 0; i < dim; ++i) {
      const float a = v[i] < 0 ? -v[i] : v[i];
      if (!(a < 1e6f)) return call->fail(call, PTQ_INVALID, "a value is not finite");
      if (a > largest) largest = a;
    }
    while (scale * (float)(half - 1) < largest) scale *= 2;
    scales[row] = scale;
    for (int64_t i = 0; i < dim; ++i) {
      const float q = v[i] / scale;
      codes[row * dim + i] = (uint8_t)(half + (int)(q < 0 ? q - 0.5f : q + 0.5f));
    }
  }
  if (rows > 0) BAD_SPOIL(codes, scales);
  ptq_tensor code_view = *x, scale_view = *x;
  code_view.data = codes;
  code_view.dtype.code = PTQ_UINT;
  code_view.dtype.bits = 8;
  code_view.stride[0] = x->shape[1] * dim;
  code_view.stride[1] = dim;
  scale_view.data = scales;
  scale_view.shape[2] = 1;
  scale_view.stride[0] = x->shape[1];
  scale_view.stride[1] = 1;
  const ptq_affine how = {sizeof(ptq_affine), BAD_BITS, PTQ_GRID_SYM_NARROW, 1, 0, NULL};
  return service->affine_codes(call, &code_view, &scale_view, NULL, &how, out);
}

static ptq_status policy(void* method, const ptq_call* call, const ptq_kv_shape* shape,
                         ptq_kv_policy* keys, ptq_kv_policy* values) {
  (void)method, (void)call, (void)shape;
  keys->key_space = PTQ_POST_ROPE;
  keys->sink = values->sink = 0;
  keys->window = values->window = 4;
  keys->block = values->block = BAD_BLOCK;
#ifdef BAD_POLICY_FLAGS
  keys->flags = BAD_POLICY_FLAGS;
#endif
  return PTQ_OK;
}

static const ptq_kv kv = {sizeof(ptq_kv), 1u << PTQ_CPU, policy, BAD_ENCODE};

/* A calibration of the file's own, written below the inclusion. */
#ifdef BAD_CALIBRATE
static ptq_status BAD_CALIBRATE(void* method, const ptq_call* call, const ptq_kv_block* rows,
                                const ptq_tensor* x, const ptq_tensor* fisher);
static const ptq_kv_calibration calibration = {sizeof(ptq_kv_calibration),
                                               PTQ_WANT_SAMPLES | PTQ_WANT_FISHER, BAD_CALIBRATE};
#endif

static int instance; /* the method has nothing to remember */

static ptq_status create(const ptq_call* call, const char* options_json, void** method) {
  (void)call, (void)options_json;
  *method = &instance;
  return PTQ_OK;
}

static void destroy(void* method, const ptq_call* call) { (void)method, (void)call; }

static const void* get(void* method, const char* capability_id) {
  (void)method;
#ifdef BAD_CALIBRATE
  if (strcmp(capability_id, PTQ_KV_CALIBRATION_1) == 0) return &calibration;
#endif
  return strcmp(capability_id, PTQ_KV_1) == 0 ? &kv : NULL;
}

static const ptq_option option = {
    sizeof(ptq_option), PTQ_OPTION_INT, "level", BAD_DEFAULT, "does nothing", 0, 16, NULL};
static const ptq_option* const options[] = {&option};

static const ptq_method method = {
    sizeof(ptq_method), 1,  PTQ_CAN_KV, 0,      BAD_METHOD_NAME, "1.0.0",
    BAD_SUMMARY,        "", options,    create, destroy,         get};
static const ptq_method* const methods[] = {&method};

const ptq_plugin ptq_plugin_v1 = {BAD_MAGIC, BAD_SIZE,     BAD_MAJOR, PTQ_ABI_MINOR, 1, methods,
                                  BAD_NAME,  "Apache-2.0", ""};

#endif
