// The engine against numbers that others computed: a trained public model, and another library's
// logits of the embedded models.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ptq/engine/engine.hpp"
#include "ptq/model/safetensors.hpp"
#include "ptq/model/tokenizer.hpp"
#include "test/support/plain_scores.hpp"

using namespace ptq;
using ptq::test::nll;
namespace fs = std::filesystem;

namespace {

std::vector<float> logits_of(Engine& engine, const std::vector<int32_t>& ids) {
  const size_t vocab = size_t(engine.config().vocab_size);
  std::vector<float> out(ids.size() * vocab);
  auto s = engine.start(nullptr);
  engine.forward(*s, ids, Regime::independent, 0, [&](int64_t row, int64_t rows, const float* p) {
    std::copy_n(p, size_t(rows) * vocab, out.begin() + row * int64_t(vocab));
  });
  return out;
}

int32_t argmax(const float* p, size_t n) { return int32_t(std::max_element(p, p + n) - p); }

// Greedy continuation through the cache, one token at a time.
std::vector<int32_t> greedy_to(Engine& engine, std::vector<int32_t> ids, size_t total) {
  auto s = engine.start(nullptr);
  int32_t next = 0;
  const auto pick = [&](int64_t, int64_t rows, const float* p) {
    const size_t vocab = size_t(engine.config().vocab_size);
    next = argmax(p + size_t(rows - 1) * vocab, vocab);
  };
  engine.forward(*s, ids, Regime::prefill_exact, int64_t(ids.size()) - 1, pick);
  while (ids.size() < total) {
    ids.push_back(next);
    const int32_t last = next;
    engine.forward(*s, {&last, 1}, Regime::streaming, 0, pick);
  }
  return ids;
}

}  // namespace

TEST_CASE("reference: the trained 260K model reproduces its published figures") {
  const fs::path folder = fs::path(PTQ_SHARED_DIR) / "data/weights/stories260K";
  if (!fs::exists(folder)) {
    WARN("skipped: " + folder.string() + " is not there");
    return;
  }
  const auto reference = nlohmann::json::parse(std::ifstream(folder / "reference.json"));
  auto engine = make_cpu_engine((folder / "hf").string(), 2);
  const size_t vocab = size_t(engine->config().vocab_size);

  double sum = 0;
  int64_t count = 0;
  bool first = true;
  for (const auto& sequence : reference["sequences"]) {
    const auto ids = sequence["ids"].get<std::vector<int32_t>>();
    const auto logits = logits_of(*engine, ids);
    double part = 0;
    for (size_t t = 0; t + 1 < ids.size(); ++t)
      part += nll(logits.data() + t * vocab, vocab, ids[t + 1]);
    CHECK(part == Approx(sequence["sum_nll"].get<double>()).epsilon(1e-5));
    sum += part;
    count += int64_t(ids.size()) - 1;
    if (first) {
      const auto& top5 = reference["first_sequence_top5_logits_positions_0_to_15"];
      for (size_t t = 0; t < top5.size(); ++t)
        for (const auto& entry : top5[t])
          CHECK(std::abs(double(logits[t * vocab + entry["id"].get<size_t>()]) -
                         entry["logit"].get<double>()) < 1e-3);
    }
    first = false;
  }
  CHECK(sum / double(count) == Approx(reference["mean_nll"].get<double>()).epsilon(1e-5));
  CHECK(sum / double(count) == Approx(1.264).margin(5e-4));

  const auto want = reference["greedy_from_bos"]["ids"].get<std::vector<int32_t>>();
  CHECK(greedy_to(*engine, {want[0]}, want.size()) == want);
  const Tokenizer tokenizer = Tokenizer::load(folder / "hf");
  const std::string text = tokenizer.decode(want, true);
  CHECK(text == reference["greedy_from_bos"]["text"].get<std::string>());
}

TEST_CASE("reference: logits of the embedded models equal those of another library") {
  for (const std::string name : {"tiny-qwen2", "tiny-mistral", "tiny-llama"}) {
    INFO(name);
    const fs::path root(PTQ_SOURCE_DIR);
    const SafetensorsFile fixture(root / "test/fixtures/models" / (name + ".safetensors"));
    const auto read = [&](const char* tensor_name) {
      const TensorInfo* t = fixture.find(tensor_name);
      REQUIRE(t != nullptr);
      std::vector<int32_t> out(size_t(t->shape[0]));
      for (size_t i = 0; i < out.size(); ++i) {
        if (t->dtype == DType::i64) {
          int64_t v;
          std::memcpy(&v, t->data + 8 * i, 8);
          out[i] = int32_t(v);
        } else {
          std::memcpy(&out[i], t->data + 4 * i, 4);
        }
      }
      return out;
    };
    const auto ids = read("ids");
    auto engine = make_cpu_engine((root / "models" / name).string(), 2);
    const size_t vocab = size_t(engine->config().vocab_size);
    const auto logits = logits_of(*engine, ids);

    const TensorInfo* want = fixture.find("logits");
    REQUIRE(want != nullptr);
    std::vector<int32_t> positions;
    if (fixture.find("positions")) {
      positions = read("positions");
    } else {
      for (size_t i = 0; i < ids.size(); ++i) positions.push_back(int32_t(i));
    }
    REQUIRE(want->shape == std::vector<int64_t>{int64_t(positions.size()), int64_t(vocab)});
    double worst = 0;
    for (size_t i = 0; i < positions.size(); ++i)
      for (size_t v = 0; v < vocab; ++v) {
        float w;
        std::memcpy(&w, want->data + 4 * (i * vocab + v), 4);
        worst =
            std::max(worst, std::abs(double(w) - double(logits[size_t(positions[i]) * vocab + v])));
      }
    CHECK(!(worst > 1e-3));

    const auto continuation = read("greedy");
    std::vector<int32_t> prompt(ids.begin(), ids.begin() + 64);
    auto got = greedy_to(*engine, prompt, 64 + continuation.size());
    got.erase(got.begin(), got.begin() + 64);
    CHECK(got == continuation);
  }
}
