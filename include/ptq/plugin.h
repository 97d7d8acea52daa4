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
#define PTQ_ABI_MINOR 2u

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
  int64_t stride[6];              /* in elements, always set; tensors are contiguous, last axis
                                     fastest, in both directions */
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

  /* [any thread] Non-zero: the run is being stopped, or its time is over. Return PTQ_CANCELLED
     within a second or two, else the process is killed. Ask about once per second. */
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

/* ---- host service: progress ---------------------------------------------------------------- */

/* "ptq.progress/1", growing, since 1.2. A call that takes long says so: a host ends a cell that
   shows no progress for some time (limits.hang_seconds). Tell it about once per second. */
#define PTQ_PROGRESS_1 "ptq.progress/1"
typedef struct ptq_progress_service {
  uint32_t struct_size, reserved;
  /* [any thread] fraction: 0 to 1, of the call that runs. */
  void (*report)(const ptq_call* call, double fraction);
} ptq_progress_service;

/* ---- host service: encodings --------------------------------------------------------------- */

/* The host's storage of one answer. Opaque: filled through the ptq.encode services only, once. An
   answer that is refused (the status of the service) leaves it as it was: another may follow. A
   function that returns PTQ_OK after a refusal has failed. */
typedef struct ptq_encoding ptq_encoding;

/* How the range of a group becomes scale and zero point. s is the scale, z the zero point, q the
   code, n = 2^bits - 1, lo and hi the smallest and largest value of the group. Rounding is half to
   even everywhere; s (and a float z) are rounded to float16 *before* the codes are computed. Where
   the host computes them, s lies in [2^-24, 65504] and a float z in [-65504, 65504]. A group of
   zeros decodes to exact zeros: s = 1, and z = 2^(b-1) where it is an integer. With PTQ_GRID_MIN
   every constant group has s = 0. Numbers must be finite. */

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
  int32_t bits; /* 1, 2, 3, 4 or 8, of weights also 5, 6, 7 (since 1.2); the sym_narrow and sym_full
                   grids need at least 2 */
  int32_t grid; /* PTQ_GRID_* */
  int32_t axis;
  int64_t group_size;
  /* Since 1.2, weights only; NULL: none. Column j of what is given is column order[j] of the layer,
     so that groups may be made of columns that do not lie side by side (GPTQ's act-order). A
     permutation of 0 .. columns-1; axis 1 only. */
  const int32_t* order;
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

/* The three encodings below are services of their own, since 1.1: a host without one gives NULL.
   They are for the cache, but for a codebook with a scale per group, which is for weights. Numbers
   must be finite; scales, offsets, factors, means and outliers are stored as float16, levels as
   float32. */

/* Growing. The `codebook` encoding: b-bit codes into a table of 2^bits levels,
   x = level[code] * scale + offset. */
typedef struct ptq_codebook {
  uint32_t struct_size;
  int32_t bits;    /* 1, 2, 3, 4 or 8 */
  int32_t scaling; /* PTQ_SCALE_* */
  uint32_t reserved;
  /* Since 1.2, for PTQ_SCALE_PER_GROUP. */
  int64_t group_size; /* columns that share a scale; 0 = a whole row */
  int32_t
      scale_type; /* PTQ_SCALE_FLOAT16 ...: how scales are stored. The host rounds to the nearest
                     number of the type; choose codes with scales that are such numbers. */
  float tensor_scale; /* of all scales of the layer, float32, stored once: x = level[code] * scale *
                         tensor_scale; 0 = none */
} ptq_codebook;
#define PTQ_SCALE_PER_ROW 1    /* [batch, rows]: of one row of one matrix (head) */
#define PTQ_SCALE_PER_TOKEN 2  /* [rows]: of one row of all matrices */
#define PTQ_SCALE_PER_COLUMN 3 /* [batch, columns]: equal in all calls, stored and counted once */
#define PTQ_SCALE_PER_GROUP 4  /* since 1.2, weights only: [rows, groups], no offset */

#define PTQ_SCALE_FLOAT16 0
#define PTQ_SCALE_FLOAT32 1
#define PTQ_SCALE_E4M3 2 /* 8-bit float of the OCP, 448 at most (NVFP4) */
#define PTQ_SCALE_E8M0 3 /* a power of two, 2^-127 to 2^127 (MXFP4) */

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

/* Growing, since 1.2. What entered linear layers over the calibration set. Linears that read the
   same numbers (q, k and v; gate and up) share it. Tensors are float32, read-only; those that were
   not asked for are NULL. */
typedef struct ptq_inputs {
  uint32_t struct_size, reserved;
  uint64_t id;  /* equal for linears that share their inputs, else different; never 0 */
  int64_t rows; /* tokens that were seen */
  const ptq_tensor* mean_square; /* [in]: mean of x^2 over the rows */
  const ptq_tensor* mean_abs;    /* [in]: mean of |x| */
  const ptq_tensor* largest;     /* [in]: largest |x| */
  const ptq_tensor* gram;        /* [in, in]: X^T X / rows, both triangles */
  const ptq_tensor* sample;      /* [n, in]: rows at even distances */
  const ptq_tensor* cross; /* [in, in]: (X_full - X)^T X / rows, where X_full entered the layer of
                              the full-precision model (GPTAQ, arXiv 2504.02692) */
} ptq_inputs;

/* Growing. One linear layer, y = x W^T + b. */
typedef struct ptq_linear {
  uint32_t struct_size;
  int32_t layer;            /* block number from 0; -1 for lm_head */
  const char* name;         /* "model.layers.3.mlp.up_proj" */
  const char* kind;         /* q_proj k_proj v_proj o_proj gate_proj up_proj down_proj lm_head */
  const ptq_tensor* weight; /* [out, in], float32, read-only */
  /* Since 1.2: NULL unless the method has PTQ_WEIGHTS_CALIBRATION_1, and for lm_head. */
  const ptq_inputs* inputs;
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

/* Frozen, since 1.2. What a method wants to know of the inputs of a layer, and when. */
typedef struct ptq_inputs_wanted {
  uint32_t what; /* PTQ_INPUTS_* */
  /* PTQ_ORDER_*. Whatever it is, only one block of the model is worked on at a time, in order. */
  int32_t order;
  int64_t sample_rows; /* with PTQ_INPUTS_SAMPLE: at most so many */
} ptq_inputs_wanted;
#define PTQ_INPUTS_COLUMNS 1u /* mean_square, mean_abs and largest */
#define PTQ_INPUTS_GRAM 2u
#define PTQ_INPUTS_SAMPLE 4u
#define PTQ_INPUTS_CROSS 8u

#define PTQ_ORDER_FULL 0   /* inputs of the full-precision model (AWQ) */
#define PTQ_ORDER_BLOCKS 1 /* through the encoded blocks before this one (GPTQ) */
#define PTQ_ORDER_GROUPS 2 /* and through the encoded linears before these (true-sequential) */

/* "ptq.weights.calibration/1", growing, since 1.2: `encode` of PTQ_WEIGHTS_1 is given the inputs of
   each layer. A host that has no calibration set leaves them NULL; `encode` then says what is
   missing. `get` may give another table, or NULL, for another choice of options. */
#define PTQ_WEIGHTS_CALIBRATION_1 "ptq.weights.calibration/1"
typedef struct ptq_weights_calibration {
  uint32_t struct_size, reserved;
  ptq_inputs_wanted wanted;
} ptq_weights_calibration;

/* ---- capability: transform ----------------------------------------------------------------- */

/* Growing, since 1.2. A place of a block where the scale of a channel can move into what reads it
   without changing what the block computes: column j of the input is divided by factor[j], column j
   of the linears is multiplied by it. */
typedef struct ptq_site {
  uint32_t struct_size;
  int32_t layer;
  int32_t place; /* PTQ_SITE_* */
  uint32_t n_linears;
  const ptq_linear* const* linears; /* those that read it, in order; inputs as asked for */
} ptq_site;
#define PTQ_SITE_ATTENTION_IN 1 /* from the first norm: q, k and v */
#define PTQ_SITE_HEADS_OUT                                                                       \
  2                          /* from the rows of v: o. Only where every query head has its own v \
                              */
#define PTQ_SITE_MLP_IN 3    /* from the second norm: gate and up */
#define PTQ_SITE_MLP_INNER 4 /* from the rows of up: down */

/* "ptq.transform/1", growing, since 1.2. The host folds the factors into the norm or the rows in
   front, and into the columns behind, before any linear of the block is encoded; inputs that
   `encode` is given are those after it. It measures on a part of the calibration set how far the
   output of the block has moved, and the result says so. */
#define PTQ_TRANSFORM_1 "ptq.transform/1"
typedef struct ptq_transform {
  uint32_t struct_size, reserved;
  ptq_inputs_wanted wanted; /* PTQ_ORDER_FULL, PTQ_ORDER_BLOCKS */

  /* [method] factor: float32 [in], filled with ones; set what differs. Positive and finite. */
  ptq_status (*scale)(void* method, const ptq_call* call, const ptq_site* site, float* factor);
} ptq_transform;

/* ---- capability: activations --------------------------------------------------------------- */

/* Growing, since 1.2. How the inputs of a linear layer are rounded before the product. */
typedef struct ptq_activation {
  uint32_t struct_size;
  int32_t kind; /* PTQ_ACTIVATION_* */
  float scale;  /* of the static kinds: a step of the int8 codes, or what fp8 numbers are multiplied
                   by */
  /* int8: numbers of at least this size take no part in the rounding of their row and enter exactly
     (LLM.int8, arXiv 2208.07339, for one token at a time); 0 = none */
  float outlier_threshold;
} ptq_activation;
#define PTQ_ACTIVATION_FULL 0        /* not rounded */
#define PTQ_ACTIVATION_INT8_TOKEN 1  /* s = max|x| / 127 of the token, at least 1e-5 / 127 */
#define PTQ_ACTIVATION_INT8_STATIC 2 /* one s for all tokens; codes -127 .. 127 */
#define PTQ_ACTIVATION_FP8_TOKEN 3   /* E4M3, s = max|x| / 448 of the token */
#define PTQ_ACTIVATION_FP8_STATIC 4

/* "ptq.activations/1", growing, since 1.2. On the CPU int8 activations without a threshold
   meet affine weights (axis 1, no order of columns) in integer products: of 8 bits, SYM_NARROW or
   SYM_FULL, a scale per row; or of 4 or 8 bits with groups of 32, 64 or a multiple of 128 columns,
   or one per row, where columns are a multiple of 32. With every other weight encoding, for fp8 and
   on a GPU the rounded numbers are multiplied in full precision. */
#define PTQ_ACTIVATIONS_1 "ptq.activations/1"
typedef struct ptq_activations {
  uint32_t struct_size, reserved;
  ptq_inputs_wanted wanted; /* what = 0: no calibration; PTQ_ORDER_FULL, PTQ_ORDER_BLOCKS */

  /* [method] `how` is filled with PTQ_ACTIVATION_FULL. Asked once per linear, before it is encoded.
   */
  ptq_status (*choose)(void* method, const ptq_call* call, const ptq_linear* linear,
                       ptq_activation* how);
} ptq_activations;

/* ---- host service: math -------------------------------------------------------------------- */

/* "ptq.math/1", growing, since 1.2. Dense linear algebra on the CPU, float32, row-major. Every
   function runs on the thread that calls it and gives the same numbers on any number of threads;
   `parallel` spreads work. */
#define PTQ_MATH_1 "ptq.math/1"
typedef struct ptq_math {
  uint32_t struct_size, reserved;

  /* [method] Calls task(context, i) once for each i in 0 .. count-1 on several threads. Tasks may
     call the functions below, `cancelled` and ptq.progress/1, nothing else of the host, and must
     not throw. */
  void (*parallel)(const ptq_call* call, int64_t count, void (*task)(void* context, int64_t i),
                   void* context);
  /* [any thread] C [m, n] = alpha op(A) op(B) + beta C; op transposes where asked. ld*: elements
     between rows. */
  void (*gemm)(const ptq_call* call, int32_t transpose_a, int32_t transpose_b, int64_t m, int64_t n,
               int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
               float beta, float* c, int64_t ldc);
  /* [any thread] A [n, n] symmetric = L L^T: the lower triangle becomes L, the upper one zero.
     Returns 0, or k > 0: the leading minor of order k is not positive, A is lost. */
  int64_t (*cholesky)(const ptq_call* call, int64_t n, float* a);
  /* [any thread] The inverse of a lower triangular matrix, in place. Returns 0, or k > 0: the k-th
     number of the diagonal is 0. */
  int64_t (*invert_lower)(const ptq_call* call, int64_t n, float* a);
  /* [method] A [n, n] symmetric = V diag(w) V^T, w [n] ascending: the columns of V in place of A.
     Returns 0, or another number when it does not converge or there is no memory. */
  int64_t (*eigen)(const ptq_call* call, int64_t n, float* a, float* w);
} ptq_math;

/* ---- capability: KV cache ------------------------------------------------------------------ */

/* Growing. The cache of one model. kv_heads: of the widest layer, where a pruned model's layers
   differ; the tensor of a block says how many its layer has. */
typedef struct ptq_kv_shape {
  uint32_t struct_size, reserved;
  int64_t layers, kv_heads, head_dim;
} ptq_kv_shape;

/* Growing. What stays in full precision, for one side (keys or values) of every layer. When t
   tokens lie before the query, the first `sink` rows are dense, the next
       E(t) = block * floor(max(0, t - sink - window) / block)
   rows are read from their encoding, and all later rows, the query's own included, are dense.
   A row is encoded once, unless PTQ_KV_REWRITES says otherwise. KIVI, as {sink, window, block}:
   keys {0, 0, R}, values {0, R, 1}. */
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
     be filled. All blocks of one layer and side use one format (bits, grid, axis, group size). */
  ptq_status (*encode)(void* method, const ptq_call* call, const ptq_kv_block* block,
                       const ptq_tensor* x, ptq_encoding* out);
} ptq_kv;

/* ---- capability: calibration of a KV cache ------------------------------------------------- */

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

/* ---- capability: pruning ------------------------------------------------------------------- */

/* Growing, since 1.2. A linear layer of a block and what was measured of it. A group is what leaves
   together: a key/value head with the query heads that read it, or one channel of an MLP. Group i
   has `group_size` rows (of q, k, v, gate, up) or columns (of o, down), from i * group_size on.
   Tensors are float32, read-only; those that were not asked for are NULL. */
typedef struct ptq_prune_linear {
  uint32_t struct_size;
  int32_t axis; /* 0: rows, 1: columns belong to groups */
  const ptq_linear* linear;
  int64_t groups, group_size;
  const ptq_tensor* gradient;        /* [out, in]: of the mean loss of a batch, mean over batches */
  const ptq_tensor* gradient_square; /* [out, in]: mean over batches of its square */
  const ptq_tensor* input_mean;      /* [in]: of x over the tokens */
  const ptq_tensor* input_mean_square; /* [in] */
} ptq_prune_linear;

/* Growing, since 1.2. All groups of a model, in order of (layer, block, index), and what was
   measured of its layers; arrays that were not asked for are NULL. */
typedef struct ptq_prune_groups {
  uint32_t struct_size, reserved;
  int64_t layers, groups;
  int64_t parameters;           /* of the model, embeddings included */
  const int32_t* layer;         /* [groups] */
  const int32_t* block;         /* [groups]: PTQ_PRUNE_ATTENTION, PTQ_PRUNE_MLP */
  const int64_t* cost;          /* [groups]: parameters, biases not counted */
  const double* importance;     /* [groups]: what `measure` gave, summed over the block's linears */
  const double* layer_loss;     /* [layers]: growth of the mean loss, in nats, without the layer, */
  const double* attention_loss; /* without its attention, */
  const double* mlp_loss;       /* without its MLP */
  const double* influence; /* [layers]: 1 - mean cosine of the hidden state before and behind it */
} ptq_prune_groups;
#define PTQ_PRUNE_ATTENTION 0
#define PTQ_PRUNE_MLP 1

/* "ptq.prune/1", growing, since 1.2. Structured pruning: the method scores the groups, the host
   removes those of the lowest scores: all in one order, ties by their place, the longest prefix
   whose cost is at most ratio * parameters (at least one group, none for ratio 0). What is left is
   a smaller dense model, with which all else goes on. `get` may give another table, or NULL, for
   another choice of options. */
#define PTQ_PRUNE_1 "ptq.prune/1"
typedef struct ptq_prune {
  uint32_t struct_size;
  uint32_t wants;        /* PTQ_PRUNE_GRADIENT ... */
  double ratio;          /* 0 to 1, of all parameters */
  double collapse_below; /* a layer goes whole when the mean of what is left of its heads and of its
                            channels is a smaller share; 0: none does */
  int64_t round_mlp_to;  /* channels left are a multiple, or all; 1: any number */
  int32_t unit;          /* PTQ_PRUNE_GROUPS; PTQ_PRUNE_LAYERS: whole layers leave, by the mean of
                            their groups' scores */
  int32_t batch;         /* sequences whose mean loss is one gradient */
  int64_t sequences, length; /* pieces of the calibration text, tokens of each */
  int64_t loss_sequences;    /* the first so many, for the losses of layers; 0: a fifth */
  /* What the answers of `measure` depend on, of the options: methods of one plugin with equal texts
     share them. NULL: they are not shared. */
  const char* shares;

  /* [method] Once for each linear of the layers, in any order. importance: [groups], zeros: what
     the linear adds. NULL: nothing is measured. */
  ptq_status (*measure)(void* method, const ptq_call* call, const ptq_prune_linear* linear,
                        double* importance);

  /* [method] After it. score: [groups], zeros; finite, or infinity: never to be removed. */
  ptq_status (*score)(void* method, const ptq_call* call, const ptq_prune_groups* groups,
                      double* score);
} ptq_prune;
#define PTQ_PRUNE_GRADIENT 1u
#define PTQ_PRUNE_GRADIENT_SQUARE 2u
#define PTQ_PRUNE_INPUTS 4u
#define PTQ_PRUNE_LOSSES 8u
#define PTQ_PRUNE_INFLUENCE 16u

#define PTQ_PRUNE_GROUPS 0
#define PTQ_PRUNE_LAYERS 1

/* ---- methods and the plugin ---------------------------------------------------------------- */

/* Bits of ptq_method.capabilities, a summary for listings; `get` decides. */
#define PTQ_CAN_WEIGHTS 1u
#define PTQ_CAN_KV 2u
#define PTQ_CAN_TRANSFORM 4u   /* since 1.2 */
#define PTQ_CAN_ACTIVATIONS 8u /* since 1.2 */
#define PTQ_CAN_PRUNE 16u      /* since 1.2 */

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
