// Subject and reference side by side: no cut of the work changes a number.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "ptq/eval/lock_step.hpp"
#include "test/eval/fake_rows.hpp"
#include "test/support/fake_engine.hpp"

using namespace ptq;
using namespace ptq::eval;
using ptq::test::fake_row;
using ptq::test::FakeEngine;
using ptq::test::FakeKv;
using ptq::test::some_text;

TEST_CASE("the lock step cuts its buffer without changing a number", "[eval]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0), reference(256);
  FakeKv kv(KvPolicy{0, 4, 4});
  const Subject subject{engine, &kv, &reference, bytes};
  std::vector<int32_t> tokens;
  for (const char c : some_text(50)) tokens.push_back(c);
  const auto run = [&](int64_t rows, Regime regime, int64_t first_row) {
    engine.calls.clear();
    reference.calls.clear();
    std::vector<double> numbers;
    int64_t next = first_row;
    LockStep both(subject, rows * 256 * 4);
    both.forward(tokens, regime, first_row,
                 [&](int64_t row, const LogitRow& method, const LogitRow* ref) {
                   CHECK(row == next++);
                   numbers.push_back(method.log_sum_exp);
                   numbers.push_back(kl_divergence(*ref, method));
                 });
    CHECK(next == 50);
    return numbers;
  };
  const auto whole = run(1000, Regime::streaming, 10);
  CHECK(reference.calls.size() == 1);
  CHECK(run(7, Regime::streaming, 10) == whole);
  REQUIRE(reference.calls.size() == 6);  // 10 + 7 tokens, then 7 at a time
  CHECK(reference.calls[0].tokens == 17);
  CHECK(reference.calls[1].tokens == 7);
  CHECK(engine.calls.size() == 6);
  CHECK(run(1, Regime::streaming, 10) == whole);
  // A call that is a unit stays one.
  run(7, Regime::prefill_exact, 10);
  CHECK(engine.calls.size() == 1);
  run(7, Regime::streaming, 50);  // no rows at all

  engine.rows_per_piece = 1 << 20;
  CHECK(run(7, Regime::streaming, 10) == whole);
}

TEST_CASE("a batch decodes what single sequences decode", "[eval]") {
  const Tokenizer bytes = test::byte_tokenizer();
  FakeEngine engine(256, 1.0), reference(256);
  FakeKv kv(KvPolicy{0, 4, 4});
  const Subject subject{engine, &kv, &reference, bytes};
  std::vector<std::vector<int32_t>> texts(3);
  for (size_t r = 0; r < texts.size(); ++r) {
    for (const char c : some_text(40 + 10 * r)) texts[r].push_back(c);  // prompts of 20, 30, 40
  }
  const auto run = [&](size_t first, size_t count, int64_t rows) {
    std::vector<LockStep> runs;
    std::vector<std::span<const int32_t>> tails;
    for (size_t r = first; r < first + count; ++r) {
      const auto ids = std::span(std::as_const(texts[r]));
      runs.emplace_back(subject, rows * 256 * 4);
      runs.back().forward(ids.first(ids.size() - 20), Regime::streaming, int64_t(ids.size()) - 20,
                          {});
      tails.push_back(ids.last(20));
    }
    engine.calls.clear();
    reference.calls.clear();
    std::vector<std::vector<double>> numbers(count);
    LockStep::decode(runs, tails, [&](size_t r, const LogitRow& method, const LogitRow* ref) {
      numbers[r].push_back(method.log_sum_exp);
      numbers[r].push_back(kl_divergence(*ref, method));
    });
    return numbers;
  };
  const auto together = run(0, 3, 1000);
  CHECK(engine.calls.size() == 60);
  CHECK(engine.calls[2].tokens == 1);
  CHECK(reference.calls.size() == 3);
  REQUIRE(together[0].size() == 40);
  for (size_t r = 0; r < 3; ++r) CHECK(run(r, 1, 1000)[0] == together[r]);
  CHECK(run(0, 3, 9) == together);  // a buffer of 3 rows each: 7 pieces
  CHECK(reference.calls.size() == 21);
}
