/* A small correct weight method (8 bit, rounded by the host) that also moves scales and rounds
   activations, both by what it is told of the inputs, for plugins that are wrong on purpose. A
   bad_*.c defines what it does differently before it includes this file. */
#ifndef PTQ_TEST_BAD_LAYER_H
#define PTQ_TEST_BAD_LAYER_H

#include <string.h>

#include "ptq/plugin.h"

#ifndef BAD_ORDER
#define BAD_ORDER 0 /* 1: the columns are given in an order, of which nothing follows */
#endif
/* The width of the codes that the host rounds to, by a function written below the inclusion. */
#ifdef BAD_WIDTH
static int32_t BAD_WIDTH(const ptq_call* call, const ptq_linear* linear);
#else
#define BAD_WIDTH(call, linear) 8
#endif
/* What follows of the largest |x| of a channel, for factors and for the step of the activations. */
#ifndef BAD_FACTOR
#define BAD_FACTOR(largest) (1 + (largest))
#endif
#ifndef BAD_STEP
#define BAD_STEP(largest) (((largest) + 1e-5f) / 127)
#endif
#ifndef BAD_KIND
#define BAD_KIND PTQ_ACTIVATION_INT8_STATIC
#endif
/* Where the inputs were not measured. */
#ifndef BAD_GUESS
#define BAD_GUESS(call) return (call)->fail(call, PTQ_INVALID, "the inputs were not measured")
#endif

static ptq_status encode(void* method, const ptq_call* call, const ptq_linear* linear,
                         ptq_encoding* out) {
  (void)method;
  const ptq_encode_service* service = (const ptq_encode_service*)call->service(call, PTQ_ENCODE_1);
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no ptq.encode/1");
  const ptq_tensor* w = linear->weight;
  ptq_affine how = {sizeof(ptq_affine), BAD_WIDTH(call, linear), PTQ_GRID_SYM_FULL, 1, 0, NULL};
  if (!BAD_ORDER) return service->affine(call, w, &how, out);
  if (w->ndim != 2 || w->dtype.bits != 32)
    return call->fail(call, PTQ_INVALID, "the weight is not float32 [out, in]");
  const int64_t rows = w->shape[0], columns = w->shape[1];
  int32_t* order = (int32_t*)call->alloc(call, PTQ_SCRATCH, (uint64_t)columns * sizeof(int32_t));
  uint8_t* codes = (uint8_t*)call->alloc(call, PTQ_SCRATCH, (uint64_t)(rows * columns));
  float* scales = (float*)call->alloc(call, PTQ_SCRATCH, (uint64_t)rows * sizeof(float));
  if (!order || !codes || !scales) return call->fail(call, PTQ_NO_MEMORY, "no memory for codes");
  for (int64_t j = 0; j < columns; ++j) order[j] = (int32_t)j;
  for (int64_t r = 0; r < rows; ++r) {
    const float* v = (const float*)w->data + r * columns;
    float largest = 0;
    scales[r] = 1.0f / (1 << 20);
    for (int64_t j = 0; j < columns; ++j) {
      const float a = v[j] < 0 ? -v[j] : v[j];
      if (!(a < 1e6f)) return call->fail(call, PTQ_INVALID, "a weight is not finite");
      if (a > largest) largest = a;
    }
    while (scales[r] * 127 < largest) scales[r] *= 2;
    for (int64_t j = 0; j < columns; ++j) {
      const float q = v[j] / scales[r];
      codes[r * columns + j] = (uint8_t)(128 + (int)(q < 0 ? q - 0.5f : q + 0.5f));
    }
  }
  ptq_tensor code_view = *w, scale_view = *w;
  code_view.data = codes;
  code_view.dtype.code = PTQ_UINT;
  code_view.dtype.bits = 8;
  scale_view.data = scales;
  scale_view.shape[1] = 1;
  scale_view.stride[0] = 1;
  how.order = order;
  return service->affine_codes(call, &code_view, &scale_view, NULL, &how, out);
}
static const ptq_weights weights = {sizeof(ptq_weights), 1u << PTQ_CPU, encode};
static const ptq_weights_calibration calibration = {
    sizeof(ptq_weights_calibration), 0, {PTQ_INPUTS_COLUMNS, PTQ_ORDER_FULL, 0}};

/* [in]: the largest |x| of each channel, or NULL. */
static const float* largest_of(const ptq_linear* linear) {
  if (!PTQ_HAS(linear, inputs) || !linear->inputs || !linear->inputs->largest) return NULL;
  return (const float*)linear->inputs->largest->data;
}

static ptq_status scale(void* method, const ptq_call* call, const ptq_site* site, float* factor) {
  (void)method;
  const float* largest = largest_of(site->linears[0]);
  (void)call;
  if (!largest) BAD_GUESS(call);
  for (int64_t j = 0; j < site->linears[0]->weight->shape[1]; ++j)
    factor[j] = BAD_FACTOR(largest ? largest[j] : 1.0f);
  return PTQ_OK;
}
static const ptq_transform transform = {
    sizeof(ptq_transform), 0, {PTQ_INPUTS_COLUMNS, PTQ_ORDER_FULL, 0}, scale};

static ptq_status choose(void* method, const ptq_call* call, const ptq_linear* linear,
                         ptq_activation* how) {
  (void)method;
  const float* largest = largest_of(linear);
  (void)call;
  if (!largest) BAD_GUESS(call);
  float all = largest ? 0.0f : 1.0f;
  for (int64_t j = 0; largest && j < linear->weight->shape[1]; ++j)
    if (largest[j] > all) all = largest[j];
  how->kind = BAD_KIND;
  how->scale = BAD_STEP(all);
  return PTQ_OK;
}
static const ptq_activations activations = {
    sizeof(ptq_activations), 0, {PTQ_INPUTS_COLUMNS, PTQ_ORDER_FULL, 0}, choose};

static int instance; /* the method has nothing to remember */
static ptq_status create(const ptq_call* call, const char* options_json, void** method) {
  (void)call, (void)options_json;
  *method = &instance;
  return PTQ_OK;
}
static void destroy(void* method, const ptq_call* call) { (void)method, (void)call; }
static const void* get(void* method, const char* id) {
  (void)method;
  if (strcmp(id, PTQ_WEIGHTS_CALIBRATION_1) == 0) return &calibration;
  if (strcmp(id, PTQ_TRANSFORM_1) == 0) return &transform;
  if (strcmp(id, PTQ_ACTIVATIONS_1) == 0) return &activations;
  return strcmp(id, PTQ_WEIGHTS_1) == 0 ? &weights : NULL;
}

static const ptq_method method = {sizeof(ptq_method),
                                  0,
                                  PTQ_CAN_WEIGHTS | PTQ_CAN_TRANSFORM | PTQ_CAN_ACTIVATIONS,
                                  0,
                                  BAD_NAME,
                                  "1.0.0",
                                  "wrong on purpose",
                                  "",
                                  NULL,
                                  create,
                                  destroy,
                                  get};
static const ptq_method* const methods[] = {&method};
const ptq_plugin ptq_plugin_v1 = {
    "PTQPLUG", sizeof(ptq_plugin), PTQ_ABI_MAJOR, PTQ_ABI_MINOR, 1, methods, BAD_NAME, "Apache-2.0",
    ""};

#endif
