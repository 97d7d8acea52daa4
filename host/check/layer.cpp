#include "host/check/layer.hpp"

namespace ptq::check {
namespace {

constexpr int64_t kLayerRows = 32, kLayerColumns = 256;

Input weight_of(const Session& session, uint64_t salt) {
  return Input(1, kLayerRows, kLayerColumns,
               bell_curve(1, kLayerRows, kLayerColumns, session.seed() + salt));
}

}  // namespace

Scaled scale_site(Session& session, int place, bool measured) {
  const auto* table = static_cast<const ptq_transform*>(session.get(PTQ_TRANSFORM_1));
  Guarded factor("its factors", kLayerColumns * sizeof(float), alignof(float));
  auto* const numbers = reinterpret_cast<float*>(factor.data());
  std::fill(numbers, numbers + kLayerColumns, 1.0f);
  Input first = weight_of(session, 41), second = weight_of(session, 43);
  Host& host = session.host();
  Scaled scaled;
  scaled.answer = session.call("scale", [&](void* self, const ptq_call* call) {
    const ptq_inputs_wanted* wanted = measured ? &table->wanted : nullptr;
    Layer a(host, first.tensor(true), wanted, session.other_sample),
        b(host, second.tensor(true), wanted, session.other_sample);
    const ptq_linear* linears[] = {a.lent(), b.lent()};
    const ptq_site site{sizeof site, 0, place, 2, linears};
    return table->scale(self, call, host.lend(site, "the ptq_site"), numbers);
  });
  if (const std::string where = factor.written(); !where.empty())
    fail("scale wrote {} its factors", where);
  scaled.factor.assign(numbers, numbers + kLayerColumns);
  return scaled;
}

Chosen choose_activation(Session& session, bool measured) {
  const auto* table = static_cast<const ptq_activations*>(session.get(PTQ_ACTIVATIONS_1));
  Input weight = weight_of(session, 47);
  Host& host = session.host();
  Chosen chosen{{}, {sizeof(ptq_activation), PTQ_ACTIVATION_FULL, 0, 0}};
  chosen.answer = session.call("choose", [&](void* self, const ptq_call* call) {
    Layer layer(host, weight.tensor(true), measured ? &table->wanted : nullptr,
                session.other_sample);
    ptq_activation* how = host.lend(chosen.how, "the ptq_activation", /*writable=*/true);
    const ptq_status status = table->choose(self, call, layer.lent(), how);
    chosen.how = host.returned(how, chosen.how, "the ptq_activation");
    return status;
  });
  return chosen;
}

}  // namespace ptq::check
