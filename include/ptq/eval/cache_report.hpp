// What a result says about the cache it was measured through: regime, exposure, bytes.
#pragma once

#include <string>

#include "ptq/engine/engine.hpp"
#include "ptq/eval/statistics.hpp"
#include "ptq/results/record.hpp"

namespace ptq::eval {

// The words of experiment files.
inline std::string regime_name(Regime regime) {
  switch (regime) {
    case Regime::streaming: return "streaming";
    case Regime::prefill_exact: return "prefill-exact";
    case Regime::prefill_encoded: return "prefill-encoded";
    case Regime::independent: return "independent";
  }
  return "?";
}

// Adds what a sequence has read since `before` to the reads of an evaluation.
inline void add_reads(CacheReads& sum, const CacheReads& now, const CacheReads& before = {}) {
  for (int side = 0; side < 2; ++side) {
    sum.encoded[side] += now.encoded[side] - before.encoded[side];
    sum.total[side] += now.total[side] - before.total[side];
    sum.share_sum[side] += now.share_sum[side] - before.share_sum[side];
  }
  sum.queries += now.queries - before.queries;
}

// Mean share of the attended positions that came from encoded storage.
inline void write_exposure(Json& metrics, const CacheReads& reads) {
  const auto side = [&](KvSide s) {
    return reads.queries > 0 ? reads.share_sum[int(s)] / reads.queries : 0.0;
  };
  metrics["exposure"] = reads.exposure();
  metrics["exposure_keys"] = side(KvSide::keys);
  metrics["exposure_values"] = side(KvSide::values);
}

inline Json cache_json(const CacheBytes& bytes) {
  const double scalars = double(bytes.scalars), tokens = double(bytes.tokens);
  const double bits = bytes.scalars > 0 ? bytes.effective_bits() : kUnknown;
  const char* why = "the cache is empty";
  Json json;
  json["tokens"] = bytes.tokens;
  json["bytes_encoded"] = bytes.encoded;
  json["bytes_window"] = bytes.window;
  json["bytes_sink"] = bytes.sink;
  json["bytes_total"] = bytes.total();
  json["bytes_reserved"] = bytes.reserved;
  put_number(json, "bytes_per_token", bytes.tokens > 0 ? bytes.bytes_per_token() : kUnknown, why);
  put_number(json, "bytes_per_token_fp16", bytes.tokens > 0 ? 2 * scalars / tokens : kUnknown, why);
  put_number(json, "effective_bits", bits, why);
  put_number(json, "compression_ratio", 16 / bits, why);
  json["encoded_is_dense"] = bytes.encoded_is_dense;
  return json;
}

}  // namespace ptq::eval
