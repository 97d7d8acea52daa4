// Tests that every option of a method does something: options that are silently not applied are the
// commonest fault of the field.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "host/check/encoder.hpp"
#include "host/check/test.hpp"
#include "ptq/core/hash.hpp"

namespace ptq::check {

std::vector<std::string> other_values(const ptq_option& option) {
  std::vector<std::string> out;
  const auto before = nlohmann::json::parse(option.default_value);
  for (const char* const* value = option.allowed; value && *value; ++value)
    if (nlohmann::json::parse(*value) != before) out.push_back(*value);
  if (!out.empty()) return out;
  if (option.type == PTQ_OPTION_BOOL) return {before.get<bool>() ? "false" : "true"};
  if (option.type == PTQ_OPTION_STRING) return {};
  const double value = before.get<double>();
  const bool bounded = option.min != 0 || option.max != 0;
  for (const double other :
       {2 * value, value / 2, value + 1, value - 1, option.max, option.min, value + 0.25}) {
    if (other == value || (bounded && (other < option.min || other > option.max))) continue;
    const bool whole = option.type == PTQ_OPTION_INT;
    if (whole && other != std::floor(other)) continue;
    out.push_back(whole ? nlohmann::json(int64_t(other)).dump() : nlohmann::json(other).dump());
  }
  return out;
}

namespace {

template <class T>
void add(Sha256& hash, const std::vector<T>& values) {
  hash.update({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
  hash.update("|");
}

// All that a method shows of itself with these options: the policy of the cache, and what two
// layers of each side are encoded to. Empty: it refuses them.
std::string shown(const ptq_method& method, const Subject& subject, const OptionValues& options,
                  bool cache) {
  Sha256 hash;
  for (const Side side : {Side::keys, Side::values, Side::weights}) {
    if ((side != Side::weights) != cache) continue;
    Session session(method, subject, options);
    if (session.create().status != PTQ_OK) return {};
    if (!session.can(side)) continue;
    const bool weights = side == Side::weights;
    const int64_t batch = weights ? 1 : kHeads, columns = weights ? kColumns : kHeadDim;
    int64_t rows = kRows;
    try {
      if (!weights) rows = 2 * session.block(side, kHeads, kHeadDim);
    } catch (const Stop& stop) {
      if (stop.result.verdict != Verdict::skip) return {};
      hash.update(session.policy());  // it evicts, and the policy is all there is
      continue;
    }
    hash.update(session.policy() + std::to_string(session.wants()));
    Input input(batch, rows, columns, bell_curve(batch, rows, columns, subject.seed));
    const Answer answer = session.encode(side, input.tensor(weights));
    if (answer.status != PTQ_OK) return {};
    const Encoding& e = answer.encoding;
    hash.update(e.form + std::to_string(e.bytes + e.outlier_bytes) + (e.dense ? "dense" : ""));
    add(hash, e.codes);
    add(hash, e.scale);
    add(hash, e.zero);
    add(hash, e.values);
    add(hash, e.order);
    add(hash, e.outlier_at);
    add(hash, e.outlier_value);
  }
  return hash.hex();
}

// The options of which no other value changes anything. What weights learn from a calibration the
// check does not give them.
std::vector<std::string> dead_options(const ptq_method& method, const Subject& subject,
                                      bool cache) {
  const std::string usual = shown(method, subject, default_options(method), cache);
  std::vector<std::string> dead;
  for (uint32_t i = 0; i < method.n_options && !usual.empty(); ++i) {
    bool accepted = false, seen = false;
    for (const std::string& value : other_values(*method.options[i])) {
      OptionValues options = default_options(method);
      options[i].second = value;
      const std::string now = shown(method, subject, options, cache);
      accepted = accepted || !now.empty();
      seen = !now.empty() && now != usual;
      if (seen) break;
    }
    if (accepted && !seen) dead.push_back(method.options[i]->name);
  }
  return dead;
}

bool is_seen_whole(const ptq_method& method, const Subject& subject, bool cache) {
  Session session(method, subject);
  if (session.create().status != PTQ_OK) return false;
  // What has both sides shows an option of one of them on that side only.
  return session.can(Side::keys) == cache && session.can(Side::weights) != cache &&
         session.get(PTQ_WEIGHTS_CALIBRATION_1) == nullptr &&
         session.get(PTQ_ACTIVATIONS_1) == nullptr && session.get(PTQ_TRANSFORM_1) == nullptr;
}

template <bool cache>
Result effects(const Subject& subject) {
  const ptq_plugin& plugin = load_plugin(subject);
  std::string found;
  bool any = false;
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    const ptq_method& method = *plugin.methods[i];
    if (!is_seen_whole(method, subject, cache)) continue;
    any = true;
    for (const std::string& option : dead_options(method, subject, cache))
      found += (found.empty() ? "" : ", ") + std::string(method.name) + "." + option;
  }
  if (!any) skip("no method whose work shows without a calibration");
  if (found.empty()) return {};
  return {Verdict::warn, "no other value changes a byte, the others at their defaults: " + found};
}

}  // namespace

std::vector<Test> option_tests() {
  return {{"kv-option-effect", "Another value of an option changes the policy or what is encoded.",
           "kv-encodes", effects<true>},
          {"weights-option-effect", "Another value of an option changes what is encoded.",
           "weights-encodes", effects<false>}};
}

}  // namespace ptq::check
