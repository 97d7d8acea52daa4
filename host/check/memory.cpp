// Tests of the memory that a method takes by itself, beside what the host counts.
#include <malloc.h>

#include <chrono>

#include "host/check/encoder.hpp"

namespace ptq::check {
namespace {

size_t heap_in_use() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Blocks are encoded millions of times: what every call keeps adds up.
Result heap(const Subject& subject, const ptq_method& method, Side side) {
  constexpr int kFirst = 150, kCalls = 60;  // the first ones may fill tables of their own
  constexpr double kLongest = 6;            // seconds
  constexpr size_t kPiece = 16;             // bytes, of which the allocator gives whole ones
  Encoder encoder(method, subject, side);
  const std::vector<float> x = encoder.values(subject.seed);
  const auto begin = std::chrono::steady_clock::now();
  const auto encode = [&](int times) {
    for (int i = 0; i < times; ++i) {
      encoder.encode(x);
      if (std::chrono::steady_clock::now() - begin > std::chrono::duration<double>(kLongest))
        skip("its calls take too long to be repeated");
    }
    return heap_in_use();
  };
  const size_t first = encode(kFirst), second = encode(kCalls), third = encode(kCalls);
  const size_t least = kPiece * kCalls;
  if (second < first + least || third < second + least) return {};
  // To the nearest piece: one call in many may find or leave one.
  const size_t pieces = ((third - second) / kPiece + kCalls / 2) / kCalls;
  fail(
      "every call keeps {} bytes of its own memory; what an instance keeps is to be taken from "
      "call->alloc, once",
      pieces * kPiece);
}

}  // namespace

std::vector<Test> memory_tests() {
  return {
      {"kv-heap", "Calls do not keep more and more memory that the host cannot count.",
       "kv-encodes", each<heap, true>},
      {"weights-heap", "Nor do calls that encode a matrix.", "weights-encodes", each<heap, false>}};
}

}  // namespace ptq::check
