// results.csv and results.json: every number of a report.
#include "analysis/page/every_number.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "analysis/board/notes.hpp"
#include "analysis/decide/sentences.hpp"
#include "analysis/write/table.hpp"

namespace ptq::report {
namespace {

// One tidy long table: a line per number, so that a spreadsheet or pandas can pivot it.
void add_numbers(const std::string& prefix, const std::string& path, const Json& value,
                 std::string& out) {
  if (value.is_number()) {
    out += prefix + csv_field(path) + "," + value.dump() + "\n";
  } else if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      add_numbers(prefix, path.empty() ? key : path + "." + key, child, out);
    }
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) {
      add_numbers(prefix, path + "." + std::to_string(i), value[i], out);
    }
  }
}

// The columns before `metric,value`.
std::string csv_prefix(const Cell& cell) {
  std::string prefix;
  for (const std::string* field :
       {&cell.experiment, &cell.model, &cell.method, &cell.evaluation, &cell.kind}) {
    prefix += csv_field(*field) + ",";
  }
  return prefix + cell.status + ",";
}

void add_comparison_lines(const Comparison& c, const std::string& prefix, std::string& out) {
  const auto add = [&](const char* name, double value) {
    if (std::isfinite(value))
      out += prefix + "comparison." + name + "," + Json(value).dump() + "\n";
  };
  add("n", double(c.n));
  add(c.answers ? "delta_accuracy" : "delta_nll", c.delta);
  add("standard_error", c.standard_error);
  add("low95", c.interval.low);
  add("high95", c.interval.high);
  add("p", c.p_value);
  add("p_holm", c.p_holm);
  add("p_equivalence", c.p_equivalence);
  add("effective_n", c.effective_n);
  add("detectable", c.mde);
  add("margin", c.margin);
  if (c.needed > 0) add("needed", c.needed);
  if (!c.answers) return;
  add("mcnemar_exact", c.p.exact);
  add("lost", double(c.counts.lost));
  add("gained", double(c.counts.gained));
  add("flips", c.counts.flips());
}

Json comparison_json(const Comparison& c) {
  Json json = {{"n", c.n},
               {"unpaired", c.unpaired},
               {"measure", c.answers ? "accuracy" : "nll"},
               {"unit", c.answers     ? "answer"
                        : c.by_tokens ? "token"
                                      : "sample"},
               {"block", c.block},
               {"clusters", c.clusters},
               {"in_lock_step", c.in_lock_step},
               {"verdict", stats::verdict_key(c.verdict)},
               {"within_margin", c.within_margin},
               {"margin", c.margin},
               {"needed", c.needed > 0 ? Json(c.needed) : Json()}};
  put_number(json, "delta", c.delta);
  put_number(json, "standard_error", c.standard_error, "one sample has no spread");
  put_number(json, "low95", c.interval.low, "too few samples");
  put_number(json, "high95", c.interval.high, "too few samples");
  json["p"] = c.p_value;
  json["p_holm"] = c.p_holm;
  json["p_equivalence"] = c.p_equivalence;
  put_number(json, "effective_n", c.effective_n);
  put_number(json, "detectable", c.mde, "too few samples");
  if (c.answers) {
    json["mcnemar"] = {{"exact", c.p.exact}, {"mid", c.p.mid}};
    json["lost"] = c.counts.lost;
    json["gained"] = c.counts.gained;
    json["flips"] = c.counts.flips();
  }
  if (!c.problem.empty()) json["problem"] = c.problem;
  return json;
}

Json estimate_json(const Estimate& estimate) {
  Json json = Json::object();
  put_number(json, "value", estimate.value);
  put_number(json, "low95", estimate.interval.low, "too few tokens");
  put_number(json, "high95", estimate.interval.high, "too few tokens");
  return json;
}

Json parts_json(const std::vector<Fidelity::Part>& parts) {
  Json json = Json::array();
  for (const Fidelity::Part& part : parts) {
    json.push_back({{"name", part.name},
                    {"tokens", part.tokens},
                    {"kl", estimate_json(part.kl)},
                    {"top1", estimate_json(part.top1)}});
  }
  return json;
}

Json fidelity_json(const Fidelity& f) {
  Json json = {{"tokens", f.tokens},
               {"kl", estimate_json(f.kl)},
               {"kl_reverse", estimate_json(f.kl_reverse)},
               {"kl_median", estimate_json(f.kl_median)},
               {"kl_p90", estimate_json(f.kl_p90)},
               {"kl_p99", estimate_json(f.kl_p99)},
               {"kl_max", f.kl_max},
               {"ear", estimate_json(f.ear)},
               {"rms_delta_p", estimate_json(f.rms_delta_p)},
               {"top1", estimate_json(f.top1)},
               {"by_confidence", parts_json(f.by_confidence)},
               {"by_position", parts_json(f.by_position)},
               {"below_floor", f.below_floor},
               {"perplexity_unreliable", f.ppl_unreliable}};
  if (f.floor) json["floor"] = *f.floor;
  return json;
}

Json board_json(const Board& board) {
  Json rows = Json::array();
  for (const Row& row : board.rows) {
    Json evaluations = Json::object();
    for (const Evaluation& evaluation : board.evaluations) {
      const Cell* cell = row.cell(evaluation.name);
      if (!cell) continue;
      evaluations[evaluation.name] = {{"kind", cell->kind},       {"status", cell->status},
                                      {"error", cell->error},     {"metrics", cell->metrics},
                                      {"seconds", cell->seconds}, {"settings", cell->settings}};
    }
    rows.push_back({{"method", row.method},
                    {"lossless", row.lossless},
                    {"asked_for", row.asked},
                    {"evaluations", std::move(evaluations)}});
  }
  return {{"experiment", board.experiment},
          {"model", board.model},
          {"parameters", board.parameters},
          {"baseline", board.baseline() ? Json(board.baseline_name) : Json()},
          {"computed_with", provenance_of(board)},
          {"rows", std::move(rows)},
          {"notes", notes_of(board)},
          {"sentences", sentences_of(board)}};
}

// The comparisons of a board, row by row.
void add_comparisons(const Board& board, const BoardStatistics& statistics, Json& out) {
  for (const Row& row : board.rows) {
    for (const auto& [evaluation, cell] : row.cells) {
      const Comparison* comparison = statistics.of(cell);
      if (!comparison) continue;
      Json entry = {{"experiment", cell->experiment}, {"model", cell->model},
                    {"method", cell->method},         {"evaluation", evaluation},
                    {"against", board.reference()},   {"rank", statistics.rank(cell)}};
      entry.update(comparison_json(*comparison));
      if (const Fidelity* fidelity = statistics.fidelity_of(cell))
        entry["fidelity"] = fidelity_json(*fidelity);
      out.push_back(std::move(entry));
    }
  }
}

// What the first screen says, as figures. Damage is in nats, of answers the share that is lost.
Json decision_json(const Decision& decision) {
  Json models = Json::array();
  for (const Standings& standings : decision.models) {
    Json methods = Json::array();
    for (const Standing& s : standings.methods) {
      Json entry = {{"method", s.row->method}, {"rank", s.rank}, {"front", s.front}};
      if (s.bytes) entry["bytes"] = *s.bytes;
      if (s.damage) {
        put_number(entry, "damage", s.damage->value);
        put_number(entry, "low95", s.damage->interval.low, "no interval is known");
        put_number(entry, "high95", s.damage->interval.high, "no interval is known");
      }
      entry["below_floor"] = s.below_floor;
      methods.push_back(std::move(entry));
    }
    constexpr const char* kDamage[] = {"kl", "loss", "answers"};
    constexpr const char* kBytes[] = {"cache_per_token", "weights", "weights_and_cache"};
    Json entry = {{"model", standings.board->model},
                  {"evaluation", standings.evaluation ? Json(standings.evaluation->name) : Json()},
                  {"damage", kDamage[size_t(standings.damage)]},
                  {"bytes", kBytes[size_t(standings.bytes)]},
                  {"sentence", verdict_sentence(standings, Language::en)},
                  {"methods", std::move(methods)}};
    if (standings.floor) entry["noise_floor"] = *standings.floor;
    models.push_back(std::move(entry));
  }
  return {{"experiment", decision.experiment},
          {"models", std::move(models)},
          {"not_concluded", not_concluded(decision, Language::en)}};
}

}  // namespace

std::string csv_page(const Report& report) {
  std::string out = "experiment,model,method,evaluation,kind,status,metric,value\n";
  for (const Cell& cell : report.results.cells) {
    const std::string prefix = csv_prefix(cell);
    add_numbers(prefix, "", cell.metrics, out);
    out += prefix + "seconds," + Json(cell.seconds).dump() + "\n";
  }
  for (const BoardStatistics& statistics : report.statistics) {
    for (const auto& [cell, comparison] : statistics.comparisons) {
      add_comparison_lines(comparison, csv_prefix(*cell), out);
    }
  }
  return with_byte_order_mark(out);
}

std::string json_page(const Report& report) {
  Json out;
  out["schema_version"] = 1;
  out["boards"] = Json::array();
  for (const Board& board : report.boards) out["boards"].push_back(board_json(board));
  out["damaged"] = Json::array();
  for (const Damaged& file : report.results.damaged) {
    out["damaged"].push_back({{"file", file.file}, {"reason", file.reason}});
  }
  out["decisions"] = Json::array();
  for (const Decision& decision : report.decisions)
    out["decisions"].push_back(decision_json(decision));
  out["comparisons"] = Json::array();
  for (size_t b = 0; b < report.boards.size(); ++b)
    add_comparisons(report.boards[b], report.statistics[b], out["comparisons"]);
  if (!report.pruning.empty())
    out["cross_model_comparison"] = cross_model_comparison(report.pruning);
  out["notes"] = report.results.notes;
  if (!report.plot_problem.empty()) out["plots"] = report.plot_problem;
  return json_text(out, 2) + "\n";
}

}  // namespace ptq::report
