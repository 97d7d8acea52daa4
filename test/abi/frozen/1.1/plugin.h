/* ptq/plugin.h: the stable interface between the host and a method.

   A method chooses numbers; the host stores them, runs them and measures them. A plugin looks at a
   weight matrix, or at a block of keys or values, and answers with an *encoding*. The host owns the
   bytes of that encoding, counts them, and runs the transformer from them. A plugin never runs the
   network and never reports its own score.

   This header is all that a plugin author needs. It is C11 (and valid C++), includes nothing but
   two standard headers, and links against nothing. A plugin is a shared object that exports exactly
   one symbol, the constant `ptq_plugin_v1`. `plugins/example_c/` is a complete one in plain C;
   `ptq/plugin.hpp` is optional comfort for C++; docs/abi.md has the rules with their reasons.

   Two kinds of struct, never mixed:
     growing  begins with `uint32_t struct_size` = sizeof of the struct the writer was compiled
              with. Fields are only ever added at the end. A reader looks before it uses a field
              that was added later: PTQ_HAS(pointer, field).
     frozen   has no size, never changes, may stand in arrays.
   Reserved fields are zero. All text is UTF-8, NUL-terminated, and lives as long as its giver.

   Threads, written in brackets at each function:
     [setup]       one thread, no other call into the plugin at the same time
     [method]      calls for one method instance never overlap; different instances may run at once
     [any thread]  may be called from threads that the plugin started itself

   Same inputs, options and seed must give the same bytes, on any number of threads. Loading must do
   nothing that can be seen: no output, no threads, no files. */
#ifndef PTQ_PLUGIN_H
#define PTQ_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A host accepts a plugin whose major number equals its own; the minor number only informs. */
#define PTQ_ABI_MAJOR 1u
#define PTQ_ABI_MINOR 1u

#if defined(__GNUC__)
#define PTQ_EXPORT __attribute__((visibility("default")))
#else
#define PTQ_EXPORT
#endif

/* Does the growing struct behind `p`, as its writer knew it, have the field `f`? */
#define PTQ_HAS(p, f) ((p)->struct_size >= offsetof(__typeof__(*(p)), f) + sizeof((p)->f))

/* ---- status -------------------------------------------------------------------------------- */

/* 0 = ok. Every other status is returned only after `call->fail` was given a sentence that names
   the offending value and what to do; the host adds plugin, method, layer and tensor. A status
   without a sentence is reported as a bug of the plugin. */
typedef int32_t ptq_status;
#define PTQ_OK 0
#define PTQ_INVALID 1     /* an argument or option cannot be used */
#define PTQ_UNSUPPORTED 2 /* valid, but this method does not do it */
#define PTQ_NO_MEMORY 3   /* call->alloc returned NULL */
#define PTQ_CANCELLED 4   /* call->cancelled returned non-zero */
#define PTQ_INTERNAL 5    /* everything else */

/* ---- tensors ------------------------------------------------------------------------------- */

/* Frozen. Codes as in DLPack: 0 signed integer, 1 unsigned integer, 2 IEEE float, 4 bfloat.
   {2, 32, 1} is float, {1, 8, 1} is uint8_t. lanes is always 1. */
typedef struct ptq_dtype {
  uint8_t code, bits;
  uint16_t lanes;
} ptq_dtype;
#define PTQ_INT 0
#define PTQ_UINT 1
#define PTQ_FLOAT 2
#define PTQ_BFLOAT 4

/* Devices as in DLPack. */
#define PTQ_CPU 1
#define PTQ_CUDA 2

/* Frozen. A view of memory that somebody else owns; valid until the call returns. */
typedef struct ptq_tensor {
  void* data;
  ptq_dtype dtype;
  int32_t ndim;                   /* 1 to 6 */
  int32_t device_type, device_id; /* where `data` lives */
  uint64_t flags;                 /* PTQ_READ_ONLY */
  int64_t shape[6];               /* elements; unused entries are 1 */
  int64_t stride[6];              /* in elements, always set; this host passes and accepts only
                                     contiguous tensors, last axis fastest */
} ptq_tensor;
#define PTQ_READ_ONLY 1u

/* ---- options ------------------------------------------------------------------------------- */

/* Growing. One option of a method. The host checks what the user wrote against it, so that a method
   only ever sees valid values, and shows it in `ptq-host methods`. */
typedef struct ptq_option {
  uint32_t struct_size;
  int32_t type;               /* PTQ_OPTION_* */
  const char* name;           /* [a-z][a-z0-9_]*, the field's word: bits, group_size, percdamp */
  const char* default_value;  /* as JSON text: "2", "0.01", "true", "\"asym_gptq\"" */
  const char* help;           /* one line: what it does, unit, special values */
  double min, max;            /* inclusive range of numbers; both 0 = no range */
  const char* const* allowed; /* NULL, or the only allowed values as JSON text, NULL-terminated */
} ptq_option;
#define PTQ_OPTION_INT 1
#define PTQ_OPTION_FLOAT 2
#define PTQ_OPTION_BOOL 3
#define PTQ_OPTION_STRING 4

/* ---- what every call brings ---------------------------------------------------------------- */

/* Growing, owned by the host. Everything that a function of a plugin may ask of the host. It dies
   when the function returns and must not be kept. */
typedef struct ptq_call ptq_call;
struct ptq_call {
  uint32_t struct_size;
  int32_t device_type, device_id; /* where the tensors of this call live */
  uint32_t reserved;
  void* stream;  /* cudaStream_t on CUDA: enqueue here and return. NULL on the CPU */
  uint64_t seed; /* of this cell; the only allowed source of randomness */
  void* ctx;     /* the host's own */

  /* [any thread] Records the sentence and returns `status`: `return call->fail(call, ...);` */
  ptq_status (*fail)(const ptq_call* call, ptq_status status, const char* sentence);

  /* [any thread] level: 0 debug, 1 info, 2 warning. */
  void (*log)(const ptq_call* call, int32_t level, const char* text);

  /* [method] Counted memory on the device of the call, or NULL when there is none. Scratch is taken
     back by the host when the function returns; bookkeeping (always CPU) lives until `release` and
     is what an instance may keep. Bytes of encodings are never allocated here: the builders of
     ptq.encode/1 do that. */
  void* (*alloc)(const ptq_call* call, int32_t purpose, uint64_t bytes);
  void (*release)(const ptq_call* call, void* memory);

  /* [any thread] Non-zero: stop soon and return PTQ_CANCELLED. Ask about once per second. */
  int32_t (*cancelled)(const ptq_call* call);

  /* [any thread] A table of host functions by id, e.g. PTQ_ENCODE_1, or NULL when this host does
     not have it. The table lives as long as the process. */
  const void* (*service)(const ptq_call* call, const char* id);
};
#define PTQ_SCRATCH 1
#define PTQ_BOOKKEEPING 2

/* ---- host service: options ----------------------------------------------------------------- */

/* "ptq.options/1", growing. The validated options inside `create`, by name, defaults filled in, for
   authors who do not want to parse JSON. An undeclared name gives 0 or NULL. */
#define PTQ_OPTIONS_1 "ptq.options/1"
typedef struct ptq_options_service {
  uint32_t struct_size, reserved;
  int64_t (*get_int)(const ptq_call* call, const char* name); /* [setup], also for booleans */
  double (*get_float)(const ptq_call* call, const char* name);
  const char* (*get_string)(const ptq_call* call, const char* name); /* until create returns */
} ptq_options_service;

/* ---- host service: encodings --------------------------------------------------------------- */

/* The host's storage of one answer. Opaque: filled through ptq.encode/1 only, exactly once. */
typedef struct ptq_encoding ptq_encoding;

/* How the range of a group becomes scale and zero point. s is the scale, z the zero point, q the
   code, n = 2^bits - 1, lo and hi the smallest and largest value of the group. Rounding is half to
   even everywhere; s (and a float z) are rounded to float16 *before* the codes are computed. Where
   the host computes s it lies in [2^-24, 65504]; an all-zero group decodes to exact zeros, and with
   PTQ_GRID_MIN a constant group has s = 0. Numbers must be finite. */

/* KIVI: s = (hi-lo)/n, z = lo (float16), x = q*s + z; code 0 where s = 0. */
#define PTQ_GRID_MIN 1
/* s = max|x|/(2^(b-1)-1), codes -(2^(b-1)-1) .. 2^(b-1)-1, x = q*s. */
#define PTQ_GRID_SYM_NARROW 2
/* As sym_narrow with codes down to -2^(b-1); s is at least 1e-5/(2^(b-1)-1). */
#define PTQ_GRID_SYM_FULL 3
/* s = (hi-lo)/n, hi = max|x|, lo = -hi, or 0 where nothing is negative; x = (q-2^(b-1))*s. */
#define PTQ_GRID_SYM_GPTQ 4
/* The range is forced to contain 0; integer z = rne(-lo/s), x = (q-z)*s. */
#define PTQ_GRID_ASYM_GPTQ 5
/* s = max(hi-lo, 1e-5)/n, z = clamp(-rne(lo/s), 0, n), x = (q-z)*s. */
#define PTQ_GRID_ASYM_AWQ 6

/* Growing. The `affine` encoding of a tensor whose last two axes are [rows, columns]: b-bit codes
   with one scale, and where the grid has one a zero point, per group of `group_size` neighbours.
     axis 1: a group lies along the columns of one row (weights along `in`, values per token)
     axis 0: a group lies along the rows of one column (keys per channel)
   group_size 0 = one group per row or column. A last group may be shorter. */
typedef struct ptq_affine {
  uint32_t struct_size;
  int32_t bits; /* 1, 2, 3, 4 or 8; the sym_narrow and sym_full grids need at least 2 */
  int32_t grid; /* PTQ_GRID_* */
  int32_t axis;
  int64_t group_size;
} ptq_affine;

/* "ptq.encode/1", growing. Fills `out` and returns the status of a failed check after `fail`. */
#define PTQ_ENCODE_1 "ptq.encode/1"
typedef struct ptq_encode_service {
  uint32_t struct_size, reserved;

  /* [method] Round to nearest on the given grid: the host finds the ranges and the codes of x
     (float32, [..., rows, columns]) with its own kernels. */
  ptq_status (*affine)(const ptq_call* call, const ptq_tensor* x, const ptq_affine* how,
                       ptq_encoding* out);

  /* [method] The method's own numbers. codes: uint8, the shape of x, one code per byte in
     0 .. 2^bits-1; the host packs. scale, zero: float32 [..., rows, groups] (axis 1) or
     [..., groups, columns] (axis 0); a scale may be negative. zero is NULL for the symmetric grids,
     whose stored code is q + 2^(b-1), a float for PTQ_GRID_MIN, and an integer in 0 .. 2^bits-1 for
     the others. */
  ptq_status (*affine_codes)(const ptq_call* call, const ptq_tensor* codes, const ptq_tensor* scale,
                             const ptq_tensor* zero, const ptq_affine* how, ptq_encoding* out);

  /* [method] Uncompressed, float16 ({2,16,1}) or bfloat16 ({4,16,1}). An encoding that is dense is
     counted and reported as dense, whatever a method calls itself. */
  ptq_status (*dense)(const ptq_call* call, const ptq_tensor* x, ptq_dtype dtype,
                      ptq_encoding* out);
} ptq_encode_service;

/* The three encodings below are for the cache only. They are services of their own, since 1.1: a
   host without one gives NULL. Numbers must be finite; scales, offsets, factors, means and outliers
   are stored as float16, levels as float32. */

/* Growing. The `codebook` encoding: b-bit codes into a table of 2^bits levels,
   x = level[code] * scale + offset. */
typedef struct ptq_codebook {
  uint32_t struct_size;
  int32_t bits;    /* 1, 2, 3, 4 or 8 */
  int32_t scaling; /* PTQ_SCALE_* */
  uint32_t reserved;
} ptq_codebook;
#define PTQ_SCALE_PER_ROW 1    /* [batch, rows]: of one row of one matrix (head) */
#define PTQ_SCALE_PER_TOKEN 2  /* [rows]: of one row of all matrices */
#define PTQ_SCALE_PER_COLUMN 3 /* [batch, columns]: equal in all calls, stored and counted once */

/* "ptq.encode.codebook/1", growing. */
#define PTQ_ENCODE_CODEBOOK_1 "ptq.encode.codebook/1"
typedef struct ptq_codebook_service {
  uint32_t struct_size, reserved;

  /* [method] codes: uint8 [batch, rows, columns], one per byte, in 0 .. 2^bits-1. levels: float32
     [2^bits], equal in all calls of one layer and side, stored and counted once. scale, and offset
     or NULL: float32, any number of axes, as many elements as `scaling` says. */
  ptq_status (*codes)(const ptq_call* call, const ptq_tensor* codes, const ptq_tensor* levels,
                      const ptq_tensor* scale, const ptq_tensor* offset, const ptq_codebook* how,
                      ptq_encoding* out);
} ptq_codebook_service;

/* Growing. The `lowrank` encoding of chunks of rows: X [chunk, columns] = P Q, P [chunk, rank]
   orthonormal, by the truncated singular value decomposition. */
typedef struct ptq_lowrank {
  uint32_t struct_size;
  uint32_t flags;             /* PTQ_LOWRANK_* */
  int64_t chunk;              /* rows, 1 to 256; the policy's block is a multiple */
  int64_t min_rank, max_rank; /* the rank is clamped to these; max_rank 0 = no limit */
  double energy;              /* rank: the fewest squared singular values whose sum is at least
                                 energy times the sum of all; 1 = the numerical rank */
} ptq_lowrank;
#define PTQ_LOWRANK_CENTER 1u /* the mean row (float16) is taken off before and added after */
#define PTQ_LOWRANK_SHARED 2u /* all matrices of the batch use the largest rank among them */
#define PTQ_LOWRANK_RAW 4u    /* where float16 rows take no more bytes, they are stored instead */

/* "ptq.encode.lowrank/1", growing. */
#define PTQ_ENCODE_LOWRANK_1 "ptq.encode.lowrank/1"
typedef struct ptq_lowrank_service {
  uint32_t struct_size, reserved;

  /* [method] The host factorises x (float32 [batch, rows, columns], rows a multiple of chunk). */
  ptq_status (*factor)(const ptq_call* call, const ptq_tensor* x, const ptq_lowrank* how,
                       ptq_encoding* out);
} ptq_lowrank_service;

/* "ptq.encode.outliers/1", growing. */
#define PTQ_ENCODE_OUTLIERS_1 "ptq.encode.outliers/1"
typedef struct ptq_outliers_service {
  uint32_t struct_size, reserved;

  /* [method] Exact values on top of what this call of the method has already filled into `out`.
     index: int32 [batch, rows, k], the column of each value in its row; value: float32 of the same
     shape. With `fixed` non-zero every row has k outliers, else an index of -1 marks an unused
     place. Either all calls of a layer and side bring outliers, in one form and k, or none does
     (without `fixed`, k may differ). */
  ptq_status (*overlay)(const ptq_call* call, const ptq_tensor* index, const ptq_tensor* value,
                        int32_t fixed, ptq_encoding* out);
} ptq_outliers_service;

/* ---- capability: weights ------------------------------------------------------------------- */

/* Growing. One linear layer, y = x W^T + b. */
typedef struct ptq_linear {
  uint32_t struct_size;
  int32_t layer;            /* block number from 0; -1 for lm_head */
  const char* name;         /* "model.layers.3.mlp.up_proj" */
  const char* kind;         /* q_proj k_proj v_proj o_proj gate_proj up_proj down_proj lm_head */
  const ptq_tensor* weight; /* [out, in], float32, read-only */
} ptq_linear;

/* "ptq.weights/1", growing. */
#define PTQ_WEIGHTS_1 "ptq.weights/1"
typedef struct ptq_weights {
  uint32_t struct_size;
  uint32_t devices; /* bit (1 << PTQ_CPU), (1 << PTQ_CUDA): where this plugin can work */

  /* [method] Encode one layer. Leaving `out` unfilled keeps the layer as it is in the model's
     folder. A tied lm_head is never offered: it is the embedding. */
  ptq_status (*encode)(void* method, const ptq_call* call, const ptq_linear* linear,
                       ptq_encoding* out);
} ptq_weights;

/* ---- capability: KV cache ------------------------------------------------------------------ */

/* Growing. The cache of one model. */
typedef struct ptq_kv_shape {
  uint32_t struct_size, reserved;
  int64_t layers, kv_heads, head_dim;
} ptq_kv_shape;

/* Growing. What stays in full precision, for one side (keys or values) of every layer. When t
   tokens lie before the query, the first `sink` rows are dense, the next
       E(t) = block * floor(max(0, t - sink - window) / block)
   rows are read from their encoding, and all later rows, the query's own included, are dense.
   Rows are encoded once and never rewritten. KIVI: keys {0, 0, R}, values {0, R, 1}. */
typedef struct ptq_kv_policy {
  uint32_t struct_size;
  uint32_t key_space; /* keys only: PTQ_POST_ROPE or PTQ_PRE_ROPE */
  int64_t sink;       /* rows, >= 0 */
  int64_t window;     /* rows, >= 0 */
  int64_t block;      /* rows, >= 1 */
  uint32_t flags;     /* since 1.1: PTQ_KV_* */
  uint32_t reserved;
} ptq_kv_policy;
#define PTQ_POST_ROPE 0u /* keys are cached and encoded after rotation */
/* Since 1.1. Keys are cached before rotation, the dense ones too; attention rotates them by their
   positions when it reads them. */
#define PTQ_PRE_ROPE 1u

/* The query's own row counts among those before it: t + 1 in place of t in E. It may be read from
   its encoding by its own query. */
#define PTQ_KV_CURRENT 1u
/* Rows are multiplied by the orthonormal Hadamard matrix of size head_dim (a power of two) before
   `encode` and again after they are decoded. Dense rows stay as they are. Not for methods that want
   calibration. */
#define PTQ_KV_HADAMARD 2u
/* Rows below the boundary are dropped and never seen again; `encode` is never called. With
   PTQ_PRE_ROPE, positions count inside what is left (StreamingLLM). Keys and values alike. */
#define PTQ_KV_EVICTS 4u
/* Whenever E grows, all encoded rows are decoded, the new ones appended, and everything is encoded
   again in one call: block = all rows so far. For reproduction of studies that did so; the host
   runs token by token, and errors add up. */
#define PTQ_KV_REWRITES 8u

/* Growing. Which rows are to be encoded. `tokens` is a multiple of the policy's block; the encoding
   of a block must not depend on the other blocks of the call, nor on how rows were cut into calls:
   the host gives one block while decoding and many at once in a prompt. */
typedef struct ptq_kv_block {
  uint32_t struct_size;
  int32_t side; /* PTQ_KEYS or PTQ_VALUES */
  int32_t layer;
  uint32_t reserved;
  int64_t first;  /* absolute position of the first row */
  int64_t tokens; /* number of rows */
} ptq_kv_block;
#define PTQ_KEYS 0
#define PTQ_VALUES 1

/* "ptq.kv/1", growing. */
#define PTQ_KV_1 "ptq.kv/1"
typedef struct ptq_kv {
  uint32_t struct_size;
  uint32_t devices; /* as in ptq_weights */

  /* [setup] Once per model, before the first encode. The host has filled keys and values with
     {PTQ_POST_ROPE, sink 0, window 0, block 1}: set what differs. */
  ptq_status (*policy)(void* method, const ptq_call* call, const ptq_kv_shape* shape,
                       ptq_kv_policy* keys, ptq_kv_policy* values);

  /* [method] x: [kv_heads, tokens, head_dim], float32, finite, read-only, tokens >= 1. `out` must
     be filled. All blocks
     of one layer and side use one format (bits, grid, axis, group size). */
  ptq_status (*encode)(void* method, const ptq_call* call, const ptq_kv_block* block,
                       const ptq_tensor* x, ptq_encoding* out);
} ptq_kv;

/* ---- capability: calibration of a KV cache ----------------------------------------------------
 */

/* "ptq.kv.calibration/1", growing, since 1.1. For cache methods that learn from a sample of a
   model's keys and values, e.g. ranges of channels or tables of levels. `get` may give another
   table, or NULL, for another choice of options. */
#define PTQ_KV_CALIBRATION_1 "ptq.kv.calibration/1"
typedef struct ptq_kv_calibration {
  uint32_t struct_size;
  uint32_t wants; /* PTQ_WANT_* */

  /* [setup] Once per layer and side, after `policy` and before the first `encode`. x: [tokens,
     kv_heads, head_dim], float32, finite, read-only: what the layer would cache for full-precision
     weights and cache, bias included, keys in the key space of the policy. Sequences of
     rows->tokens tokens each lie end to end, each from position rows->first = 0 on. fisher: NULL
     when not wanted, else of the same shape, read-only: the squared gradient of the mean
     cross-entropy loss with respect to the same numbers.
     A host that has no sample never calls it; `encode` then says what is missing. */
  ptq_status (*calibrate)(void* method, const ptq_call* call, const ptq_kv_block* rows,
                          const ptq_tensor* x, const ptq_tensor* fisher);
} ptq_kv_calibration;
#define PTQ_WANT_SAMPLES 1u
#define PTQ_WANT_FISHER 2u

/* ---- methods and the plugin ---------------------------------------------------------------- */

/* Bits of ptq_method.capabilities, a summary for listings; `get` decides. */
#define PTQ_CAN_WEIGHTS 1u
#define PTQ_CAN_KV 2u

/* Bits of ptq_method.traits. */
#define PTQ_LOSSLESS 1u /* a full-precision baseline: no effect is expected of it */

/* Growing. One method. */
typedef struct ptq_method {
  uint32_t struct_size, n_options;
  uint64_t capabilities, traits;
  const char* name;    /* [a-z][a-z0-9_-]*, unique among all installed methods */
  const char* version; /* semantic version of the method */
  const char* summary; /* one line */
  const char* paper;   /* title and arXiv id, or "" */
  const ptq_option* const* options;

  /* [setup] Makes an instance. `options_json` is one JSON object with every option, validated and
     defaults filled in; PTQ_OPTIONS_1 gives the same without parsing. */
  ptq_status (*create)(const ptq_call* call, const char* options_json, void** method);

  /* [setup] Frees it. Never called for an instance that `create` failed to make. */
  void (*destroy)(void* method, const ptq_call* call);

  /* [any thread] The table of a capability id (PTQ_WEIGHTS_1, PTQ_KV_1), or NULL for every other
     id. The table lives as long as the instance. */
  const void* (*get)(void* method, const char* capability_id);
} ptq_method;

/* The first 24 bytes are frozen for ever, in every major version. */
typedef struct ptq_plugin {
  char magic[8]; /* "PTQPLUG" */
  uint32_t struct_size, abi_major, abi_minor, n_methods;
  const ptq_method* const* methods;
  const char* name;    /* of the plugin */
  const char* license; /* SPDX identifier */
  const char* build;   /* free text: compiler, date, commit; may be "" */
} ptq_plugin;

/* The one symbol. A C++ plugin writes `extern "C" PTQ_EXPORT const ptq_plugin ptq_plugin_v1`. */
extern PTQ_EXPORT const ptq_plugin ptq_plugin_v1;

#ifdef __cplusplus
}
#endif
#endif /* PTQ_PLUGIN_H */
