// Stage ablation: a stage of a method that changes no bit of the result is named. It may be meant
// so with these inputs, hence a warning; but a stage that is silently not there is a fault that no
// score shows.
#include <cmath>
#include <cstring>
#include <string>

#include "host/check/encoder.hpp"
#include "host/check/layer.hpp"

namespace ptq::check {
namespace {

// What the method shows of itself, calibrated with one sample or with quite another one.
std::string learnt(const ptq_method& method, const Subject& subject, Side side, bool other) {
  Session session(method, subject);
  session.other_sample = other;
  session.must_create();
  const bool weights = side == Side::weights;
  const int64_t rows = weights ? kRows : session.block(side, kHeads, kHeadDim);
  const int64_t batch = weights ? 1 : kHeads, columns = weights ? kColumns : kHeadDim;
  Input input(batch, rows, columns, bell_curve(batch, rows, columns, subject.seed));
  const std::vector<float> decoded = session.must_encode(side, input).decode();
  return session.policy() +
         std::string(reinterpret_cast<const char*>(decoded.data()), decoded.size() * sizeof(float));
}

Result calibration(const Subject& subject, const ptq_method& method, Side side) {
  Session probe(method, subject);
  probe.must_create();
  const bool learns = side == Side::weights ? probe.get(PTQ_WEIGHTS_CALIBRATION_1) != nullptr
                                            : probe.get(PTQ_KV_CALIBRATION_1) != nullptr;
  if (!learns) skip("it learns from no sample");
  if (learnt(method, subject, side, false) != learnt(method, subject, side, true)) return {};
  return {Verdict::warn, "another sample of the calibration changes no bit of what is encoded"};
}

Result scaling_learns(Session& session) {
  const auto* table = static_cast<const ptq_transform*>(session.get(PTQ_TRANSFORM_1));
  const Scaled usual = scale_site(session, PTQ_SITE_MLP_IN);
  bool any = false;
  for (const float f : usual.factor) any = any || f != 1;
  if (!any) return {Verdict::warn, "its transform scales nothing: every factor is 1"};
  if (table->wanted.what == 0) return {};
  session.other_sample = true;
  if (scale_site(session, PTQ_SITE_MLP_IN).factor != usual.factor) return {};
  return {Verdict::warn, "another sample of the calibration changes none of its factors"};
}

Result activations_learn(Session& session) {
  const auto* table = static_cast<const ptq_activations*>(session.get(PTQ_ACTIVATIONS_1));
  const ptq_activation usual = choose_activation(session).how;
  if (usual.kind == PTQ_ACTIVATION_FULL)
    return {Verdict::warn, "it leaves the activations as they are"};
  if (table->wanted.what == 0) return {};
  session.other_sample = true;
  const ptq_activation other = choose_activation(session).how;
  if (std::memcmp(&usual, &other, sizeof usual) != 0) return {};
  return {Verdict::warn, "another sample of the calibration changes nothing of its choice"};
}

Result outliers(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  Encoding encoding = encoder.encode(encoder.values(subject.seed));
  if (!encoding.has_outliers) skip("it has no outliers");
  const std::vector<float> with = encoding.decode();
  encoding.outlier_at.clear();
  encoding.outlier_value.clear();
  if (!same_bits(with, encoding.decode())) return {};
  return {Verdict::warn, "its outliers change no bit of what is decoded"};
}

Result low_rank(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  std::vector<float> x = encoder.values(subject.seed);  // rows that are alike, of low rank
  for (size_t i = size_t(encoder.columns); i < x.size(); ++i)
    x[i] = x[i % size_t(encoder.columns)] + 0.1f * x[i];
  const Encoding encoding = encoder.encode(x);
  if (!encoding.low_rank) skip("it stores no factors");
  for (float& value : x) value = as_float16(value);
  if (!same_bits(x, encoding.decode())) return {};
  return {Verdict::warn, "its factors are of full rank: what is decoded is the input in float16"};
}

Result order(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  const Encoding encoding = encoder.encode(encoder.values(subject.seed));
  if (encoding.order.empty()) skip("it keeps the columns in place");
  for (size_t j = 0; j < encoding.order.size(); ++j)
    if (encoding.order[j] != int32_t(j)) return {};
  return {Verdict::warn, "its order of columns is the usual one, which 4 bytes a column tell"};
}

template <Result (*test)(Session&)>
Result each_with(const Subject& subject, const char* capability, const char* none) {
  return for_each_with(capability, none, subject, test);
}
Result of_transform(const Subject& subject) {
  return each_with<scaling_learns>(subject, PTQ_TRANSFORM_1, "no method moves scales");
}
Result of_activations(const Subject& subject) {
  return each_with<activations_learn>(subject, PTQ_ACTIVATIONS_1, "no method rounds activations");
}

}  // namespace

std::vector<Test> stage_tests() {
  return {
      {"stage-kv-calibration", "What a cache method learns from another sample is another thing.",
       "kv-encodes", each<calibration, true>},
      {"stage-kv-outliers", "Its outliers change what is decoded.", "kv-encodes",
       each<outliers, true>},
      {"stage-kv-low-rank", "Its factors are of lower rank where rows are alike.", "kv-encodes",
       each<low_rank, true>},
      {"stage-calibration", "What a weight method learns from other inputs is another thing.",
       "weights-encodes", each<calibration, false>},
      {"stage-order", "Its order of columns is not the one that they had.", "weights-encodes",
       each<order, false>},
      {"stage-transform", "Its transform scales, and otherwise for other inputs.",
       "transform-scales", of_transform},
      {"stage-activations", "Activations are rounded, with scales that come from the inputs.",
       "activations-choose", of_activations},
  };
}

}  // namespace ptq::check
