// A reference bundle: what is accepted can be computed with, and written again.
#include "ptq/eval/bundle_file.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {

bool bundle(Bytes input) {
  return accepts([&] {
    const eval::Bundle read = eval::parse_bundle(text_of_bytes(input), "x.bundle");
    require(read.vocab > 0 && read.window >= 2, "sizes are positive");
    for (const int32_t id : read.tokens) require(id >= 0 && id < read.vocab, "tokens have ids");
    require(read.heads.size() == eval::bundle_rows(read.tokens.size(), uint64_t(read.window)),
            "a row for every prediction");
    require(eval::parse_bundle(eval::bundle_bytes(read), "x").entries.size() == read.entries.size(),
            "what was read can be written");
    if (read.vocab > 4096) return;
    std::vector<float> logits(static_cast<size_t>(read.vocab));
    for (size_t v = 0; v < logits.size(); ++v) logits[v] = float(v * 37 % 101) / 8;
    const eval::LogitRow method = eval::scan_logits(logits.data(), read.vocab);
    read.for_each([&](size_t, const eval::BundleRow& row) {
      const eval::BundleScore score = eval::score_against(row, method, 0);
      require(score.kl.low >= 0 && score.kl.low <= score.kl.high && std::isfinite(score.kl.high),
              "bounds of the divergence");
      require(score.overlap.low >= 0 && score.overlap.low <= score.overlap.high &&
                  score.overlap.high <= 1,
              "bounds of the overlap");
    });
  });
}

}  // namespace ptq::fuzz
