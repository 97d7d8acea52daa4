// Tests of a method that moves scales of channels (ptq.transform/1), on a made-up block.
#include <cmath>

#include "host/check/layer.hpp"

namespace ptq::check {
namespace {

constexpr uint32_t kKnown =
    PTQ_INPUTS_COLUMNS | PTQ_INPUTS_GRAM | PTQ_INPUTS_SAMPLE | PTQ_INPUTS_CROSS;
constexpr int kPlaces[] = {PTQ_SITE_ATTENTION_IN, PTQ_SITE_HEADS_OUT, PTQ_SITE_MLP_IN,
                           PTQ_SITE_MLP_INNER};

Result scales(Session& session) {
  const auto* table = static_cast<const ptq_transform*>(session.get(PTQ_TRANSFORM_1));
  if (table->wanted.what & ~kKnown)
    fail("wanted.what is {:#x}, which has unknown bits", table->wanted.what);
  if (table->wanted.order != PTQ_ORDER_FULL && table->wanted.order != PTQ_ORDER_BLOCKS)
    fail("wanted.order is {}; before a block is encoded it can be FULL or BLOCKS",
         table->wanted.order);
  for (const int place : kPlaces) {
    const Scaled scaled = scale_site(session, place);
    if (scaled.answer.status != PTQ_OK) fail("scale failed: {}", scaled.answer.sentence);
    for (const float f : scaled.factor)
      if (!(f > 0) || !std::isfinite(f)) fail("a factor is {}, not positive and finite", f);
  }
  return {};
}

Result same_factors_twice(Session& session) {
  for (const int place : kPlaces)
    if (scale_site(session, place).factor != scale_site(session, place).factor)
      fail("the same numbers gave other factors the second time");
  return {};
}

Result factors_not_measured(Session& session) {
  const auto* table = static_cast<const ptq_transform*>(session.get(PTQ_TRANSFORM_1));
  if (table->wanted.what == 0) skip("it asks for nothing");
  const Scaled scaled = scale_site(session, PTQ_SITE_MLP_IN, /*measured=*/false);
  if (scaled.answer.status != PTQ_OK) return {};
  for (const float f : scaled.factor)
    if (f != 1) fail("it made factors of what the host has not measured");
  return {};
}

template <Result (*test)(Session&)>
Result each_transform(const Subject& subject) {
  return for_each_with(PTQ_TRANSFORM_1, "no method moves scales", subject, test);
}

}  // namespace

std::vector<Test> transform_tests() {
  return {
      {"transform-scales", "Every factor is positive and finite, and no other memory is written.",
       "create-default", each_transform<scales>},
      {"transform-same-twice", "The same inputs give the same factors again.", "transform-scales",
       each_transform<same_factors_twice>},
      {"transform-not-measured", "Without the inputs it refuses, or leaves the factors alone.",
       "transform-scales", each_transform<factors_not_measured>}};
}

}  // namespace ptq::check
