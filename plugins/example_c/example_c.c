/* example_int8: a complete KV-cache method in plain C11, to copy and change.

   Every row of every kv head (one token's key or value) becomes 8-bit codes with one scale: grid
   "sym_narrow", x = q * scale with q in -127 .. 127. The host could do this alone through
   ptq_encode_service.affine; this file chooses its own codes to show how a method hands over
   numbers that no ready-made grid would give.

     cc -std=c11 -O2 -shared -fPIC -fvisibility=hidden -I include example_c.c -o example_c.so */
#include <string.h>

#include "ptq/plugin.h"

#define BITS 8
#define Q_MAX 127.0f
#define MIN_SCALE (1.0f / (1 << 24)) /* the smallest float16 above zero */
#define MAX_SCALE 65504.0f           /* the largest */

/* What an instance remembers between calls. */
typedef struct {
  int64_t window;
} example;

/* The host stores scales as float16. Coding with a value that float16 has exactly means that the
   decoder multiplies by the very scale that the codes were made for. s >= 0, half to even. */
static float round_to_float16(float s) {
  if (s < 1.0f / (1 << 14)) return (s + 0.5f) - 0.5f; /* subnormal: steps of 2^-24, as at 0.5 */
  uint32_t u;
  memcpy(&u, &s, sizeof u);
  u += 0x0fffu + ((u >> 13) & 1u); /* keep 10 of the 23 bits behind the point */
  u &= ~0x1fffu;
  memcpy(&s, &u, sizeof s);
  return s;
}

/* Half to even, without libm: at 1.5 * 2^23 a float has no bits behind the point. |v| < 2^22. */
static int32_t round_to_even(float v) { return (int32_t)((v + 12582912.0f) - 12582912.0f); }

static ptq_status policy(void* method, const ptq_call* call, const ptq_kv_shape* shape,
                         ptq_kv_policy* keys, ptq_kv_policy* values) {
  (void)call, (void)shape;
  keys->key_space = PTQ_POST_ROPE;
  keys->sink = values->sink = 0;
  keys->window = values->window = ((const example*)method)->window;
  keys->block = values->block = 1; /* a row is encoded alone, as soon as it leaves the window */
  return PTQ_OK;
}

static ptq_status encode(void* method, const ptq_call* call, const ptq_kv_block* block,
                         const ptq_tensor* x, ptq_encoding* out) {
  (void)method, (void)block;
  if (x->ndim != 3 || x->dtype.code != PTQ_FLOAT || x->dtype.bits != 32)
    return call->fail(call, PTQ_INVALID, "x is not float32 [kv_heads, tokens, head_dim]");
  const ptq_encode_service* service = call->service(call, PTQ_ENCODE_1);
  if (!service) return call->fail(call, PTQ_UNSUPPORTED, "this host has no ptq.encode/1");

  const int64_t heads = x->shape[0], tokens = x->shape[1], dim = x->shape[2];
  uint8_t* codes = call->alloc(call, PTQ_SCRATCH, (uint64_t)(heads * tokens * dim));
  float* scales = call->alloc(call, PTQ_SCRATCH, (uint64_t)(heads * tokens) * sizeof(float));
  if (!codes || !scales) return call->fail(call, PTQ_NO_MEMORY, "no memory for codes and scales");

  for (int64_t row = 0; row < heads * tokens; ++row) {
    const float* v =
        (const float*)x->data + row / tokens * x->stride[0] + row % tokens * x->stride[1];
    const int64_t step = x->stride[2];
    float largest = 0;
    for (int64_t i = 0; i < dim; ++i) {
      const float a = v[i * step] < 0 ? -v[i * step] : v[i * step];
      if (!(a <= Q_MAX * MAX_SCALE)) /* NaN as well */
        return call->fail(call, PTQ_INVALID,
                          "a value is not finite or above 8.3e6: float16 has no scale for it");
      if (a > largest) largest = a;
    }
    float scale = round_to_float16(largest / Q_MAX);
    if (scale < MIN_SCALE) scale = MIN_SCALE; /* never divides by zero; zeros stay zeros */
    scales[row] = scale;
    for (int64_t i = 0; i < dim; ++i) {
      float q = v[i * step] / scale; /* a scale that was rounded down overshoots a little */
      q = q > Q_MAX ? Q_MAX : q < -Q_MAX ? -Q_MAX : q;
      codes[row * dim + i] = (uint8_t)(round_to_even(q) + (1 << (BITS - 1)));
    }
  }

  const ptq_tensor code_view = {.data = codes,
                                .dtype = {PTQ_UINT, 8, 1},
                                .ndim = 3,
                                .device_type = call->device_type,
                                .device_id = call->device_id,
                                .shape = {heads, tokens, dim, 1, 1, 1},
                                .stride = {tokens * dim, dim, 1, 1, 1, 1}};
  ptq_tensor scale_view = code_view;
  scale_view.data = scales;
  scale_view.dtype = (ptq_dtype){PTQ_FLOAT, 32, 1};
  scale_view.shape[2] = 1; /* one group per row */
  scale_view.stride[0] = tokens;
  scale_view.stride[1] = 1;
  const ptq_affine how = {
      .struct_size = sizeof how, .bits = BITS, .grid = PTQ_GRID_SYM_NARROW, .axis = 1};
  return service->affine_codes(call, &code_view, &scale_view, NULL, &how, out);
}

static const ptq_kv kv = {sizeof kv, 1u << PTQ_CPU, policy, encode};

static ptq_status create(const ptq_call* call, const char* options_json, void** method) {
  (void)options_json; /* the service below gives the same, already parsed */
  const ptq_options_service* options = call->service(call, PTQ_OPTIONS_1);
  if (!options) return call->fail(call, PTQ_UNSUPPORTED, "this host has no ptq.options/1");
  example* e = call->alloc(call, PTQ_BOOKKEEPING, sizeof *e);
  if (!e) return call->fail(call, PTQ_NO_MEMORY, "no memory for the instance");
  e->window = options->get_int(call, "window");
  *method = e;
  return PTQ_OK;
}

static void destroy(void* method, const ptq_call* call) { call->release(call, method); }

static const void* get(void* method, const char* capability_id) {
  (void)method;
  return strcmp(capability_id, PTQ_KV_1) == 0 ? &kv : NULL;
}

static const ptq_option window = {.struct_size = sizeof window,
                                  .type = PTQ_OPTION_INT,
                                  .name = "window",
                                  .default_value = "32",
                                  .help = "newest tokens that stay in full precision",
                                  .min = 0,
                                  .max = 1048576};
static const ptq_option* const options[] = {&window};

static const ptq_method method = {.struct_size = sizeof method,
                                  .n_options = 1,
                                  .capabilities = PTQ_CAN_KV,
                                  .name = "example_int8",
                                  .version = "1.0.0",
                                  .summary = "8-bit cache, one symmetric scale per token and head",
                                  .paper = "",
                                  .options = options,
                                  .create = create,
                                  .destroy = destroy,
                                  .get = get};
static const ptq_method* const methods[] = {&method};

const ptq_plugin ptq_plugin_v1 = {.magic = "PTQPLUG",
                                  .struct_size = sizeof ptq_plugin_v1,
                                  .abi_major = PTQ_ABI_MAJOR,
                                  .abi_minor = PTQ_ABI_MINOR,
                                  .n_methods = 1,
                                  .methods = methods,
                                  .name = "example_c",
                                  .license = "Apache-2.0",
                                  .build = ""};
