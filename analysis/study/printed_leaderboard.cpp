// What the study's document printed: the tables of all boards and the environments.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/study/leaderboard.hpp"
#include "analysis/write/numbers.hpp"
#include "analysis/write/python_text.hpp"
#include "analysis/write/table.hpp"

namespace ptq::report {
namespace {

const char* const kNone = "—";

struct Texts {
  const char *rank, *method, *average, *ppl_loss, *acc_loss, *time, *tasks_title, *task,
      *fields_title, *field, *passkey_title, *depth, *total, *all_methods, *generation_title,
      *sample, *environment, *item, *version;
};
constexpr Texts kChineseTexts = {"排名",
                                 "方法",
                                 "Avg Accuracy ↑",
                                 "PPL 退化",
                                 "Acc 退化",
                                 "量化耗时",
                                 "核心任务",
                                 "任务",
                                 "MMLU 细分领域",
                                 "领域",
                                 "Passkey Retrieval 详细结果 (按深度)",
                                 "深度",
                                 "总计",
                                 "所有方法",
                                 "Generation PPL 详细结果 (逐样本)",
                                 "样本",
                                 "环境信息",
                                 "项目",
                                 "版本"};
constexpr Texts kEnglishTexts = {"Rank",
                                 "Method",
                                 "Avg Accuracy ↑",
                                 "PPL loss",
                                 "Acc loss",
                                 "Quantization",
                                 "Core tasks",
                                 "Task",
                                 "Fields of MMLU",
                                 "Field",
                                 "Passkey retrieval by depth",
                                 "Depth",
                                 "Total",
                                 "All methods",
                                 "Generation PPL by sample",
                                 "Sample",
                                 "Environment",
                                 "Item",
                                 "Version"};

std::string bold(const std::string& text) { return "**" + text + "**"; }
std::string fixed_or(const std::optional<double>& value, int decimals) {
  return value ? python::fixed(*value, decimals) : kNone;
}

std::string percent(const std::optional<double>& share) {
  return share ? python::fixed(100 * *share, 0) + "%" : kNone;
}

// Ranks by the first perplexity as printed: equal digits share a rank.
std::vector<int> printed_ranks(const StudyBoard& board) {
  std::vector<int> ranks;
  for (const BoardRow& row : board.rows) {
    int rank = 1;
    if (row.empty()) {
      ranks.push_back(0);
      continue;
    }
    const auto value = [&](const BoardRow& r) -> double {
      if (r.empty() || board.layout->ppl.empty()) return HUGE_VAL;
      const auto number = r.ppl->number("results/ppl/" + board.layout->ppl[0].key + "/ppl");
      return number ? std::round(*number * 100) : HUGE_VAL;
    };
    for (const BoardRow& other : board.rows) rank += value(other) < value(row);
    ranks.push_back(rank);
  }
  return ranks;
}

std::string medal(int rank) {
  switch (rank) {
    case 0: return "⛔";
    case 1: return "🥇";
    case 2: return "🥈";
    case 3: return "🥉";
    default: return std::to_string(rank);
  }
}

class Compat {
 public:
  Compat(const Layout& layout, const std::vector<Run>& runs, const Texts& texts)
      : layout_(layout), boards_(join(layout, runs)), w_(texts) {}

  std::string render() {
    out_ = "# PTQ Benchmark Leaderboard\n";
    std::vector<std::string> tracks;
    for (const StudyBoard& board : boards_) {
      if (std::find(tracks.begin(), tracks.end(), board.layout->track) == tracks.end()) {
        tracks.push_back(board.layout->track);
      }
    }
    for (const std::string& track : tracks) {
      std::vector<const StudyBoard*> boards;
      for (const StudyBoard& board : boards_) {
        if (board.layout->track == track) boards.push_back(&board);
      }
      out_ += "\n---\n\n## Track " + track + "\n";
      const bool cache = track == "C";
      for (const StudyBoard* board : boards) cache ? cache_board(*board) : weight_board(*board);
      passkeys(boards);
      generations(boards);
      environment(track, boards);
    }
    return std::move(out_);
  }

 private:
  void heading(const std::string& text) { out_ += "\n### " + text + "\n\n"; }
  void row(const std::vector<std::string>& cells) {
    for (const std::string& cell : cells) out_ += "| " + cell + " ";
    out_ += "|\n";
  }
  void rule(const std::vector<std::string>& cells) {
    for (const std::string& cell : cells) out_ += "|" + cell;
    out_ += "|\n";
  }

  // Weights: perplexity and accuracy with their losses, peak memory, time of the quantization.
  void weight_board(const StudyBoard& board) {
    heading(board.layout->title);
    std::vector<std::string> head = {w_.rank, w_.method};
    for (const auto& column : board.layout->ppl) head.push_back("PPL (" + column.head + ") ↓");
    head.insert(head.end(), {w_.average, w_.ppl_loss, w_.acc_loss, "VRAM (MB)", w_.time});
    row(head);
    std::vector<std::string> dashes = {":----:", "------"};
    for (size_t i = 0; i < board.layout->ppl.size(); ++i) dashes.push_back(":-------------------:");
    dashes.insert(dashes.end(),
                  {":--------------:", ":--------:", ":--------:", ":---------:", ":--------:"});
    rule(dashes);
    const std::vector<int> ranks = printed_ranks(board);
    const BoardRow* baseline = board.baseline();
    for (size_t r = 0; r < board.rows.size(); ++r) {
      const BoardRow& line = board.rows[r];
      std::vector<std::string> cells = {medal(ranks[r]), line.label};
      if (line.empty()) {
        cells.resize(head.size(), kNone);
        row(cells);
        continue;
      }
      const bool first = &line == baseline;
      for (const auto& column : board.layout->ppl) {
        cells.push_back(bold(fixed_or(line.ppl->number("results/ppl/" + column.key + "/ppl"), 2)));
      }
      const auto average = average_of(line);
      cells.push_back(average ? bold(python::fixed(*average, 4)) : kNone);
      cells.push_back(
          first || !baseline ? kNone : difference(ppl_of(board, line), ppl_of(board, *baseline)));
      cells.push_back(first || !baseline ? kNone : points(average, average_of(*baseline)));
      cells.push_back(vram(line));
      const auto seconds = line.ppl->number("results/quant_time_seconds");
      cells.push_back(first || !seconds ? kNone : python::fixed(*seconds, 1) + "s");
      row(cells);
    }
    tasks(board);
    fields(board);
  }

  // Caches: two perplexities, accuracy, passkeys, generation.
  void cache_board(const StudyBoard& board) {
    heading(board.layout->title);
    std::vector<std::string> head = {w_.rank, w_.method};
    for (const auto& column : board.layout->ppl) head.push_back("PPL (" + column.head + ") ↓");
    head.insert(head.end(), {"Avg Acc ↑", "Passkey Acc ↑", "Gen PPL ↓", "VRAM"});
    row(head);
    std::vector<std::string> dashes = {":----:", "------"};
    for (size_t i = 0; i < board.layout->ppl.size(); ++i) dashes.push_back(":-----:");
    dashes.insert(dashes.end(), {":---------:", ":-----:", ":-----:", ":----:"});
    rule(dashes);
    const std::vector<int> ranks = printed_ranks(board);
    for (size_t r = 0; r < board.rows.size(); ++r) {
      const BoardRow& line = board.rows[r];
      std::vector<std::string> cells = {medal(ranks[r]), line.label};
      if (line.empty()) {
        cells.resize(head.size(), kNone);
        row(cells);
        continue;
      }
      for (const auto& column : board.layout->ppl) {
        cells.push_back(fixed_or(line.ppl->number("results/ppl/" + column.key + "/ppl"), 2));
      }
      const auto average = average_of(line);
      cells.push_back(average ? bold(python::fixed(*average, 4)) : kNone);
      const auto passkey =
          line.passkey ? line.passkey->number("results/kv_stress_test/passkey_retrieval/accuracy")
                       : std::nullopt;
      cells.push_back(passkey ? bold(percent(passkey)) : kNone);
      const auto ppl = generation_mean(line);
      cells.push_back(ppl ? bold(python::fixed(*ppl, 2)) : kNone);
      cells.push_back(vram(line));
      row(cells);
    }
  }

  static std::optional<double> ppl_of(const StudyBoard& board, const BoardRow& line) {
    if (board.layout->ppl.empty()) return {};
    return line.ppl->number("results/ppl/" + board.layout->ppl[0].key + "/ppl");
  }
  static std::optional<double> average_of(const BoardRow& line) {
    if (!line.tasks) return {};
    const auto stored = line.tasks->number("results/lm_eval/_avg_accuracy");
    return stored ? stored : line.tasks->average_accuracy();
  }
  static std::optional<double> generation_mean(const BoardRow& line) {
    if (!line.generation) return {};
    return line.generation->number("results/kv_stress_test/generation_ppl/gen_ppl");
  }
  static std::string vram(const BoardRow& line) {
    const auto megabytes =
        line.vram ? line.vram->number("results/system_metrics/vram_peak_mb") : std::nullopt;
    return megabytes ? python::thousands(*megabytes) : kNone;
  }
  static std::string difference(const std::optional<double>& a, const std::optional<double>& b) {
    return a && b ? fmt::format("{:+.2f}", *a - *b) : kNone;
  }
  // The study writes percentage points with a percent sign.
  static std::string points(const std::optional<double>& a, const std::optional<double>& b) {
    return a && b ? fmt::format("{:+.2f}%", 100 * (*a - *b)) : kNone;
  }

  void tasks(const StudyBoard& board) {
    if (board.layout->tasks.empty()) return;
    heading(fmt::format("{} ({} tasks)", w_.tasks_title, board.layout->tasks.size()));
    std::vector<std::string> head = {w_.task}, dashes = {"------"};
    for (const BoardRow& line : board.rows) {
      if (line.empty() || !line.tasks) continue;
      const std::string name = layout_.name(line.method);
      head.push_back(name);
      dashes.push_back(":" + std::string(std::max<size_t>(name.size(), 3), '-') + ":");
      if (&line == board.baseline()) continue;
      head.push_back(name + " Δ");
      dashes.push_back(":-----:");
    }
    if (dashes.size() > 2) dashes[1] = ":----:";
    row(head);
    rule(dashes);
    for (const Layout::Task& task : board.layout->tasks) {
      std::vector<std::string> cells = {bold(task.name) + " (" + task.head + ")"};
      for (const BoardRow& line : board.rows) {
        if (line.empty() || !line.tasks) continue;
        const auto value = line.tasks->accuracy(task.task, task.metric);
        cells.push_back(fixed_or(value, 4));
        if (&line == board.baseline()) continue;
        const BoardRow* baseline = board.baseline();
        cells.push_back(baseline && baseline->tasks
                            ? points(value, baseline->tasks->accuracy(task.task, task.metric))
                            : kNone);
      }
      row(cells);
    }
  }

  void fields(const StudyBoard& board) {
    if (board.layout->fields.empty()) return;
    heading(w_.fields_title);
    std::vector<std::string> head = {w_.field}, dashes = {"------"};
    for (const BoardRow& line : board.rows) {
      if (line.empty() || !line.tasks) continue;
      head.push_back(layout_.name(line.method));
      dashes.push_back(":" + std::string(std::max<size_t>(head.back().size(), 3), '-') + ":");
    }
    if (dashes.size() > 1) dashes[1] = ":----:";
    row(head);
    rule(dashes);
    for (const Layout::Task& field : board.layout->fields) {
      std::vector<std::string> cells = {field.name};
      for (const BoardRow& line : board.rows) {
        if (line.empty() || !line.tasks) continue;
        cells.push_back(fixed_or(line.tasks->accuracy(field.task, field.metric), 4));
      }
      row(cells);
    }
  }

  // k/n by depth; one line for a model all of whose methods agree.
  void passkeys(const std::vector<const StudyBoard*>& boards) {
    std::vector<std::string> depths;
    for (const StudyBoard* board : boards) {
      for (const BoardRow& line : board->rows) {
        if (!line.passkey) continue;
        const Json& by_depth =
            line.passkey->at("results/kv_stress_test/passkey_retrieval/depth_accuracy");
        for (const auto& [depth, share] : by_depth.items()) {
          if (std::find(depths.begin(), depths.end(), depth) == depths.end()) {
            depths.push_back(depth);
          }
        }
      }
    }
    if (depths.empty()) return;
    heading(w_.passkey_title);
    std::vector<std::string> head = {w_.method}, dashes = {"------"};
    for (const std::string& depth : depths) {
      head.push_back(fmt::format("{} {:.0f}%", w_.depth, 100 * std::stod(depth)));
      dashes.push_back(":--------:");
    }
    head.push_back(w_.total);
    dashes.push_back(":----:");
    row(head);
    rule(dashes);
    for (const StudyBoard* board : boards) {
      std::vector<std::vector<std::string>> lines;
      std::vector<std::string> names;
      for (const BoardRow& line : board->rows) {
        if (!line.passkey) continue;
        lines.push_back(depth_cells(*line.passkey, depths));
        names.push_back(layout_.name(line.method));
      }
      if (lines.empty()) continue;
      const std::string model = layout_.name(board->layout->model);
      const bool equal =
          lines.size() > 1 && std::all_of(lines.begin(), lines.end(),
                                          [&](const auto& cells) { return cells == lines[0]; });
      for (size_t i = 0; i < (equal ? 1 : lines.size()); ++i) {
        lines[i].insert(lines[i].begin(),
                        bold((equal ? w_.all_methods : names[i]) + " (" + model + ")"));
        row(lines[i]);
      }
    }
  }

  static std::vector<std::string> depth_cells(const Run& run,
                                              const std::vector<std::string>& depths) {
    const std::string base = "results/kv_stress_test/passkey_retrieval/";
    const Json& by_depth = run.at(base + "depth_accuracy");
    const auto keys = run.number(base + "num_keys");
    std::vector<std::string> cells;
    for (const std::string& depth : depths) {
      const auto found = by_depth.find(depth);
      cells.push_back(found == by_depth.end() || !found->is_number() || !keys
                          ? kNone
                          : fmt::format("{:.0f}/{:.0f}", found->get<double>() * *keys, *keys));
    }
    const auto correct = run.number(base + "total_correct"),
               total = run.number(base + "total_tests");
    cells.push_back(correct && total ? bold(fmt::format("{:.0f}/{:.0f}", *correct, *total))
                                     : kNone);
    return cells;
  }

  void generations(const std::vector<const StudyBoard*>& boards) {
    struct Column {
      std::string name;
      std::vector<double> values;
      std::optional<double> mean;
    };
    std::vector<Column> columns;
    size_t samples = 0;
    for (const StudyBoard* board : boards) {
      for (const BoardRow& line : board->rows) {
        if (!line.generation || !generation_mean(line)) continue;
        columns.push_back({layout_.name(board->layout->model) + " " + layout_.name(line.method),
                           generation_ppls(*line.generation), generation_mean(line)});
        samples = std::max(samples, columns.back().values.size());
      }
    }
    if (columns.empty()) return;
    heading(w_.generation_title);
    std::vector<std::string> head = {w_.sample}, dashes = {":----:"};
    for (const Column& column : columns) {
      head.push_back(column.name);
      dashes.push_back(":" + std::string(column.name.size(), '-') + ":");
    }
    row(head);
    rule(dashes);
    for (size_t i = 0; i < samples; ++i) {
      std::vector<std::string> cells = {std::to_string(i)};
      for (const Column& column : columns) {
        cells.push_back(i < column.values.size() ? python::fixed(column.values[i], 2) : kNone);
      }
      row(cells);
    }
    std::vector<std::string> cells = {bold("Avg")};
    for (const Column& column : columns) cells.push_back(bold(fixed_or(column.mean, 2)));
    row(cells);
  }

  void environment(const std::string& track, const std::vector<const StudyBoard*>& boards) {
    const Run* run = nullptr;
    for (const StudyBoard* board : boards) {
      for (const BoardRow& line : board->rows) {
        if (!run && !line.empty()) run = line.ppl;
      }
    }
    if (!run) return;
    std::vector<std::vector<std::string>> rows;
    for (const Layout::Environment& item : layout_.environment) {
      if (!item.only.empty() && item.only != track) continue;
      const auto stated = item.stated.find(track);
      std::string value =
          stated != item.stated.end() ? stated->second : environment_value(*run, item.path);
      if (!value.empty()) rows.push_back({item.name, value + item.suffix});
    }
    if (rows.empty()) return;
    heading(w_.environment);
    row({w_.item, w_.version});
    rule({"------", "------"});
    for (const auto& cells : rows) row(cells);
  }

  const Layout& layout_;
  std::vector<StudyBoard> boards_;
  const Texts& w_;
  std::string out_;
};

}  // namespace

std::string compat_leaderboard(const Layout& layout, const std::vector<Run>& runs,
                               Language language) {
  return Compat(layout, runs, language == Language::zh ? kChineseTexts : kEnglishTexts).render();
}

}  // namespace ptq::report
