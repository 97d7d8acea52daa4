// What a device has to offer to run the forward pass of engine/pass/transformer.hpp: the operations
// and the storage. engine/cpu/device.hpp is the plain one, engine/cuda/device.hpp the other.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ptq/core/dtype.hpp"
#include "ptq/engine/method.hpp"
#include "ptq/engine/noise.hpp"
#include "ptq/engine/tap.hpp"
#include "ptq/engine/weights/linear.hpp"
#include "ptq/model/anatomy.hpp"
#include "ptq/model/rope.hpp"
#include "ptq/model/safetensors.hpp"

namespace ptq {

// The cache of one layer and the rows of a pass that go into it.
template <class Layer>
struct Target {
  Layer* cache;
  int64_t row, rows;  // of the pass
  int64_t position;   // absolute, of the first row
};

// Attention of one layer.
struct HeadShape {
  int64_t heads, kv_heads, head_dim;
  int64_t window;  // keys visible to a query, itself included; 0 = all
};

// The rows of one sequence in a pass, and what their queries see.
template <class Side>
struct Segment {
  int64_t row, rows;  // of the pass
  int64_t position;   // absolute, of the first row
  Side keys, values;
};

// Activations are row-major [rows, width] of Scalar; n counts rows.
template <class D>
concept Device = requires(D d, typename D::Scalar* y, const typename D::Scalar* x, int64_t n,
                          const std::string& text, const TensorInfo& tensor, LinearWeight weight,
                          typename D::Linear& linear, typename D::Array& array,
                          const typename D::Batch& batch, typename D::Layer& layer,
                          const std::vector<Target<typename D::Layer>>& targets,
                          const std::vector<Segment<typename D::Side>>& segments,
                          const std::vector<int32_t>& ids, std::span<const int32_t> picked,
                          const std::vector<int64_t>& boundaries, const HeadShape& shape,
                          const Anatomy& anatomy, const Rope& rope, KvMethod* method, DType dtype,
                          const typename D::Table& table, const Wanted& wanted, Seen& seen,
                          const LayerNoise& noise, const float* floats) {
  { d.name() } -> std::convertible_to<std::string>;
  { D::kCopiesCaches } -> std::convertible_to<bool>;  // is a Cache a value?

  // Storage. `host`: where a weight method works; `changed`: it has
  // answered.
  { d.array(n) } -> std::same_as<typename D::Array>;
  { d.table(tensor) } -> std::same_as<typename D::Table>;
  { d.weight(weight) } -> std::same_as<typename D::Linear>;
  { d.vector(tensor) } -> std::same_as<typename D::Vector>;
  { d.host(linear) } -> std::same_as<LinearWeight&>;
  d.changed(linear);
  { d.cache_dtype() } -> std::same_as<DType>;  // of dense rows
  { d.cache(anatomy, method, dtype) } -> std::same_as<typename D::Cache>;
  d.use_rope(rope);  // once, before the first pass

  // A pass: rows for which there is memory, its beginning (steady: it does what others of as many
  // rows do) and its end without logits, numbers for the host, valid until the next operation.
  { d.pass_rows(n, n) } -> std::same_as<int64_t>;
  { d.begin(ids, ids, true) } -> std::same_as<typename D::Batch>;
  d.finish();
  { d.download(x, n) } -> std::same_as<const float*>;
  d.upload(floats, n, y);  // numbers of the host
  d.poison(array);
  d.look(x, n, n, wanted, seen);  // fills in what is wanted of x [n, n], valid as download()

  // Operations.
  d.embed(table, batch, y);
  d.pick(x, picked, n, y);
  d.rms_norm(x, x, float{}, n, n, y);  // in place, too
  d.linear(linear, x, x, n, y);        // a device with D::Product has linears(), several of one x
  d.rope(y, batch, n, n);
  d.swiglu(y, x, n, n);
  d.add(y, x, n, n);
  d.disturb(y, n, n, noise, int{}, n);  // y [n, n], of a layer, from a position on
  d.append_unrotated(targets, x, n);
  d.append(targets, x, x, n);
  { d.side(layer.keys, boundaries) } -> std::same_as<typename D::Side>;
  { d.side(x, n, shape) } -> std::same_as<typename D::Side>;
  d.attention(shape, x, segments, y);
};

}  // namespace ptq
