// The cache methods of this tree: which rows they encode, and when.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/engine/cpu/kv_cache.hpp"
#include "test/methods/coded.hpp"

namespace ptq::test {

TEST_CASE("kv methods: policies") {
  const ModelConfig c = shape(2, 2, 64);
  const auto policy = [&](const std::string& name, nlohmann::ordered_json options, KvSide side) {
    return Method(name, options, c).kv->policy(side);
  };
  const KvPolicy q8 = policy("q8_0", {}, KvSide::keys);
  CHECK((q8.sink == 0 && q8.window == 0 && q8.block == 1 && q8.current && !q8.pre_rope));
  const KvPolicy kvquant = policy("kvquant", {}, KvSide::keys);
  CHECK((kvquant.sink == 1 && kvquant.window == 0 && kvquant.block == 1 && kvquant.current &&
         kvquant.pre_rope));
  CHECK_FALSE(policy("kvquant", {}, KvSide::values).pre_rope);
  const KvPolicy forge = policy("forge", {}, KvSide::values);
  CHECK((forge.window == 32 && forge.block == 16 && !forge.current));
  const KvPolicy study = policy("forge_study", {}, KvSide::keys);
  CHECK((study.window == 0 && study.block == 16 && study.current && !study.pre_rope));
  const KvPolicy kivi = policy("kivi_study", {}, KvSide::keys);
  CHECK((kivi.window == 32 && kivi.block == 1 && kivi.current && kivi.rewrites));
  const KvPolicy evicts = policy("streaming_llm", {}, KvSide::keys);
  CHECK((evicts.sink == 4 && evicts.window == 512 && evicts.evicts && evicts.pre_rope));
  // E(t) = t + 1 - R for the study's methods, where the query's own row is the newest of the R.
  CHECK(kivi.step_by_step());
  CHECK(evicts.step_by_step());
  CHECK_FALSE(kvquant.step_by_step());
}

TEST_CASE("kv methods: the study's methods encode the whole history at every step") {
  const ModelConfig c = shape(1, 1, 8);
  Method m("kivi_study", {{"residual_length", 4}}, c);
  Rotary rotary(Rope{{1.0f, 0.5f, 0.25f, 0.125f}, 1.0f}, false);
  KvRows rows(1, 8, KvSide::keys, 0, m.kv, DType::f32, &rotary);
  const std::vector<float> x = noise(40 * 8, 3);
  std::vector<float> history;  // what the study's code would hold
  for (int64_t t = 0; t < 40; ++t) {
    rows.append(x.data() + t * 8, 1);
    rows.encode();
    rows.release();
    if (t < 4) continue;
    history.insert(history.end(), x.begin() + (t - 4) * 8, x.begin() + (t - 3) * 8);
    const size_t n = history.size() / 8;
    for (size_t d = 0; d < 8; ++d) {  // per channel over all rows, in place
      float lo = history[d], hi = lo;
      for (size_t r = 0; r < n; ++r) {
        lo = std::min(lo, history[r * 8 + d]);
        hi = std::max(hi, history[r * 8 + d]);
      }
      const float scale = hi > lo ? round_f16((hi - lo) / 3) : 0, zero = round_f16(lo);
      for (size_t r = 0; r < n; ++r) {
        float& v = history[r * 8 + d];
        const float q = scale == 0 ? 0 : std::nearbyint(std::clamp((v - zero) / scale, 0.0f, 3.0f));
        v = q * scale + zero;
      }
    }
    REQUIRE(rows.encoded().rows() == int64_t(n));
    std::vector<float> got(history.size());
    rows.encoded().read(0, 0, int64_t(n), got.data(), 8);
    for (size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == Approx(history[i]).margin(1e-6));
  }
}

}  // namespace ptq::test
