// A table of pruning runs, as the study wrote them.
#include "analysis/pruning/pruning.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {

bool csv(Bytes input) {
  return accepts([&] {
    const auto models =
        report::parse_pruning_csv(std::string(text_of_bytes(input)), "raw_Qwen.csv");
    require(!models.empty(), "there is a model");
    for (const report::PruningModel& model : models) {
      require(!model.runs.empty(), "a model has runs");
      const report::PruningRun* best = model.best();
      for (const report::PruningRun& run : model.runs) {
        for (const std::string& text : {run.model, run.method, run.output_dir, run.success})
          require(is_utf8(text) && text.find('\n') == text.npos, "texts are lines of UTF-8");
        for (const auto& number : {run.seq_len, run.num_samples, run.acc_mean, run.ppl})
          require(!number || !std::isnan(*number), "a number is a number");
        require(!run.acc_mean || *run.acc_mean <= *best->acc_mean, "the best run is the best");
      }
    }
  });
}

}  // namespace ptq::fuzz
