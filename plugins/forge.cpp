// FORGE: chunks of keys and values by their truncated singular value decomposition.
//
// X [chunk, head_dim] = P Q with the smallest rank that keeps a share `energy` of sum(sigma^2); the
// relative error is sqrt(1 - energy): 0.95 allows 22 %. The only source is the study that named it
// ("Fast On-chip Reconstruction of Generative Embeddings"); there is no paper. Two methods:
//   forge_seed  the study's definition: rotated keys, no window, one rank for all heads, clamped to
//               2 .. 32, factors stored even where they take more room than the rows
//   forge       ours: a chunk's mean row is taken off first, so that energy is measured on what
//               tells tokens apart (where all keys share a large vector, rank 1 holds 95 % of the
//               energy and every key becomes that vector); keys before rotation; a window; rank per
//               head; rows are stored as they are where factors take no less
//
// Options            forge   forge_seed
//   chunk            16      16     rows that are factorised together, 2 .. 256
//   energy           0.95    0.95   share kept, above 0 to 1
//   min_rank         0       2      rank is at least this (a chunk of zeros has rank 0)
//   max_rank         0       32     rank is at most this; 0 = no limit
//   window           32      0      newest rows in full precision
//   sink             0       0      first rows in full precision
//   center           true    false  take the mean row off
//   pre_rope         true    false  keys before rotation
//   shared_rank      false   true   all heads use the largest rank among them
//   raw_fallback     true    false  store rows where factors are not smaller
#include "ptq/plugin.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;

// The options, with the defaults that differ between the two methods.
struct OptionSet {
  ptq_option all[10];
  const ptq_option* list[10];
  constexpr OptionSet(const char* min_rank, const char* max_rank, const char* window,
                      const char* ours, const char* study)
      : all{{sizeof(ptq_option), PTQ_OPTION_INT, "chunk", "16", "rows factorised together", 2, 256,
             nullptr},
            {sizeof(ptq_option), PTQ_OPTION_FLOAT, "energy", "0.95",
             "share of squared singular values that is kept", 0.01, 1, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_INT, "min_rank", min_rank, "smallest rank", 0, 254,
             nullptr},
            {sizeof(ptq_option), PTQ_OPTION_INT, "max_rank", max_rank, "largest rank; 0 = no limit",
             0, 254, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_INT, "window", window,
             "newest tokens kept in full precision", 0, 65536, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_INT, "sink", "0", "first tokens kept in full precision",
             0, 4096, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_BOOL, "center", ours,
             "take the mean row of a chunk off", 0, 0, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_BOOL, "pre_rope", ours, "encode keys before rotation",
             0, 0, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_BOOL, "shared_rank", study,
             "one rank for all heads of a chunk", 0, 0, nullptr},
            {sizeof(ptq_option), PTQ_OPTION_BOOL, "raw_fallback", ours,
             "store rows where factors are not smaller", 0, 0, nullptr}},
        list{&all[0], &all[1], &all[2], &all[3], &all[4],
             &all[5], &all[6], &all[7], &all[8], &all[9]} {}
};
const OptionSet kOurs("0", "0", "32", "true", "false");
const OptionSet kStudy("2", "32", "0", "false", "true");

class Factors {
 public:
  // current: the query's own chunk may be encoded before it is read, as in the study.
  Factors(const Options& o, bool current)
      : how_{sizeof(ptq_lowrank),
             (o.boolean("center") ? PTQ_LOWRANK_CENTER : 0) |
                 (o.boolean("shared_rank") ? PTQ_LOWRANK_SHARED : 0) |
                 (o.boolean("raw_fallback") ? PTQ_LOWRANK_RAW : 0),
             o.integer("chunk"),
             o.integer("min_rank"),
             o.integer("max_rank"),
             o.real("energy")},
        window_(o.integer("window")),
        sink_(o.integer("sink")),
        pre_rope_(o.boolean("pre_rope")),
        current_(current) {
    if (how_.max_rank != 0 && how_.max_rank < how_.min_rank)
      throw ptq::plugin::Invalid("max_rank = " + std::to_string(how_.max_rank) +
                                 " is below min_rank = " + std::to_string(how_.min_rank));
  }

  void policy(const ptq_kv_shape&, ptq_kv_policy& keys, ptq_kv_policy& values) const {
    for (ptq_kv_policy* p : {&keys, &values}) {
      p->sink = sink_;
      p->window = window_;
      p->block = how_.chunk;
      if (current_) set_flags(*p, PTQ_KV_CURRENT);
    }
    if (pre_rope_) keys.key_space = PTQ_PRE_ROPE;
  }
  void encode(const Call& call, const ptq_kv_block&, const ptq_tensor& x, ptq_encoding* out) {
    const std::vector<float> rows = ptq::plugin::copy_of(x);
    call.lowrank(ptq::plugin::tensor(rows.data(), {x.shape[0], x.shape[1], x.shape[2]}), how_, out);
  }

 private:
  ptq_lowrank how_;
  int64_t window_, sink_;
  bool pre_rope_, current_;
};

class Forge : public Factors {
 public:
  static constexpr About about = {"forge", "1.0.0",
                                  "KV cache: centred low-rank chunks, keys before rotation", ""};
  static std::span<const ptq_option* const> options() { return kOurs.list; }
  explicit Forge(const Options& o) : Factors(o, false) {}
};
class ForgeSeed : public Factors {
 public:
  static constexpr About about = {"forge_seed", "1.0.0",
                                  "KV cache: low-rank chunks as an earlier study defined them", ""};
  static std::span<const ptq_option* const> options() { return kStudy.list; }
  explicit ForgeSeed(const Options& o) : Factors(o, true) {}
};

}  // namespace

PTQ_PLUGIN("forge", "Apache-2.0", Forge, ForgeSeed)
