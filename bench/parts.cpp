#include "bench/parts.hpp"

#include <cstdint>
#include <random>
#include <vector>

#include "bench/sheet.hpp"
#include "host/machine.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/eval/log_softmax.hpp"
#include "ptq/run/engine_loader.hpp"

namespace ptq::bench {
namespace {

void open_model(Sheet& sheet, const PartsSettings& s, int64_t& vocab) {
  const EngineOptions options = engine_options(s.model, s.threads);
  uint64_t bytes = 0;
  const Timing t = measure([&] {
    const auto engine = make_engine(s.device, code_build(), s.model.folder, options);
    bytes = engine->weight_bytes().total();
    vocab = engine->config().vocab_size;
  });
  sheet.row("open the model", 1e3 * t.median, "ms",
            Ratio{double(bytes) / 1e9 / t.median, "GB of weights per second", false, {}}, t);
}

// Every repetition has a tokenizer of its own: one remembers the words that it has seen.
void tokenise(Sheet& sheet, const PartsSettings& s) {
  const std::string text = read_text_file(s.text, 64 << 20);
  std::vector<double> times;
  size_t tokens = 0;
  const double start = now(), cpu = own_cpu();
  for (int i = 0; i < 5; ++i) {
    const Tokenizer tokenizer = load_tokenizer(s.model);
    const double t = now();
    tokens = tokenizer.encode(text).size();
    times.push_back(now() - t);
  }
  const Timing t = timing(times, start, cpu);
  sheet.row("tokenise, one thread", double(text.size()) / 1e6 / t.median, "MB/s",
            Ratio{double(tokens) / 1e6 / t.median, "million tokens per second", false, {}}, t);
}

// Rows of more logits than the caches hold, one after the other.
void score(Sheet& sheet, const Limits& limits, int64_t vocab) {
  constexpr int64_t kBytes = 256 << 20;
  const int64_t rows = kBytes / 4 / vocab + 1;
  std::vector<float> logits(size_t(rows * vocab));
  std::mt19937 random(3);
  for (float& v : logits) v = float(random()) * 0x1p-28f;
  double sum = 0;
  int64_t row = 0;
  const Timing t = measure([&] {
    for (int i = 0; i < 8; ++i, ++row)
      sum += eval::scan_logits(logits.data() + row % rows * vocab, vocab).log_sum_exp;
  });
  const double bytes = 8.0 * 4 * double(vocab) / t.median;
  sheet.row("score a row of logits, one thread", 1e6 * t.median / 8, "us",
            Ratio{bytes / limits.bytes, "of the memory's rate", true, {}}, t);
  sheet.fact("sum_of_scores", sum);
}

}  // namespace

void measure_parts(Sheet& sheet, const Limits& limits, const PartsSettings& settings) {
  int64_t vocab = 0;
  open_model(sheet, settings, vocab);
  if (!settings.model.random_seed) tokenise(sheet, settings);
  score(sheet, limits, vocab);
}

}  // namespace ptq::bench
