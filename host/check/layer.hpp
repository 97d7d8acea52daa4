// A made-up linear layer, with what entered it, as a method is shown it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "host/check/session.hpp"

namespace ptq::check {

class Layer {
 public:
  static constexpr int64_t kRows = 64;  // tokens that were seen

  // Lives as long as one call. wanted: what is measured of the inputs; nullptr: nothing. other: of
  // the other sample.
  Layer(Host& host, const ptq_tensor& weight, const ptq_inputs_wanted* wanted, bool other) {
    const ptq_inputs* inputs = nullptr;
    if (wanted && wanted->what != 0) {
      measure(weight.shape[1], *wanted, host.seed, other);
      inputs = host.lend(lend_measured(host, weight.shape[1]), "the ptq_inputs");
    }
    const ptq_linear linear{
        sizeof linear, 0, "model.layers.0.mlp.up_proj", "up_proj", host.lend_tensor(weight),
        inputs};
    lent_ = host.lend(linear, "the ptq_linear");
  }
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  const ptq_linear* lent() const { return lent_; }

 private:
  void measure(int64_t columns, const ptq_inputs_wanted& wanted, uint64_t seed, bool other) {
    const size_t n = size_t(columns);
    const bool all = wanted.what & PTQ_INPUTS_COLUMNS;
    std::vector<float> x = sample_values(1, kRows, columns, seed + 29, other);
    const std::vector<float> full = sample_values(1, kRows, columns, seed + 31, other);
    std::vector<float> square(n), magnitude(n), largest(n), gram(n * n), cross(n * n);
    for (int64_t t = 0; t < kRows; ++t) {
      const float *row = x.data() + t * columns, *other = full.data() + t * columns;
      for (size_t i = 0; i < n; ++i) {
        square[i] += row[i] * row[i] / float(kRows);
        magnitude[i] += std::fabs(row[i]) / float(kRows);
        largest[i] = std::max(largest[i], std::fabs(row[i]));
        for (size_t j = 0; j < n; ++j) {
          gram[i * n + j] += row[i] * row[j] / float(kRows);
          cross[i * n + j] += 0.01f * other[i] * row[j] / float(kRows);
        }
      }
    }
    const auto put = [&](bool is_wanted, int64_t rows, std::vector<float> values) {
      measured_.push_back(is_wanted ? std::make_unique<Input>(1, rows, columns, std::move(values))
                                    : nullptr);
    };
    put(all, 1, std::move(square));
    put(all, 1, std::move(magnitude));
    put(all, 1, std::move(largest));
    put(wanted.what & PTQ_INPUTS_GRAM, columns, std::move(gram));
    const int64_t sample = std::min(kRows, wanted.sample_rows);
    x.resize(size_t(std::max<int64_t>(sample, 0) * columns));
    put((wanted.what & PTQ_INPUTS_SAMPLE) && sample > 0, sample, std::move(x));
    put(wanted.what & PTQ_INPUTS_CROSS, columns, std::move(cross));
  }

  ptq_inputs lend_measured(Host& host, int64_t columns) {
    const auto view = [&](size_t at) -> const ptq_tensor* {
      if (!measured_[at]) return nullptr;
      return host.lend_tensor(at < 3 ? measured_[at]->vector() : measured_[at]->tensor(true));
    };
    return {sizeof(ptq_inputs),
            0,
            uint64_t(columns),
            kRows,
            view(0),
            view(1),
            view(2),
            view(3),
            view(4),
            view(5)};
  }

  std::vector<std::unique_ptr<Input>> measured_;
  const ptq_linear* lent_;
};

// One call of ptq.transform/1 for a place of the made-up block; `measured`: with what it wants of
// the inputs.
struct Scaled {
  Answer answer;
  std::vector<float> factor;
};
Scaled scale_site(Session& session, int place, bool measured = true);

// One call of ptq.activations/1.
struct Chosen {
  Answer answer;
  ptq_activation how;
};
Chosen choose_activation(Session& session, bool measured = true);

// Runs test(session) for every method whose instance has the capability; SKIP when none has.
template <class TestOne>
Result for_each_with(const char* capability, const char* none, const Subject& subject,
                     TestOne test) {
  const ptq_plugin& plugin = load_plugin(subject);
  Result worst{Verdict::skip, none};
  for (uint32_t i = 0; i < plugin.n_methods; ++i) {
    Session session(*plugin.methods[i], subject);
    if (session.create().status != PTQ_OK || !session.get(capability)) continue;
    Result result;
    try {
      result = test(session);
    } catch (Stop& stop) {
      result = stop.result;
    }
    if (!result.sentence.empty())
      result.sentence = fmt::format("{}: {}", plugin.methods[i]->name, result.sentence);
    if (result.verdict == Verdict::fail) return result;
    if (result.verdict == Verdict::warn || worst.verdict == Verdict::skip) worst = result;
  }
  return worst;
}

}  // namespace ptq::check
