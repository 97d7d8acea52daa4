#include <fmt/format.h>

#include <algorithm>

#include "analysis/board/notes.hpp"
#include "analysis/decide/sentences.hpp"
#include "analysis/decide/table.hpp"
#include "analysis/decide/texts.hpp"
#include "analysis/export/export.hpp"

namespace ptq::report {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (std::string_view("&%$#_{}").find(c) != std::string_view::npos) {
      out += std::string("\\") + c;
    } else if (c == '\\') {
      out += "\\textbackslash{}";
    } else if (c == '~') {
      out += "\\textasciitilde{}";
    } else if (c == '^') {
      out += "\\textasciicircum{}";
    } else if (text.compare(i, 3, "≤") == 0) {
      out += "$\\leq$";
      i += 2;
    } else {
      out += c;
    }
  }
  return out;
}

// "0.031 [0.028, 0.034]": the interval in small.
std::string with_small_interval(const std::string& text) {
  const size_t at = text.find(" [");
  if (at == text.npos) return escaped(text);
  return escaped(text.substr(0, at)) + " {\\scriptsize " + escaped(text.substr(at + 1)) + "}";
}

// Damage and paired change of a method on a model: two cells of the table.
std::string model_cells(const Standings& standings, const std::string& method) {
  const Standing* s = standings.of(method);
  if (!s || !s->damage) return " & -- & --";
  std::string damage = with_small_interval(damage_text(*s->damage, standings.damage, Language::en));
  if (s->rank == 1) damage = "\\textbf{" + damage + "}";
  if (s->below_floor) damage += "$^{\\dagger}$";
  const Comparison* c = standings.statistics->of(s->cell);
  return " & " + damage + " & " +
         (c && c->n > 0 ? with_small_interval(change_text(*c, Language::en)) : "--");
}

std::string bytes_in_tex(const Decision& decision, const std::string& method) {
  for (const Standings& standings : decision.models) {
    const Standing* s = standings.of(method);
    if (s && s->bytes) return number_text(*s->bytes, standings.bytes);
    const Cell* baseline = standings.baseline();
    if (baseline && baseline->method == method)
      if (const auto bytes = bytes_of(*baseline, standings.bytes))
        return number_text(*bytes, standings.bytes);
  }
  return "--";
}

std::string caption_of(const Decision& decision) {
  const Standings& first = decision.models.front();
  std::string out = escaped(decision.experiment) + ". ";
  if (first.damage == Damage::divergence)
    out += "KL divergence from full precision (nats per token) ";
  out +=
      "on " + escaped(first.evaluation ? first.evaluation->name : "") +
      " and paired change against " + escaped(first.board->reference()) +
      ", with 95\\,\\% intervals. Bold: not separable from the least damage. $^{\\dagger}$: below "
      "the noise floor.";
  for (const std::string& line : provenance_of(*first.board)) {
    out += " " + escaped(line) + ".";
    break;
  }
  return out;
}

std::string table_of(const Decision& decision) {
  std::string out = "\\begin{table}[t]\n\\centering\\small\n\\caption{" + caption_of(decision) +
                    "}\n\\begin{tabular}{lr" + std::string(2 * decision.models.size(), 'r') +
                    "}\n\\toprule\n & ";
  size_t column = 3;
  std::string rules;
  for (const Standings& standings : decision.models) {
    out += "& \\multicolumn{2}{c}{" + escaped(standings.board->model) + "} ";
    rules += fmt::format("\\cmidrule(lr){{{}-{}}}", column, column + 1);
    column += 2;
  }
  out += "\\\\\n" + rules + "\nMethod & " +
         (decision.models.front().bytes == Bytes::cache ? "B/token" : "MiB");
  for (const Standings& standings : decision.models)
    out += std::string(" & ") + (standings.damage == Damage::divergence ? "KL" : "damage") +
           " & change";
  out += " \\\\\n\\midrule\n";
  for (const std::string& method : decision.methods) {
    out += escaped(method) + " & " + bytes_in_tex(decision, method);
    for (const Standings& standings : decision.models) out += model_cells(standings, method);
    out += " \\\\\n";
  }
  return out + "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
}

}  // namespace

std::string latex(const Report& report) {
  std::string out = "% \\usepackage{booktabs}\n";
  for (const Decision& decision : report.decisions)
    if (!decision.models.empty()) out += table_of(decision);
  return out;
}

}  // namespace ptq::report
