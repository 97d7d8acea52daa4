// FORGE: chunks of keys and values by their truncated singular value decomposition.
//
// X [chunk, head_dim] = P Q with the smallest rank that keeps a share `energy` of sum(sigma^2); the
// relative error is sqrt(1 - energy): 0.95 allows 22 %. The only source is the study that named it
// ("Fast On-chip Reconstruction of Generative Embeddings"); there is no paper. Two methods:
//   forge_study  the study's definition: rotated keys, no window, one rank for all heads, clamped
//                to 2 .. 32, factors stored even where they take more room than the rows
//   forge        ours: a chunk's mean row is taken off first, so that energy is measured on what
//                tells tokens apart (where all keys share a large vector, rank 1 holds 95 % of the
//                energy and every key becomes that vector); keys before rotation; a window; rank
//                per head; rows are stored as they are where factors take no less
#include "ptq/plugin.hpp"
#include "ptq/plugin_math.hpp"

namespace {

using ptq::plugin::About;
using ptq::plugin::Call;
using ptq::plugin::Options;
using ptq::plugin::set_flags;

// The defaults that differ between the two methods. min_rank: a chunk of zeros has rank 0 all the
// same; max_rank 0: no limit.
struct Defaults {
  int64_t min_rank, max_rank, window;
  bool center, pre_rope, shared_rank, raw_fallback;
  bool current;  // no option: the query's own chunk may be encoded before it is read
};
constexpr Defaults kOurs = {.min_rank = 0,
                            .max_rank = 0,
                            .window = 32,
                            .center = true,
                            .pre_rope = true,
                            .shared_rank = false,
                            .raw_fallback = true,
                            .current = false};
constexpr Defaults kStudy = {.min_rank = 2,
                             .max_rank = 32,
                             .window = 0,
                             .center = false,
                             .pre_rope = false,
                             .shared_rank = true,
                             .raw_fallback = false,
                             .current = true};

class Factors {
 public:
  Factors(Options& o, const Defaults& d)
      : how_{sizeof(ptq_lowrank), 0, 16, d.min_rank, d.max_rank, 0.95},
        window_(d.window),
        pre_rope_(d.pre_rope),
        current_(d.current) {
    bool center = d.center, shared_rank = d.shared_rank, raw_fallback = d.raw_fallback;
    o.integer("chunk", how_.chunk, "rows factorised together").between(2, 256);
    o.number("energy", how_.energy, "share of squared singular values that is kept")
        .between(0.01, 1);
    o.integer("min_rank", how_.min_rank, "smallest rank").between(0, 254);
    o.integer("max_rank", how_.max_rank, "largest rank; 0 = no limit").between(0, 254);
    o.integer("window", window_, "newest tokens kept in full precision").between(0, 65536);
    o.integer("sink", sink_, "first tokens kept in full precision").between(0, 4096);
    o.flag("center", center, "take the mean row of a chunk off");
    o.flag("pre_rope", pre_rope_, "encode keys before rotation");
    o.flag("shared_rank", shared_rank, "one rank for all heads of a chunk");
    o.flag("raw_fallback", raw_fallback, "store rows where factors are not smaller");

    how_.flags = (center ? PTQ_LOWRANK_CENTER : 0) | (shared_rank ? PTQ_LOWRANK_SHARED : 0) |
                 (raw_fallback ? PTQ_LOWRANK_RAW : 0);
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
  int64_t window_, sink_ = 0;
  bool pre_rope_, current_;
};

class Forge : public Factors {
 public:
  static constexpr About about = {"forge", "1.0.0",
                                  "KV cache: centred low-rank chunks, keys before rotation", ""};
  explicit Forge(Options& o) : Factors(o, kOurs) {}
};
class ForgeStudy : public Factors {
 public:
  static constexpr About about = {"forge_study", "1.0.0",
                                  "KV cache: low-rank chunks as an earlier study defined them", ""};
  explicit ForgeStudy(Options& o) : Factors(o, kStudy) {}
};

}  // namespace

PTQ_PLUGIN("forge", "Apache-2.0", Forge, ForgeStudy)
