// Tests of a method that says how the inputs of layers are rounded (ptq.activations/1).
#include <cmath>
#include <cstring>

#include "host/check/layer.hpp"

namespace ptq::check {
namespace {

Result chooses(Session& session) {
  const Chosen chosen = choose_activation(session);
  if (chosen.answer.status != PTQ_OK) fail("choose failed: {}", chosen.answer.sentence);
  const ptq_activation& how = chosen.how;
  if (how.kind < PTQ_ACTIVATION_FULL || how.kind > PTQ_ACTIVATION_FP8_STATIC)
    fail("kind is {}, not PTQ_ACTIVATION_*", how.kind);
  const bool fixed =
      how.kind == PTQ_ACTIVATION_INT8_STATIC || how.kind == PTQ_ACTIVATION_FP8_STATIC;
  if (fixed && !(how.scale > 0 && std::isfinite(how.scale)))
    fail("scale is {}, not positive and finite", how.scale);
  if (!(how.outlier_threshold >= 0) || !std::isfinite(how.outlier_threshold))
    fail("outlier_threshold is {}, not 0 or positive", how.outlier_threshold);
  return {};
}

Result same_choice_twice(Session& session) {
  const ptq_activation first = choose_activation(session).how,
                       second = choose_activation(session).how;
  if (std::memcmp(&first, &second, sizeof first) != 0)
    fail("the same layer gave another choice the second time");
  return {};
}

Result choice_not_measured(Session& session) {
  const auto* table = static_cast<const ptq_activations*>(session.get(PTQ_ACTIVATIONS_1));
  if (table->wanted.what == 0) skip("it asks for nothing");
  const Chosen chosen = choose_activation(session, /*measured=*/false);
  const int kind = chosen.how.kind;
  if (chosen.answer.status == PTQ_OK &&
      (kind == PTQ_ACTIVATION_INT8_STATIC || kind == PTQ_ACTIVATION_FP8_STATIC))
    fail("it chose a fixed scale without what the host has not measured");
  return {};
}

template <Result (*test)(Session&)>
Result each_activation(const Subject& subject) {
  return for_each_with(PTQ_ACTIVATIONS_1, "no method rounds activations", subject, test);
}

}  // namespace

std::vector<Test> activation_tests() {
  return {{"activations-choose", "What it chooses is a kind that exists, with a usable scale.",
           "create-default", each_activation<chooses>},
          {"activations-same-twice", "The same layer gives the same choice again.",
           "activations-choose", each_activation<same_choice_twice>},
          {"activations-not-measured", "Without the inputs it fixes no scale.",
           "activations-choose", each_activation<choice_not_measured>}};
}

}  // namespace ptq::check
