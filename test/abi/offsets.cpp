// The layout of every struct of plugin.h on a 64-bit machine (LP64), field by field. A compiled
// plugin of last year was built with these numbers: they change only by new lines at the end of a
// growing struct, together with a line in the changelog of docs/abi.md.
//
// Compiling this file is the test (test/abi/test_abi.sh). It is valid C11 and C++.
#include <assert.h>

#include "ptq/plugin.h"

#define FIELD(type, field, offset, size)                                           \
  static_assert(offsetof(type, field) == (offset), #type "." #field " has moved"); \
  static_assert(sizeof(((type*)0)->field) == (size), #type "." #field " has another size")
#define STRUCT(type, size, alignment)                               \
  static_assert(sizeof(type) == (size), #type " has another size"); \
  static_assert(ALIGNOF(type) == (alignment), #type " is aligned otherwise")
#ifdef __cplusplus
#define ALIGNOF alignof
#else
#define ALIGNOF _Alignof
#endif

STRUCT(ptq_dtype, 4, 2);
FIELD(ptq_dtype, code, 0, 1);
FIELD(ptq_dtype, bits, 1, 1);
FIELD(ptq_dtype, lanes, 2, 2);

STRUCT(ptq_tensor, 128, 8);
FIELD(ptq_tensor, data, 0, 8);
FIELD(ptq_tensor, dtype, 8, 4);
FIELD(ptq_tensor, ndim, 12, 4);
FIELD(ptq_tensor, device_type, 16, 4);
FIELD(ptq_tensor, device_id, 20, 4);
FIELD(ptq_tensor, flags, 24, 8);
FIELD(ptq_tensor, shape, 32, 48);
FIELD(ptq_tensor, stride, 80, 48);

STRUCT(ptq_option, 56, 8);
FIELD(ptq_option, struct_size, 0, 4);
FIELD(ptq_option, type, 4, 4);
FIELD(ptq_option, name, 8, 8);
FIELD(ptq_option, default_value, 16, 8);
FIELD(ptq_option, help, 24, 8);
FIELD(ptq_option, min, 32, 8);
FIELD(ptq_option, max, 40, 8);
FIELD(ptq_option, allowed, 48, 8);

STRUCT(ptq_call, 88, 8);
FIELD(ptq_call, struct_size, 0, 4);
FIELD(ptq_call, device_type, 4, 4);
FIELD(ptq_call, device_id, 8, 4);
FIELD(ptq_call, reserved, 12, 4);
FIELD(ptq_call, stream, 16, 8);
FIELD(ptq_call, seed, 24, 8);
FIELD(ptq_call, ctx, 32, 8);
FIELD(ptq_call, fail, 40, 8);
FIELD(ptq_call, log, 48, 8);
FIELD(ptq_call, alloc, 56, 8);
FIELD(ptq_call, release, 64, 8);
FIELD(ptq_call, cancelled, 72, 8);
FIELD(ptq_call, service, 80, 8);

STRUCT(ptq_options_service, 32, 8);
FIELD(ptq_options_service, struct_size, 0, 4);
FIELD(ptq_options_service, reserved, 4, 4);
FIELD(ptq_options_service, get_int, 8, 8);
FIELD(ptq_options_service, get_float, 16, 8);
FIELD(ptq_options_service, get_string, 24, 8);

STRUCT(ptq_progress_service, 16, 8);
FIELD(ptq_progress_service, struct_size, 0, 4);
FIELD(ptq_progress_service, reserved, 4, 4);
FIELD(ptq_progress_service, report, 8, 8);

STRUCT(ptq_affine, 32, 8);
FIELD(ptq_affine, struct_size, 0, 4);
FIELD(ptq_affine, bits, 4, 4);
FIELD(ptq_affine, grid, 8, 4);
FIELD(ptq_affine, axis, 12, 4);
FIELD(ptq_affine, group_size, 16, 8);
FIELD(ptq_affine, order, 24, 8);

STRUCT(ptq_encode_service, 32, 8);
FIELD(ptq_encode_service, struct_size, 0, 4);
FIELD(ptq_encode_service, reserved, 4, 4);
FIELD(ptq_encode_service, affine, 8, 8);
FIELD(ptq_encode_service, affine_codes, 16, 8);
FIELD(ptq_encode_service, dense, 24, 8);

STRUCT(ptq_codebook, 32, 8);
FIELD(ptq_codebook, struct_size, 0, 4);
FIELD(ptq_codebook, bits, 4, 4);
FIELD(ptq_codebook, scaling, 8, 4);
FIELD(ptq_codebook, reserved, 12, 4);
FIELD(ptq_codebook, group_size, 16, 8);
FIELD(ptq_codebook, scale_type, 24, 4);
FIELD(ptq_codebook, tensor_scale, 28, 4);

STRUCT(ptq_codebook_service, 16, 8);
FIELD(ptq_codebook_service, struct_size, 0, 4);
FIELD(ptq_codebook_service, reserved, 4, 4);
FIELD(ptq_codebook_service, codes, 8, 8);

STRUCT(ptq_lowrank, 40, 8);
FIELD(ptq_lowrank, struct_size, 0, 4);
FIELD(ptq_lowrank, flags, 4, 4);
FIELD(ptq_lowrank, chunk, 8, 8);
FIELD(ptq_lowrank, min_rank, 16, 8);
FIELD(ptq_lowrank, max_rank, 24, 8);
FIELD(ptq_lowrank, energy, 32, 8);

STRUCT(ptq_lowrank_service, 16, 8);
FIELD(ptq_lowrank_service, struct_size, 0, 4);
FIELD(ptq_lowrank_service, reserved, 4, 4);
FIELD(ptq_lowrank_service, factor, 8, 8);

STRUCT(ptq_outliers_service, 16, 8);
FIELD(ptq_outliers_service, struct_size, 0, 4);
FIELD(ptq_outliers_service, reserved, 4, 4);
FIELD(ptq_outliers_service, overlay, 8, 8);

STRUCT(ptq_linear, 40, 8);
FIELD(ptq_linear, struct_size, 0, 4);
FIELD(ptq_linear, layer, 4, 4);
FIELD(ptq_linear, name, 8, 8);
FIELD(ptq_linear, kind, 16, 8);
FIELD(ptq_linear, weight, 24, 8);
FIELD(ptq_linear, inputs, 32, 8);

STRUCT(ptq_weights, 16, 8);
FIELD(ptq_weights, struct_size, 0, 4);
FIELD(ptq_weights, devices, 4, 4);
FIELD(ptq_weights, encode, 8, 8);

STRUCT(ptq_inputs, 72, 8);
FIELD(ptq_inputs, struct_size, 0, 4);
FIELD(ptq_inputs, reserved, 4, 4);
FIELD(ptq_inputs, id, 8, 8);
FIELD(ptq_inputs, rows, 16, 8);
FIELD(ptq_inputs, mean_square, 24, 8);
FIELD(ptq_inputs, mean_abs, 32, 8);
FIELD(ptq_inputs, largest, 40, 8);
FIELD(ptq_inputs, gram, 48, 8);
FIELD(ptq_inputs, sample, 56, 8);
FIELD(ptq_inputs, cross, 64, 8);

STRUCT(ptq_inputs_wanted, 16, 8);
FIELD(ptq_inputs_wanted, what, 0, 4);
FIELD(ptq_inputs_wanted, order, 4, 4);
FIELD(ptq_inputs_wanted, sample_rows, 8, 8);

STRUCT(ptq_weights_calibration, 24, 8);
FIELD(ptq_weights_calibration, struct_size, 0, 4);
FIELD(ptq_weights_calibration, reserved, 4, 4);
FIELD(ptq_weights_calibration, wanted, 8, 16);

STRUCT(ptq_site, 24, 8);
FIELD(ptq_site, struct_size, 0, 4);
FIELD(ptq_site, layer, 4, 4);
FIELD(ptq_site, place, 8, 4);
FIELD(ptq_site, n_linears, 12, 4);
FIELD(ptq_site, linears, 16, 8);

STRUCT(ptq_transform, 32, 8);
FIELD(ptq_transform, struct_size, 0, 4);
FIELD(ptq_transform, reserved, 4, 4);
FIELD(ptq_transform, wanted, 8, 16);
FIELD(ptq_transform, scale, 24, 8);

STRUCT(ptq_activation, 16, 4);
FIELD(ptq_activation, struct_size, 0, 4);
FIELD(ptq_activation, kind, 4, 4);
FIELD(ptq_activation, scale, 8, 4);
FIELD(ptq_activation, outlier_threshold, 12, 4);

STRUCT(ptq_activations, 32, 8);
FIELD(ptq_activations, struct_size, 0, 4);
FIELD(ptq_activations, reserved, 4, 4);
FIELD(ptq_activations, wanted, 8, 16);
FIELD(ptq_activations, choose, 24, 8);

STRUCT(ptq_math, 48, 8);
FIELD(ptq_math, struct_size, 0, 4);
FIELD(ptq_math, reserved, 4, 4);
FIELD(ptq_math, parallel, 8, 8);
FIELD(ptq_math, gemm, 16, 8);
FIELD(ptq_math, cholesky, 24, 8);
FIELD(ptq_math, invert_lower, 32, 8);
FIELD(ptq_math, eigen, 40, 8);

STRUCT(ptq_kv_shape, 32, 8);
FIELD(ptq_kv_shape, struct_size, 0, 4);
FIELD(ptq_kv_shape, reserved, 4, 4);
FIELD(ptq_kv_shape, layers, 8, 8);
FIELD(ptq_kv_shape, kv_heads, 16, 8);
FIELD(ptq_kv_shape, head_dim, 24, 8);

STRUCT(ptq_kv_policy, 40, 8);
FIELD(ptq_kv_policy, struct_size, 0, 4);
FIELD(ptq_kv_policy, key_space, 4, 4);
FIELD(ptq_kv_policy, sink, 8, 8);
FIELD(ptq_kv_policy, window, 16, 8);
FIELD(ptq_kv_policy, block, 24, 8);
FIELD(ptq_kv_policy, flags, 32, 4);
FIELD(ptq_kv_policy, reserved, 36, 4);

STRUCT(ptq_kv_block, 32, 8);
FIELD(ptq_kv_block, struct_size, 0, 4);
FIELD(ptq_kv_block, side, 4, 4);
FIELD(ptq_kv_block, layer, 8, 4);
FIELD(ptq_kv_block, reserved, 12, 4);
FIELD(ptq_kv_block, first, 16, 8);
FIELD(ptq_kv_block, tokens, 24, 8);

STRUCT(ptq_kv, 24, 8);
FIELD(ptq_kv, struct_size, 0, 4);
FIELD(ptq_kv, devices, 4, 4);
FIELD(ptq_kv, policy, 8, 8);
FIELD(ptq_kv, encode, 16, 8);

STRUCT(ptq_kv_calibration, 16, 8);
FIELD(ptq_kv_calibration, struct_size, 0, 4);
FIELD(ptq_kv_calibration, wants, 4, 4);
FIELD(ptq_kv_calibration, calibrate, 8, 8);

STRUCT(ptq_prune_linear, 64, 8);
FIELD(ptq_prune_linear, struct_size, 0, 4);
FIELD(ptq_prune_linear, axis, 4, 4);
FIELD(ptq_prune_linear, linear, 8, 8);
FIELD(ptq_prune_linear, groups, 16, 8);
FIELD(ptq_prune_linear, group_size, 24, 8);
FIELD(ptq_prune_linear, gradient, 32, 8);
FIELD(ptq_prune_linear, gradient_square, 40, 8);
FIELD(ptq_prune_linear, input_mean, 48, 8);
FIELD(ptq_prune_linear, input_mean_square, 56, 8);

STRUCT(ptq_prune_groups, 96, 8);
FIELD(ptq_prune_groups, struct_size, 0, 4);
FIELD(ptq_prune_groups, reserved, 4, 4);
FIELD(ptq_prune_groups, layers, 8, 8);
FIELD(ptq_prune_groups, groups, 16, 8);
FIELD(ptq_prune_groups, parameters, 24, 8);
FIELD(ptq_prune_groups, layer, 32, 8);
FIELD(ptq_prune_groups, block, 40, 8);
FIELD(ptq_prune_groups, cost, 48, 8);
FIELD(ptq_prune_groups, importance, 56, 8);
FIELD(ptq_prune_groups, layer_loss, 64, 8);
FIELD(ptq_prune_groups, attention_loss, 72, 8);
FIELD(ptq_prune_groups, mlp_loss, 80, 8);
FIELD(ptq_prune_groups, influence, 88, 8);

STRUCT(ptq_prune, 88, 8);
FIELD(ptq_prune, struct_size, 0, 4);
FIELD(ptq_prune, wants, 4, 4);
FIELD(ptq_prune, ratio, 8, 8);
FIELD(ptq_prune, collapse_below, 16, 8);
FIELD(ptq_prune, round_mlp_to, 24, 8);
FIELD(ptq_prune, unit, 32, 4);
FIELD(ptq_prune, batch, 36, 4);
FIELD(ptq_prune, sequences, 40, 8);
FIELD(ptq_prune, length, 48, 8);
FIELD(ptq_prune, loss_sequences, 56, 8);
FIELD(ptq_prune, shares, 64, 8);
FIELD(ptq_prune, measure, 72, 8);
FIELD(ptq_prune, score, 80, 8);

STRUCT(ptq_method, 88, 8);
FIELD(ptq_method, struct_size, 0, 4);
FIELD(ptq_method, n_options, 4, 4);
FIELD(ptq_method, capabilities, 8, 8);
FIELD(ptq_method, traits, 16, 8);
FIELD(ptq_method, name, 24, 8);
FIELD(ptq_method, version, 32, 8);
FIELD(ptq_method, summary, 40, 8);
FIELD(ptq_method, paper, 48, 8);
FIELD(ptq_method, options, 56, 8);
FIELD(ptq_method, create, 64, 8);
FIELD(ptq_method, destroy, 72, 8);
FIELD(ptq_method, get, 80, 8);

STRUCT(ptq_plugin, 56, 8);
FIELD(ptq_plugin, magic, 0, 8);
FIELD(ptq_plugin, struct_size, 8, 4);
FIELD(ptq_plugin, abi_major, 12, 4);
FIELD(ptq_plugin, abi_minor, 16, 4);
FIELD(ptq_plugin, n_methods, 20, 4);
FIELD(ptq_plugin, methods, 24, 8);
FIELD(ptq_plugin, name, 32, 8);
FIELD(ptq_plugin, license, 40, 8);
FIELD(ptq_plugin, build, 48, 8);

static_assert(PTQ_ABI_MAJOR == 1 && PTQ_ABI_MINOR == 2, "add the new fields here");
