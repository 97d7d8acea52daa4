// Tests of what a method computes: for the cache (keys and values) and for weights alike.
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "host/check/encoder.hpp"

namespace ptq::check {
namespace {

// Pearson's correlation: 1 when only scale and offset differ.
double correlation(const std::vector<float>& a, const std::vector<float>& b) {
  double sa = 0, sb = 0, saa = 0, sbb = 0, sab = 0;
  const double n = double(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    sa += a[i], sb += b[i];
    saa += double(a[i]) * a[i], sbb += double(b[i]) * b[i], sab += double(a[i]) * b[i];
  }
  const double spread = (saa - sa * sa / n) * (sbb - sb * sb / n);
  return spread > 0 ? (sab - sa * sb / n) / std::sqrt(spread) : 0;
}

// Squared error relative to the squared values: 1 = no better than storing zeros.
double relative_error(const std::vector<float>& x, const std::vector<float>& decoded) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double(x[i]) - decoded[i]) * (double(x[i]) - decoded[i]);
    size += double(x[i]) * x[i];
  }
  return error / size;
}

// ---- the tests, for one method and side ------------------------------------------------------

Result policy(const Subject& subject, const ptq_method& method, Side side) {
  for (const auto& [heads, dim] : {std::pair<int64_t, int64_t>{2, 64}, {1, 128}, {8, 32}}) {
    Session session(method, subject);
    session.must_create();
    session.block(side, heads, dim, /*sample=*/false);
  }
  return {};
}

Result asks_for_inputs(const Subject& subject, const ptq_method& method, Side side) {
  Session session(method, subject);
  session.must_create();
  const int64_t rows = session.block(side, kHeads, kHeadDim, /*sample=*/false);
  if (session.wants() == 0) return {Verdict::pass, "it learns from no sample"};
  // A host without a sample: encoding may work or be refused, with a sentence.
  Input input(kHeads, rows, kHeadDim, bell_curve(kHeads, rows, kHeadDim, subject.seed));
  session.encode(side, input.tensor(false));
  const Answer answer = session.calibrate(kHeads, kHeadDim);
  if (answer.status != PTQ_OK) fail("calibrate failed: {}", answer.sentence);
  must_be_finite(session.must_encode(side, input).decode(), "ordinary numbers");
  session.destroy();
  if (session.host().kept()) fail("memory from alloc stays behind after calibrate and destroy");
  return {};
}

Result encodes(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  const Encoding encoding = encoder.encode(encoder.values(subject.seed));
  must_be_finite(encoding.decode(), "ordinary numbers");
  return {};
}

Result shapes(const Subject& subject, const ptq_method& method, Side side) {
  const bool weights = side == Side::weights;
  const std::vector<std::array<int64_t, 3>> all =
      weights
          ? std::vector<std::array<int64_t, 3>>{{1, 1, 256},
                                                {1, 7, 128},
                                                {1, 3, 64},
                                                {1, 5, 160},
                                                {1, 128, 344}}
          : std::vector<std::array<int64_t, 3>>{{1, 1, 64}, {3, 2, 32}, {8, 1, 128}, {2, 5, 96}};
  std::string refused;
  for (auto [batch, rows, columns] : all) {
    Session session(method, subject);
    session.must_create();
    rows *= session.block(side, batch, columns);
    Input input(batch, rows, columns, bell_curve(batch, rows, columns, subject.seed));
    const Answer answer = session.encode(side, input.tensor(weights));
    if (answer.status != PTQ_OK) {
      refused = fmt::format("[{}, {}, {}] is refused: {}", batch, rows, columns, answer.sentence);
    } else if (answer.encoding.filled()) {
      must_be_finite(answer.encoding.decode(), "ordinary numbers");
    }
  }
  return {refused.empty() ? Verdict::pass : Verdict::warn, refused};
}

Result blocks(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  if (encoder.session.rewrites()) skip("it encodes all rows again at every step");
  const int64_t block = encoder.rows, count = 5;
  const int64_t row = encoder.columns;
  const std::vector<float> x = bell_curve(encoder.batch, count * block, row, subject.seed);
  Input whole(encoder.batch, count * block, row, x);
  const std::vector<float> expected = encoder.session.must_encode(side, whole).decode();
  Session pieces(method, subject);
  pieces.must_create();
  pieces.block(side, kHeads, kHeadDim);
  for (int64_t i = 0; i < count; ++i) {
    std::vector<float> part;
    std::vector<float> part_expected;
    for (int64_t b = 0; b < encoder.batch; ++b) {
      const size_t begin = size_t((b * count + i) * block * row), size = size_t(block * row);
      part.insert(part.end(), x.begin() + begin, x.begin() + begin + size);
      part_expected.insert(part_expected.end(), expected.begin() + begin,
                           expected.begin() + begin + size);
    }
    Input input(encoder.batch, block, row, part);
    if (!same_bits(pieces.must_encode(side, input, i * block).decode(), part_expected)) {
      fail(
          "block {} of {} alone gives other numbers than {} blocks in one call: a block must not "
          "depend on its neighbours",
          i, count, count);
    }
  }
  return {};
}

Result same_twice(const Subject& subject, const ptq_method& method, Side side) {
  Encoder first(method, subject, side), second(method, subject, side);
  const std::vector<float> x = first.values(subject.seed), other = first.values(subject.seed + 1);
  const Encoding once = first.encode(x);
  if (!same(once, second.encode(x))) fail("a second instance gives other bytes");
  first.encode(other);
  if (!same(once, first.encode(x))) fail("the same call gives other bytes the next time");
  return {};
}

Result lossy(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  std::vector<float> x = encoder.values(subject.seed);
  Encoding encoding = encoder.encode(x);
  if (encoding.low_rank) {  // noise has full rank and may be kept as it is: rows that are alike
    for (size_t i = size_t(encoder.columns); i < x.size(); ++i)
      x[i] = x[i % size_t(encoder.columns)] + 0.1f * x[i];
    encoding = encoder.encode(x);
  }
  const double bits = 8.0 * double(encoding.stored_bytes()) / double(x.size());
  if (method.traits & PTQ_LOSSLESS) {
    const double difference = relative_error(x, encoding.decode());
    if (difference > 1e-5) {  // bfloat16 alone makes about 3e-6
      fail("it calls itself lossless, but the relative squared error is {:.2e}", difference);
    }
    return {Verdict::pass, fmt::format("lossless, {:.2f} bits per number", bits)};
  }
  if (encoding.dense) {
    fail("pass-through: it stores 16-bit numbers; set PTQ_LOSSLESS if it is a baseline");
  }
  if (same_bits(x, encoding.decode())) fail("pass-through: what is decoded equals the input");
  if (bits >= 16) fail("it takes {:.2f} bits per number, float16 takes 16", bits);
  return {Verdict::pass, fmt::format("{:.2f} bits per number", bits)};
}

Result error(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  const std::vector<float> x = encoder.values(subject.seed);
  const std::vector<float> decoded = encoder.encode(x).decode();
  const double similar = correlation(x, decoded);
  const std::string figures = fmt::format("correlation {:.4f}, relative squared error {:.2e}",
                                          similar, relative_error(x, decoded));
  // One bit on a bell curve still reaches 0.75; below 0.5 rows or scales are mixed up.
  return {similar < 0.5 ? Verdict::fail : Verdict::pass, figures};
}

Result extremes(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  const size_t count = encoder.values(1).size();
  const auto decode = [&](const std::vector<float>& x, const char* of) {
    Input input(encoder.batch, encoder.rows, encoder.columns, x);
    const Answer answer = encoder.session.encode(side, input.tensor(side == Side::weights));
    if (answer.status != PTQ_OK) fail("{}: refused: {}", of, answer.sentence);
    std::vector<float> decoded = answer.encoding.filled() ? answer.encoding.decode() : x;
    must_be_finite(decoded, of);
    return decoded;
  };
  // Ranges that calibration fixed need not contain them.
  const bool free = !encoder.session.calibrated();
  for (const float value : decode(std::vector<float>(count, 0.0f), "only zeros")) {
    if (free && std::fabs(value) > 1e-3f) fail("a zero among zeros decodes to {}", value);
  }
  for (const float value : decode(std::vector<float>(count, 3.0f), "only threes")) {
    if (free && std::fabs(value - 3.0f) > 3.0f) fail("a three among threes decodes to {}", value);
  }
  std::vector<float> x = encoder.values(subject.seed);
  x[count / 2] = 30000.0f;
  decode(x, "one outlier of 30000");
  for (float& value : x = encoder.values(subject.seed)) value *= 1e-7f;
  decode(x, "tiny numbers around 1e-7");
  for (float& value : x = encoder.values(subject.seed)) value *= 1e3f;
  decode(x, "large numbers around 1e3");
  return {};
}

// Allowed: ok with whatever numbers, or a refusal with a sentence.
Result not_finite(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x = encoder.values(subject.seed);
    x[x.size() / 3] = bad;
    Input input(encoder.batch, encoder.rows, encoder.columns, x);
    encoder.session.encode(side, input.tensor(side == Side::weights));
  }
  encoder.encode(encoder.values(subject.seed));  // still usable
  return {};
}

Result no_rows(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  Input input(encoder.batch, 0, encoder.columns, {});
  encoder.session.encode(side, input.tensor(side == Side::weights));
  encoder.encode(encoder.values(subject.seed));
  return {};
}

Result wrong_input(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  Input input(encoder.batch, encoder.rows, encoder.columns, encoder.values(subject.seed));
  ptq_tensor half = input.tensor(side == Side::weights);
  half.dtype.bits = 16;
  ptq_tensor flat = half;
  flat.dtype.bits = 32;
  flat.ndim = 1;
  flat.shape[0] = flat.shape[1] = flat.shape[2] = 1;
  std::string accepted;
  for (const auto& [x, what] : {std::pair<ptq_tensor, const char*>{half, "float16 numbers"},
                                {flat, "a tensor with one axis"}}) {
    if (encoder.session.encode(side, x).status == PTQ_OK) {
      accepted =
          fmt::format("{} are taken as they were float32 [.., rows, columns]; refuse them", what);
    }
  }
  encoder.encode(encoder.values(subject.seed));
  return {accepted.empty() ? Verdict::pass : Verdict::warn, accepted};
}

Result surroundings(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  const std::vector<float> x = encoder.values(subject.seed);
  Input quiet(encoder.batch, encoder.rows, encoder.columns, x, 0.0f);
  Input loud(encoder.batch, encoder.rows, encoder.columns, x, 9999.0f);
  if (!same(encoder.session.must_encode(side, quiet), encoder.session.must_encode(side, loud))) {
    fail("the answer depends on memory around the input: it reads outside");
  }
  return {};
}

// A run that is being stopped: it may finish or give up, with a sentence, and nothing stays behind.
Result cancelled(const Subject& subject, const ptq_method& method, Side side) {
  Encoder encoder(method, subject, side);
  Input input(encoder.batch, encoder.rows, encoder.columns, encoder.values(subject.seed));
  encoder.session.host().cancelled = true;
  const Answer answer = encoder.session.encode(side, input.tensor(side == Side::weights));
  encoder.session.host().cancelled = false;
  if (answer.status != PTQ_OK && answer.status != PTQ_CANCELLED) {
    fail("it answers with status {} ({}), not PTQ_CANCELLED", answer.status, answer.sentence);
  }
  encoder.encode(encoder.values(subject.seed));
  return {};
}

Result no_memory(const Subject& subject, const ptq_method& method, Side side) {
  const std::vector<float> x = Encoder(method, subject, side).values(subject.seed);
  // The n-th allocation fails, for every n until the method needs no more.
  for (int64_t n = 0; n < 100; ++n) {
    Session session(method, subject);
    session.host().allocations_left = n;
    bool refused = session.create().status != PTQ_OK;
    if (!refused) {
      const bool weights = side == Side::weights;
      const int64_t rows = weights ? kRows : session.block(side, kHeads, kHeadDim, false);
      Input input(weights ? 1 : kHeads, rows, weights ? kColumns : kHeadDim, x);
      refused =
          !weights && session.wants() != 0 && session.calibrate(kHeads, kHeadDim).status != PTQ_OK;
      refused = refused || session.encode(side, input.tensor(weights)).status != PTQ_OK;
      session.destroy();
    }
    if (session.host().kept()) fail("memory from alloc stays behind when allocation {} fails", n);
    if (!refused) return {Verdict::pass, fmt::format("{} allocation(s)", n)};
  }
  return {};
}

}  // namespace

std::vector<Test> encode_tests() {
  return {
      {"kv-policy", "sink, window and block are valid for several model shapes.", "create-default",
       each<policy, true>},
      {"kv-calibration", "It takes the sample that it wants, and does not crash without one.",
       "kv-policy", each<asks_for_inputs, true>},
      {"kv-encodes", "One block of keys and values is encoded; it decodes to finite numbers.",
       "kv-calibration", each<encodes, true>},
      {"kv-shapes", "So are blocks of other numbers of heads, rows and columns.", "kv-encodes",
       each<shapes, true>},
      {"kv-blocks", "Many blocks in one call give the same numbers as one by one.", "kv-encodes",
       each<blocks, true>},
      {"kv-same-twice", "The same input gives the same bytes again.", "kv-encodes",
       each<same_twice, true>},
      {"kv-lossy", "A lossy method changes numbers and takes less than 16 bits for one.",
       "kv-encodes", each<lossy, true>},
      {"kv-error", "What is decoded resembles the input.", "kv-encodes", each<error, true>},
      {"kv-extremes", "Zeros, constants, outliers, tiny and large numbers stay finite.",
       "kv-encodes", each<extremes, true>},
      {"kv-not-finite", "NaN and infinity do not crash it; a refusal has a sentence.", "kv-encodes",
       each<not_finite, true>},
      {"kv-no-rows", "A call with no rows does not crash it.", "kv-encodes", each<no_rows, true>},
      {"kv-wrong-input", "Another dtype or rank is refused with a sentence.", "kv-encodes",
       each<wrong_input, true>},
      {"kv-surroundings", "It reads nothing outside its input and writes nothing into it.",
       "kv-encodes", each<surroundings, true>},
      {"kv-cancelled", "When it is to stop it ends in good order, and works again.", "kv-encodes",
       each<cancelled, true>},
      {"kv-no-memory", "When alloc gives NULL it refuses with a sentence and keeps nothing.",
       "kv-encodes", each<no_memory, true>},
      {"weights-encodes", "A weight matrix is encoded; it decodes to finite numbers.",
       "create-default", each<encodes, false>},
      {"weights-shapes", "So are matrices whose rows do not divide into whole groups.",
       "weights-encodes", each<shapes, false>},
      {"weights-same-twice", "The same matrix gives the same bytes again.", "weights-encodes",
       each<same_twice, false>},
      {"weights-lossy", "A lossy method changes numbers and takes less than 16 bits for one.",
       "weights-encodes", each<lossy, false>},
      {"weights-error", "What is decoded resembles the matrix.", "weights-encodes",
       each<error, false>},
      {"weights-extremes", "Zeros, constants, outliers, tiny and large numbers stay finite.",
       "weights-encodes", each<extremes, false>},
      {"weights-not-finite", "NaN and infinity do not crash it; a refusal has a sentence.",
       "weights-encodes", each<not_finite, false>},
      {"weights-wrong-input", "Another dtype or rank is refused with a sentence.",
       "weights-encodes", each<wrong_input, false>},
      {"weights-surroundings", "It reads nothing outside its input and writes nothing into it.",
       "weights-encodes", each<surroundings, false>},
      {"weights-cancelled", "When it is to stop it ends in good order, and works again.",
       "weights-encodes", each<cancelled, false>},
      {"weights-no-memory", "When alloc gives NULL it refuses with a sentence and keeps nothing.",
       "weights-encodes", each<no_memory, false>},
  };
}

}  // namespace ptq::check
