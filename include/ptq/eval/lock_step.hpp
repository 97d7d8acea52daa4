// Runs the subject and the full-precision reference over the same tokens and hands out their logits
// in pairs, without ever storing the logits of a long text.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/eval/evaluation.hpp"
#include "ptq/eval/log_softmax.hpp"

namespace ptq::eval {

// row: index in the tokens of the forward call. reference is nullptr when there is none. Both are
// valid during the call only.
using PairFn = std::function<void(int64_t row, const LogitRow& method, const LogitRow* reference)>;

class LockStep {
 public:
  // buffer_bytes: most memory for logits of the reference, exceeded only by the rows of one call
  // that cannot be cut.
  explicit LockStep(const Subject& subject, int64_t buffer_bytes = int64_t{256} << 20)
      : subject_(subject),
        buffer_bytes_(buffer_bytes),
        sequence_(subject.engine.start(subject.kv)),
        reference_(subject.reference ? subject.reference->start(nullptr) : nullptr) {}

  // Appends the tokens to both sequences; pairs of the rows from first_row on (tokens.size() =
  // none). The reference always streams: its cache is dense, so any regime gives it the same rows.
  // The subject gets `step` tokens per call of its engine (0 = as many as possible).
  void forward(std::span<const int32_t> tokens, Regime regime, int64_t first_row,
               const PairFn& on_pair, int64_t step = 0) {
    const int64_t count = int64_t(tokens.size());
    // Streaming gives the same rows for any cut, so the reference's logits are kept for one piece
    // at a time. The other regimes treat a call as a unit and need the rows of all of it.
    int64_t most_rows = std::max<int64_t>(count, 1);
    if (reference_ && (regime == Regime::streaming || step > 0)) {
      most_rows = std::clamp<int64_t>(buffer_bytes_ / (4 * vocab()), 1, most_rows);
    }
    for (int64_t begin = 0; begin < count;) {
      const int64_t end = std::min(count, std::max(begin, first_row) + most_rows);
      const int64_t piece_first = std::clamp<int64_t>(first_row - begin, 0, end - begin);
      const auto piece = tokens.subspan(size_t(begin), size_t(end - begin));
      if (reference_) run_reference(piece, piece_first);
      const int64_t stride = step > 0 ? step : end - begin;
      for (int64_t at = 0; at < end - begin; at += stride) {
        const int64_t n = std::min(stride, end - begin - at);
        run_subject(piece.subspan(size_t(at), size_t(n)), regime,
                    std::clamp<int64_t>(piece_first - at, 0, n), begin, at, piece_first, on_pair);
      }
      begin = end;
    }
  }

  // Appends one token to one side only and gives the most likely next one (the lowest id on ties):
  // free decoding, where the two sides may write different texts.
  int32_t next_greedy(int32_t id) {
    return greedy(subject_.engine, *sequence_, id, "model under test", seconds_);
  }
  int32_t next_greedy_reference(int32_t id) {
    return greedy(*subject_.reference, *reference_, id, "reference model", reference_seconds_);
  }

  // A copy of both sides that goes on by itself, its clocks at 0; nothing where the device cannot
  // copy a sequence.
  std::optional<LockStep> fork() const {
    std::unique_ptr<Sequence> sequence = sequence_->fork();
    std::unique_ptr<Sequence> reference = reference_ ? reference_->fork() : nullptr;
    if (!sequence || (reference_ && !reference)) return {};
    return LockStep(subject_, buffer_bytes_, std::move(sequence), std::move(reference));
  }

  Sequence& sequence() { return *sequence_; }
  double seconds() const { return seconds_; }                      // subject's engine alone
  double reference_seconds() const { return reference_seconds_; }  // reference's engine alone

 private:
  using Clock = std::chrono::steady_clock;

  LockStep(const Subject& subject, int64_t buffer_bytes, std::unique_ptr<Sequence> sequence,
           std::unique_ptr<Sequence> reference)
      : subject_(subject),
        buffer_bytes_(buffer_bytes),
        sequence_(std::move(sequence)),
        reference_(std::move(reference)) {}

  int64_t vocab() const { return subject_.engine.config().vocab_size; }
  static double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void run_reference(std::span<const int32_t> piece, int64_t first) {
    const auto start = Clock::now();
    reference_first_position_ = reference_->length();
    logits_.resize(size_t(int64_t(piece.size()) - first) * size_t(vocab()));
    int64_t received = 0;
    subject_.reference->forward(*reference_, piece, Regime::streaming, first,
                                [&](int64_t row, int64_t rows, const float* logits) {
                                  std::memcpy(logits_.data() + (row - first) * vocab(), logits,
                                              size_t(rows * vocab()) * sizeof(float));
                                  received += rows;
                                });
    reference_seconds_ += since(start);
    require_rows(received, int64_t(piece.size()) - first);
  }

  // tokens = the part of the piece from `at` on; the piece begins `begin` tokens into the call.
  void run_subject(std::span<const int32_t> tokens, Regime regime, int64_t first, int64_t begin,
                   int64_t at, int64_t piece_first, const PairFn& on_pair) {
    const int64_t position = sequence_->length();
    const auto start = Clock::now();
    double scoring = 0;
    int64_t received = 0;
    subject_.engine.forward(
        *sequence_, tokens, regime, first, [&](int64_t row, int64_t rows, const float* logits) {
          const auto scoring_start = Clock::now();
          for (int64_t i = 0; i < rows; ++i) {
            const LogitRow method =
                read_logits(logits + i * vocab(), vocab(), position + row + i, "model under test");
            LogitRow reference;
            if (reference_) {
              const int64_t in_piece = at + row + i;
              reference = read_logits(logits_.data() + (in_piece - piece_first) * vocab(), vocab(),
                                      reference_first_position_ + in_piece, "reference model");
            }
            on_pair(begin + at + row + i, method, reference_ ? &reference : nullptr);
          }
          received += rows;
          scoring += since(scoring_start);
        });
    seconds_ += since(start) - scoring;
    require_rows(received, int64_t(tokens.size()) - first);
  }

  int32_t greedy(Engine& engine, Sequence& sequence, int32_t id, const char* whose,
                 double& seconds) {
    const int64_t position = sequence.length();
    const auto start = Clock::now();
    int32_t next = -1;
    engine.forward(sequence, std::span(&id, 1), Regime::streaming, 0,
                   [&](int64_t, int64_t, const float* logits) {
                     next = read_logits(logits, vocab(), position, whose).argmax;
                   });
    seconds += since(start);
    require_rows(next >= 0, 1);
    return next;
  }

  static void require_rows(int64_t received, int64_t expected) {
    if (received != expected) {
      throw Error(ExitCode::internal, "the engine handed over " + std::to_string(received) +
                                          " rows of logits instead of " + std::to_string(expected));
    }
  }

  Subject subject_;
  int64_t buffer_bytes_;
  std::unique_ptr<Sequence> sequence_, reference_;
  std::vector<float> logits_;  // the reference's rows of the current piece
  int64_t reference_first_position_ = 0;
  double seconds_ = 0, reference_seconds_ = 0;
};

}  // namespace ptq::eval
