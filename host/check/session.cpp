#include "host/check/session.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "host/check/layer.hpp"

namespace ptq::check {
namespace {

constexpr uint32_t kKnownFlags = PTQ_KV_CURRENT | PTQ_KV_HADAMARD | PTQ_KV_EVICTS | PTQ_KV_REWRITES;

std::string json_object(const OptionValues& options) {
  std::string text = "{";
  for (const auto& [name, value] : options) {
    text += (text.size() > 1 ? ", \"" : "\"") + name + "\": " + value;
  }
  return text + "}";
}

}  // namespace

OptionValues default_options(const ptq_method& method) {
  OptionValues options;
  for (uint32_t i = 0; i < method.n_options; ++i) {
    options.emplace_back(method.options[i]->name, method.options[i]->default_value);
  }
  return options;
}

Session::Session(const ptq_method& method, const Subject& subject, const OptionValues& options)
    : method_(method) {
  host_.seed = subject.seed;
  host_.options = options;
}

// Does not throw: a test that is being stopped comes by here.
Session::~Session() {
  if (alive_) method_.destroy(self_, host_.begin());
}

void Session::settle(const char* function, Answer& answer) {
  host_.end();
  must_leave_surroundings(function);
  answer.sentence = host_.sentence;
  if (!host_.mistake.empty()) fail("{}: {}", function, host_.mistake);
  if (answer.status < PTQ_OK || answer.status > PTQ_INTERNAL) {
    fail("{} returned {}, which is no status", function, answer.status);
  }
  if (answer.status == PTQ_OK && host_.fails > 0) {
    fail("{} returned ok after call->fail with \"{}\"", function, host_.sentence);
  }
  if (answer.status == PTQ_OK && !host_.refused.empty()) {
    fail("{} returned ok although its answer was refused: {}", function, host_.refused);
  }
  if (answer.status != PTQ_OK && answer.sentence.empty()) {
    fail("{} returned status {} without a sentence: use return call->fail(call, status, sentence)",
         function, answer.status);
  }
}

void Session::must_leave_surroundings(const char* function) const {
  // A copy of this process that the plugin made: it is counted as one that was left behind.
  if (::getpid() != process_) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (::getpid() != process_) ::pause();
  if (files_.lost()) fail("{} closes or replaces the standard files of the process", function);
  if (const std::string changed = surroundings_.restore(); !changed.empty()) {
    fail("{} changes {} of the process and leaves it so", function, changed);
  }
}

// All blocks of one layer and side are stored in one form.
void Session::must_be_alike(Side side, const Encoding& encoding) {
  if (side == Side::weights || rewrites_ || !encoding.filled() || encoding.rows == 0) return;
  std::string& form = form_[int(side)];
  std::vector<float>& shared = shared_[int(side)];
  if (form.empty()) {
    form = encoding.form;
    shared = encoding.shared;
  }
  if (form != encoding.form) {
    fail("blocks of one layer and side in different formats: {}; then {}", form, encoding.form);
  }
  if (shared != encoding.shared) {
    fail("levels, or scales per column, differ between blocks; they are stored once");
  }
}

Answer Session::create() {
  Answer answer;
  const std::string json = json_object(host_.options);
  set_doing(std::string(method_.name) + ": create");
  const ptq_call* call = host_.begin();
  answer.status = method_.create(call, host_.lend(json, "options_json"), &self_);
  alive_ = answer.status == PTQ_OK;
  settle("create", answer);
  return answer;
}

void Session::must_create() {
  const Answer answer = create();
  if (answer.status != PTQ_OK) fail("create failed: {}", answer.sentence);
}

void Session::destroy() {
  alive_ = false;
  set_doing(std::string(method_.name) + ": destroy");
  method_.destroy(self_, host_.begin());
  host_.end();
  must_leave_surroundings("destroy");
  if (!host_.mistake.empty()) fail("destroy: {}", host_.mistake);
}

bool Session::can(Side side) const {
  const uint32_t cpu = 1u << PTQ_CPU;
  if (side == Side::weights) {
    const auto* table = static_cast<const ptq_weights*>(method_.get(self_, PTQ_WEIGHTS_1));
    return table && (table->devices & cpu);
  }
  const auto* table = static_cast<const ptq_kv*>(method_.get(self_, PTQ_KV_1));
  return table && (table->devices & cpu);
}

int64_t Session::block(Side side, int64_t heads, int64_t columns, bool sample) {
  if (side == Side::weights) return 1;
  const auto* kv = static_cast<const ptq_kv*>(method_.get(self_, PTQ_KV_1));
  const ptq_kv_shape shape{sizeof(ptq_kv_shape), 0, kLayers, heads, columns};
  ptq_kv_policy keys{sizeof(ptq_kv_policy), PTQ_POST_ROPE, 0, 0, 1, 0, 0}, values = keys;
  const Answer answer = call("policy", [&](void* self, const ptq_call* c) {
    ptq_kv_policy* own[] = {host_.lend(keys, "the policy of the keys", /*writable=*/true),
                            host_.lend(values, "the policy of the values", /*writable=*/true)};
    const ptq_status status =
        kv->policy(self, c, host_.lend(shape, "the ptq_kv_shape"), own[0], own[1]);
    keys = host_.returned(own[0], keys, "the policy");
    values = host_.returned(own[1], values, "the policy");
    return status;
  });
  if (answer.status != PTQ_OK) fail("policy failed: {}", answer.sentence);
  for (const ptq_kv_policy* p : {&keys, &values}) {
    const char* name = p == &keys ? "keys" : "values";
    if (p->sink < 0) fail("sink of {} is {}, it must be at least 0", name, p->sink);
    if (p->window < 0) fail("window of {} is {}, it must be at least 0", name, p->window);
    if (p->block < 1) fail("block of {} is {}, it must be at least 1", name, p->block);
    if (p->block > 1 << 20) fail("block of {} is {}, more rows than any context", name, p->block);
    if (p->key_space > PTQ_PRE_ROPE) fail("key_space of {} is {}", name, p->key_space);
    if (p->flags & ~kKnownFlags) fail("flags of {} are {:#x}, not PTQ_KV_*", name, p->flags);
    if (p->reserved != 0) fail("reserved of {} is {}, it must be 0", name, p->reserved);
  }
  flags_[0] = keys.flags;
  flags_[1] = values.flags;
  policy_.clear();
  for (const ptq_kv_policy* p : {&keys, &values})
    policy_ += fmt::format("{} {} {} {} {};", p->key_space, p->sink, p->window, p->block, p->flags);
  if ((keys.flags ^ values.flags) & PTQ_KV_EVICTS) fail("it evicts rows of one side only");
  if (keys.flags & PTQ_KV_EVICTS) skip("it evicts rows and encodes none");
  if (sample && !calibrated_ && wants() != 0) {
    const Answer taken = calibrate(heads, columns);
    if (taken.status != PTQ_OK) fail("calibrate failed: {}", taken.sentence);
  }
  const ptq_kv_policy& own = side == Side::keys ? keys : values;
  rewrites_ = own.flags & PTQ_KV_REWRITES;
  block_[int(side)] = rewrites_ ? 0 : own.block;
  form_[int(side)].clear();
  shared_[int(side)].clear();
  // A method that rewrites gets all rows at once; some number of them.
  return rewrites_ ? std::max<int64_t>(own.block, 32) : own.block;
}

uint32_t Session::wants() const {
  const auto* table = static_cast<const ptq_kv_calibration*>(get(PTQ_KV_CALIBRATION_1));
  if (!table) return 0;
  if (table->wants & ~(PTQ_WANT_SAMPLES | PTQ_WANT_FISHER)) {
    fail("{}: wants is {}, which has unknown bits", PTQ_KV_CALIBRATION_1, table->wants);
  }
  return table->wants;
}

Answer Session::calibrate(int64_t heads, int64_t columns) {
  constexpr int64_t kLength = 64, kTokens = 2 * kLength;
  const auto* table = static_cast<const ptq_kv_calibration*>(get(PTQ_KV_CALIBRATION_1));
  Answer answer;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const int side : {PTQ_KEYS, PTQ_VALUES}) {
      const std::vector<float> x =
          sample_values(kTokens, heads, columns, host_.seed + 17, other_sample);
      // Squared gradients: never negative, tiny, and here and there exactly 0.
      std::vector<float> squared = x;
      for (size_t i = 0; i < x.size(); ++i) squared[i] *= i % 7 ? 1e-6f * x[i] : 0.0f;
      Input input(kTokens, heads, columns, x), weights(kTokens, heads, columns, squared);
      const ptq_tensor sample = input.tensor(false), fisher = weights.tensor(false);
      const ptq_kv_block rows{sizeof(ptq_kv_block), side, layer, 0, 0, kLength};
      answer = call("calibrate", [&](void* self, const ptq_call* c) {
        return table->calibrate(self, c, host_.lend(rows, "the ptq_kv_block"),
                                host_.lend_tensor(sample),
                                wants() & PTQ_WANT_FISHER ? host_.lend_tensor(fisher) : nullptr);
      });
      if (answer.status != PTQ_OK) return answer;
    }
  }
  calibrated_ = true;
  return answer;
}

Answer Session::encode(Side side, const ptq_tensor& x, int64_t first) {
  Answer answer;
  auto* out = reinterpret_cast<ptq_encoding*>(&answer.encoding);
  answer.encoding.cache = side != Side::weights;
  if (answer.encoding.cache) answer.encoding.block = block_[int(side)];
  constexpr const char* kNames[] = {"keys", "values", "weights"};
  set_doing(fmt::format("{} ({}): encode", method_.name, kNames[int(side)]));
  const ptq_call* call = host_.begin();
  if (side == Side::weights) {
    const auto* weights = static_cast<const ptq_weights*>(get(PTQ_WEIGHTS_1));
    const auto* learns =
        static_cast<const ptq_weights_calibration*>(get(PTQ_WEIGHTS_CALIBRATION_1));
    Layer layer(host_, x, learns ? &learns->wanted : nullptr, other_sample);
    answer.status = weights->encode(self_, call, layer.lent(), out);
  } else {
    const auto* kv = static_cast<const ptq_kv*>(get(PTQ_KV_1));
    const ptq_kv_block block{sizeof(ptq_kv_block), int32_t(side), 0, 0, first, x.shape[1]};
    answer.status =
        kv->encode(self_, call, host_.lend(block, "the ptq_kv_block"), host_.lend_tensor(x), out);
  }
  settle("encode", answer);
  if (answer.encoding.fills > 1) fail("encode filled the encoding {} times", answer.encoding.fills);
  if (answer.status == PTQ_OK) must_be_alike(side, answer.encoding);
  return answer;
}

Encoding Session::must_encode(Side side, Input& input, int64_t first) {
  const bool matrix = side == Side::weights;
  Answer answer = encode(side, input.tensor(matrix), first);
  if (answer.status != PTQ_OK) fail("encode failed: {}", answer.sentence);
  const Encoding& encoding = answer.encoding;
  if (!encoding.filled()) {
    if (matrix) skip("this layer is left as it is");
    fail("encode returned ok and left the encoding empty");
  }
  if (encoding.batch != input.batch() || encoding.rows != input.rows() ||
      encoding.columns != input.columns()) {
    fail("the encoding has the shape [{}, {}, {}], the input [{}, {}, {}]", encoding.batch,
         encoding.rows, encoding.columns, input.batch(), input.rows(), input.columns());
  }
  return std::move(answer.encoding);
}

std::vector<float> bell_curve(int64_t batch, int64_t rows, int64_t columns, uint64_t seed) {
  // Box and Muller by hand: std::normal_distribution differs between libraries, a seed in a bug
  // report must not.
  std::mt19937_64 random(seed);
  const auto uniform = [&] { return (double(random() >> 11) + 0.5) * 0x1p-53; };
  std::vector<float> values(size_t(batch * rows * columns));
  for (size_t i = 0; i < values.size(); ++i) {
    const double bell =
        std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
    values[i] = float(int64_t(i) % columns % 16 == 5 ? 4 * bell : bell);
  }
  return values;
}

std::vector<float> sample_values(int64_t batch, int64_t rows, int64_t columns, uint64_t seed,
                                 bool other) {
  std::vector<float> values = bell_curve(batch, rows, columns, seed);
  for (size_t i = 0; other && i < values.size(); ++i)
    values[i] *= int64_t(i) % columns % 16 == 11 ? 20.0f : 0.4f;
  return values;
}

}  // namespace ptq::check
