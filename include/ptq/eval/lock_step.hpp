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
#include "ptq/eval/log_softmax.hpp"
#include "ptq/eval/subject.hpp"

namespace ptq::eval {

// row: index in the tokens of the forward call. reference is nullptr when there is none. Both are
// valid during the call only.
using PairFn = std::function<void(int64_t row, const LogitRow& method, const LogitRow* reference)>;
// The same for a batch; run: index of the sequence.
using BatchPairFn =
    std::function<void(size_t run, const LogitRow& method, const LogitRow* reference)>;

class LockStep {
 public:
  // buffer_bytes: most memory for logits of the reference, exceeded only by the rows of one call
  // that cannot be cut.
  explicit LockStep(const Subject& subject, int64_t buffer_bytes = int64_t{256} << 20)
      : subject_(subject),
        buffer_bytes_(buffer_bytes),
        sequence_(subject.engine.start(subject.kv)),
        reference_(subject.reference ? subject.reference->start(nullptr) : nullptr) {
    if (subject.noise.relative != 0) sequence_->disturb(subject.noise);
  }

  // From here on a row of the subject that is not finite is handed over as such (LogitRow::finite),
  // instead of being an error.
  void hand_over_not_finite() { not_finite_is_error_ = false; }

  // Appends the tokens to both sequences; pairs of the rows from first_row on (tokens.size() =
  // none). The reference always streams: its cache is dense, so any regime gives it the same rows.
  void forward(std::span<const int32_t> tokens, Regime regime, int64_t first_row,
               const PairFn& on_pair) {
    const int64_t count = int64_t(tokens.size());
    // Streaming gives the same rows for any cut, so the reference's logits are kept for one piece
    // at a time. The other regimes treat a call as a unit and need the rows of all of it.
    int64_t most_rows = std::max<int64_t>(count, 1);
    if (reference_ && regime == Regime::streaming) {
      most_rows = std::clamp<int64_t>(buffer_bytes_ / (4 * vocab()), 1, most_rows);
    }
    for (int64_t begin = 0; begin < count;) {
      const int64_t end = std::min(count, std::max(begin, first_row) + most_rows);
      const int64_t piece_first = std::clamp<int64_t>(first_row - begin, 0, end - begin);
      const auto piece = tokens.subspan(size_t(begin), size_t(end - begin));
      if (reference_) run_reference(piece, piece_first);
      run_subject(piece, regime, piece_first, begin, on_pair);
      begin = end;
    }
  }

  // Decodes in a batch: appends tokens[r] to runs[r], one token of each per call of the engine. The
  // lists have one length, the runs one subject. The references run ahead, a piece each.
  static void decode(std::span<LockStep> runs, const std::vector<std::span<const int32_t>>& tokens,
                     const BatchPairFn& on_pair) {
    if (runs.empty()) return;
    const LockStep& any = runs[0];
    const int64_t count = int64_t(tokens[0].size()), n = int64_t(runs.size());
    const int64_t most = std::max<int64_t>(1, any.buffer_bytes_ / (4 * any.vocab() * n));
    for (int64_t begin = 0; begin < count; begin += most) {
      const int64_t end = std::min(count, begin + most);
      for (size_t r = 0; r < runs.size() && any.reference_; ++r) {
        runs[r].run_reference(tokens[r].subspan(size_t(begin), size_t(end - begin)), 0);
      }
      for (int64_t at = begin; at < end; ++at) {
        const auto start = Clock::now();
        double scoring = 0;
        int64_t received = 0;
        std::vector<Request> requests;
        for (size_t r = 0; r < runs.size(); ++r) {
          LockStep& run = runs[r];
          const int64_t position = run.sequence_->length();
          requests.push_back({*run.sequence_, tokens[r].subspan(size_t(at), 1), 0,
                              [&, r, position](int64_t, int64_t rows, const float* logits) {
                                const auto scoring_start = Clock::now();
                                run.score(logits, position, at - begin,
                                          [&](const auto&... rows_of) { on_pair(r, rows_of...); });
                                received += rows;
                                scoring += since(scoring_start);
                              }});
        }
        any.subject_.engine.forward(requests, Regime::streaming);
        require_rows(received, n);
        for (LockStep& run : runs) run.seconds_ += (since(start) - scoring) / double(n);
      }
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
    LockStep copy(subject_, buffer_bytes_, std::move(sequence), std::move(reference));
    copy.not_finite_is_error_ = not_finite_is_error_;
    return copy;
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

  // The piece begins `begin` tokens into the call.
  void run_subject(std::span<const int32_t> piece, Regime regime, int64_t first, int64_t begin,
                   const PairFn& on_pair) {
    const int64_t position = sequence_->length();
    const auto start = Clock::now();
    double scoring = 0;
    int64_t received = 0;
    subject_.engine.forward(*sequence_, piece, regime, first,
                            [&](int64_t row, int64_t rows, const float* logits) {
                              const auto scoring_start = Clock::now();
                              for (int64_t i = 0; i < rows; ++i) {
                                score(logits + i * vocab(), position + row + i, row + i - first,
                                      [&](const LogitRow& method, const LogitRow* reference) {
                                        on_pair(begin + row + i, method, reference);
                                      });
                              }
                              received += rows;
                              scoring += since(scoring_start);
                            });
    seconds_ += since(start) - scoring;
    require_rows(received, int64_t(piece.size()) - first);
  }

  // One row of the subject beside row `kept` of the reference's that are kept.
  template <class OnPair>
  void score(const float* logits, int64_t position, int64_t kept, const OnPair& on_pair) {
    if (reference_) exps_.resize(size_t(vocab()));  // a comparison needs them again
    const LogitRow method = scan_logits(logits, vocab(), reference_ ? exps_.data() : nullptr);
    if (not_finite_is_error_) require_finite(method, position, "model under test");
    if (!reference_) {
      on_pair(method, nullptr);
      return;
    }
    const LogitRow reference =
        read_logits(logits_.data() + kept * vocab(), vocab(), position, "reference model");
    on_pair(method, &reference);
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
  std::vector<double> exps_;   // of the subject's current row
  bool not_finite_is_error_ = true;
  double seconds_ = 0, reference_seconds_ = 0;
};

}  // namespace ptq::eval
