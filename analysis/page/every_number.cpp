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
               {"in_lock_step", c.in_lock_step}};
  put_number(json, "delta", c.delta);
  put_number(json, "standard_error", c.standard_error, "one sample has no spread");
  put_number(json, "low95", c.interval.low, "too few samples");
  put_number(json, "high95", c.interval.high, "too few samples");
  json["p"] = c.p_value;
  json["p_holm"] = c.p_holm;
  if (c.answers) {
    json["mcnemar"] = {{"exact", c.p.exact}, {"mid", c.p.mid}};
    json["lost"] = c.counts.lost;
    json["gained"] = c.counts.gained;
    json["flips"] = c.counts.flips();
  }
  if (!c.problem.empty()) json["problem"] = c.problem;
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
