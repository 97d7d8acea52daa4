// The reference's logits are computed once and read again, to the last bit.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ptq/engine/kept_logits.hpp"
#include "ptq/eval/lock_step.hpp"
#include "test/support/fake_engine.hpp"
#include "test/support/temporary_file.hpp"

using namespace ptq;
using ptq::eval::LockStep;
using ptq::eval::LogitRow;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;

namespace {

const std::vector<int32_t> kTokens{5, 9, 2, 2, 40, 7, 11, 3, 60, 1};

// What a method sees of a reference: a scored prompt and greedy tokens, and the same prompt going
// on another way.
std::vector<double> seen(FakeEngine& engine, Engine& reference, int32_t other = 8) {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeKv kv(KvPolicy{0, 4, 4});
  std::vector<double> numbers;
  for (int32_t id : {12, other}) {
    LockStep run(eval::Subject{engine, &kv, &reference, bytes});
    run.forward(kTokens, Regime::streaming, 4,
                [&](int64_t, const LogitRow& method, const LogitRow* row) {
                  numbers.push_back(kl_divergence(*row, method));
                });
    for (int i = 0; i < 3; ++i) numbers.push_back(id = run.next_greedy_reference(id));
  }
  return numbers;
}

}  // namespace

TEST_CASE("logits that were kept are those of the engine, which is not asked again", "[engine]") {
  const test::TemporaryFolder folder;
  const std::string file = (folder.path() / "kept").string();
  FakeEngine method(64, 1.0), real(64);
  const auto give = [&]() -> Engine& { return real; };
  const std::vector<double> expected = seen(method, real);
  {
    KeptLogits kept(1 << 20);
    KeptEngine collecting(real.config(), kept, KeptEngine::Use::collect, give);
    CHECK(seen(method, collecting) == expected);
    kept.write(file);
  }
  KeptLogits kept(file);
  KeptEngine reading(real.config(), kept, KeptEngine::Use::read, give);
  real.calls.clear();
  CHECK(seen(method, reading) == expected);
  CHECK(real.calls.empty());

  // What goes another way is computed, after all that came before it.
  const std::vector<double> other = seen(method, real, 33);
  real.calls.clear();
  CHECK(seen(method, reading, 33) == other);
  CHECK(real.calls.size() == 4);  // the prompt and three tokens
}

TEST_CASE("kept logits end at their limit, and a damaged file is refused", "[engine]") {
  FakeEngine method(64, 1.0), real(64);
  KeptLogits small(64 * 4 * 6 - 1);  // the prompt's six rows are one byte more
  KeptEngine collecting(real.config(), small, KeptEngine::Use::collect,
                        [&]() -> Engine& { return real; });
  CHECK_THROWS_AS(seen(method, collecting), Error);

  const test::TemporaryFolder folder;
  const std::string file = (folder.path() / "kept").string();
  KeptLogits kept(1 << 20);
  CHECK(kept.keep(std::string(64, 'a'), {1, 2, 3}));
  kept.write(file);
  CHECK(KeptLogits(file).find(std::string(64, 'a'))->size() == 3);
  CHECK_FALSE(KeptLogits(file).find(std::string(64, 'b')));
  for (const auto size : {83, 72, 71, 10}) {
    std::filesystem::resize_file(file, uintmax_t(size));
    CHECK_THROWS_AS(KeptLogits(file), Error);
  }
}
