#include "host/runner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <thread>

#include "host/cell_failure.hpp"
#include "host/machine.hpp"
#include "ptq/core/clock.hpp"
#include "ptq/results/claims.hpp"
#include "ptq/run/cell_error.hpp"
#include "ptq/run/cell_job.hpp"
#include "ptq/run/progress.hpp"
#include "ptq/run/supervise.hpp"

namespace ptq {
namespace fs = std::filesystem;
namespace {

struct Running {
  Cell cell;
  fs::path attempt;
  std::unique_ptr<Child> child;
  bool keeps_reference = false;  // for other cells; has no result of its own
};

// The reference's logits or scores of one model and evaluation, for all methods that are held
// against them.
struct KeptReference {
  enum class State { wanted, in_work, there, none };
  State state = State::none;
  fs::path folder;

  std::string file() const { return (folder / "reference").string(); }
};

class Runner {
 public:
  Runner(const Plan& plan, const Store& store, const RunSettings& settings)
      : plan_(plan),
        store_(store),
        settings_(settings),
        line_(settings.quiet),
        claims_(store.folder(), Store::host()) {}

  RunSummary run(const std::vector<Cell>& cells) {
    claims_.sweep();
    keep_finished(cells);
    plan_references();
    while (!running_.empty() || (!waiting_.empty() && !summary_.interrupted)) {
      while (!summary_.interrupted && running_.size() < size_t(settings_.jobs) && start_next()) {
      }
      claims_.renew();
      std::vector<pollfd> pipes;
      for (const Running& cell : running_) cell.child->add_pipes(pipes);
      wait_for_output(pipes, 100);
      const bool late = settings_.max_seconds > 0 && clock_.seconds() > settings_.max_seconds;
      if (stop_signal != 0 || late) {
        summary_.interrupted = true;
        for (const Running& cell : running_) cell.child->stop();
      }
      for (auto cell = running_.begin(); cell != running_.end();) {
        cell->child->service();
        if (cell->child->end()) {
          const std::string group = group_of(cell->cell);
          if (cell->keeps_reference) {
            finish_reference(*cell);
          } else {
            costing_one_cell(cell->cell, [&] { finish(*cell); });
            claims_.release(cell->cell.id);
          }
          cell = running_.erase(cell);
          forget_reference(group);
        } else {
          ++cell;
        }
      }
      show();
    }
    for (const auto& [group, reference] : references_)
      if (!reference.folder.empty())
        store_.discard(reference.folder);  // where a run is interrupted
    return summary_;
  }

 private:
  // A file that cannot be written costs the cell that it belongs to; the others go on.
  template <class Work>
  void costing_one_cell(const Cell& cell, const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      ++summary_.failed;
      line_.say(
          fmt::format("[{:>{}}/{}] FAILED {}: {}\n    {}", done(), std::to_string(total_).size(),
                      total_, cell_name(plan_.grid, cell), error.message(), error.where()),
          true);
    }
  }

  void keep_finished(const std::vector<Cell>& cells) {
    total_ = cells.size();
    for (const Cell& cell : cells) {
      const auto status = settings_.fresh ? std::nullopt : store_.status(cell.place, cell.id);
      if (!status) {
        waiting_.push_back(cell);
        old_failures_[cell.id] = store_.failure_text(cell.id);
        continue;
      }
      store_.restore(cell.place, cell.id);
      store_.forget_attempts(cell.id);
      ++summary_.kept;
      if (status->experiment != plan_.experiment.name) ++summary_.kept_of[status->experiment];
      if (*status == "invalid") {
        ++summary_.invalid;
        line_.say("invalid  " + cell_name(plan_.grid, cell) + " (see result.md in " +
                      (store_.folder() / (cell.place + "__" + cell.id)).string() + ")",
                  true);
      }
    }
  }

  // What all methods of one model and evaluation share.
  std::string group_of(const Cell& cell) const {
    return std::to_string(cell.model) + "-" + std::to_string(cell.evaluation);
  }
  bool has_reference(const Cell& cell) const {
    return !plan_.grid.methods[cell.method].record.lossless;
  }
  bool keeps_scores(const Cell& cell) const {
    return eval::keeps_of(plan_.grid.evaluations[cell.evaluation].settings) == eval::Keeps::scores;
  }

  // One pass of the reference serves several cells; for a single one it would be wasted.
  void plan_references() {
    std::map<std::string, int> cells;
    for (const Cell& cell : waiting_) cells[group_of(cell)] += has_reference(cell);
    for (const auto& [group, count] : cells) {
      if (count > 1 && plan_.experiment.limits.kept_mib > 0)
        references_[group].state = KeptReference::State::wanted;
    }
  }

  // Starts the next cell whose reference is not in work, or the pass of that reference. False where
  // there is nothing to start now.
  bool start_next() {
    using State = KeptReference::State;
    for (auto place = waiting_.begin(); place != waiting_.end(); ++place) {
      const Cell cell = *place;
      if (const auto now = look(cell); now != Look::free) {
        if (now == Look::claimed) continue;
        waiting_.erase(place);
        return true;
      }
      KeptReference& reference = references_[group_of(cell)];
      if (has_reference(cell) && reference.state == State::in_work) continue;
      if (has_reference(cell) && reference.state == State::wanted) {
        start_reference(cell, reference);
        return true;
      }
      waiting_.erase(place);
      costing_one_cell(cell, [&] { start(cell); });
      if (running_.empty() || running_.back().cell.id != cell.id) claims_.release(cell.id);
      return true;
    }
    return false;
  }

  enum class Look { free, claimed, done };

  // Whether a cell is still to be computed, and by us: then it is claimed for us. Cells of others
  // are looked at every few seconds.
  Look look(const Cell& cell) {
    constexpr double kBetweenLooks = 2;
    const auto seen = claimed_.find(cell.id);
    if (seen != claimed_.end() && clock_.seconds() - seen->second < kBetweenLooks)
      return Look::claimed;
    if (finished_elsewhere(cell)) return Look::done;
    std::string owner;
    try {
      owner = claims_.take(cell.id);
    } catch (
        const Error&) {  // a claim only saves work; what is wrong with the folder stops the cell
    }
    if (owner.empty()) {
      // Whoever had the claim before us may have ended the cell since we looked.
      if (!finished_elsewhere(cell) && !failed_elsewhere(cell)) return Look::free;
      claims_.release(cell.id);
      return Look::done;
    }
    if (seen == claimed_.end())
      line_.say(cell_name(plan_.grid, cell) + " is being computed by " + owner);
    claimed_[cell.id] = clock_.seconds();
    return Look::claimed;
  }

  bool finished_elsewhere(const Cell& cell) {
    if (settings_.fresh || !store_.status(cell.place, cell.id)) return false;
    store_.restore(cell.place, cell.id);
    ++summary_.kept;
    ++summary_.elsewhere;
    return true;
  }

  // Has another process tried the cell since we began, and failed for a reason that holds here,
  // too?
  bool failed_elsewhere(const Cell& cell) {
    const std::string text = store_.failure_text(cell.id);
    if (text.empty() || text == old_failures_[cell.id]) return false;
    Record record;
    try {
      record = record_from_json(parse_json(text, cell.id), cell.id);
    } catch (const Error&) {
      return false;
    }
    if (!record.error || may_succeed_elsewhere(record.error->code)) return false;
    ++summary_.failed;
    line_.say(fmt::format("[{:>{}}/{}] FAILED {}, in another process: {}", done(),
                          std::to_string(total_).size(), total_, cell_name(plan_.grid, cell),
                          record.error->message),
              true);
    return true;
  }

  // Where this fails, each cell computes the reference itself, and says what is wrong.
  void start_reference(const Cell& cell, KeptReference& reference) {
    reference.state = KeptReference::State::none;
    try {
      reference.folder = store_.new_attempt("reference-" + group_of(cell));
      Running running{cell, reference.folder, nullptr, true};
      CellJob job = new_job(running);
      job.record.method = {"reference", true, {}};
      job.subject.plugin_files.clear();
      job.kept_reference = absolute_path(fs::path(reference.file())).string();
      job.kept_limit = uint64_t(plan_.experiment.limits.kept_mib * double(1 << 20));
      // Methods of the other tracks change what the prompts are.
      if (plan_.experiment.track == "C")
        job.prompts_limit = uint64_t(plan_.experiment.limits.prompts_mib * double(1 << 20));
      launch(job, std::move(running));
      reference.state = KeptReference::State::in_work;
    } catch (const Error&) {
      store_.discard(reference.folder);
    }
  }

  void finish_reference(const Running& running) {
    KeptReference& reference = references_[group_of(running.cell)];
    const ChildEnd& end = *running.child->end();
    const bool good = end.how == ChildEnd::How::exited && end.code == 0;
    reference.state = good ? KeptReference::State::there : KeptReference::State::none;
    if (good) return;
    store_.discard(reference.folder);
    if (!summary_.interrupted)
      line_.say("note: nothing was kept of the reference of " +
                plan_.grid.models[running.cell.model].record.name + " and " +
                plan_.grid.evaluations[running.cell.evaluation].name +
                "; each cell computes its own");
  }

  // What was kept for a group goes with its last cell: it may be gigabytes.
  void forget_reference(const std::string& group) {
    const auto reference = references_.find(group);
    if (reference == references_.end() || reference->second.state != KeptReference::State::there)
      return;
    const auto of_group = [&](const Cell& cell) { return group_of(cell) == group; };
    if (std::any_of(waiting_.begin(), waiting_.end(), of_group) ||
        std::any_of(running_.begin(), running_.end(),
                    [&](const Running& running) { return of_group(running.cell); }))
      return;
    store_.discard(reference->second.folder);
    references_.erase(reference);
  }

  // What a result says about its cell before anything was measured.
  Record new_record(const Cell& cell) const {
    const GridEvaluation& evaluation = plan_.grid.evaluations[cell.evaluation];
    const GridModel& model = plan_.grid.models[cell.model];
    Record record;
    record.experiment = plan_.experiment.name;
    record.track = plan_.experiment.track;
    record.cell = cell.id;
    record.model = model.record;
    record.method = plan_.grid.methods[cell.method].record;
    record.evaluation = {evaluation.name, evaluation.kind, settings_to_json(evaluation.settings)};
    const std::vector<eval::NamedFile> files = eval::files_of(evaluation.settings);
    for (size_t i = 0; i < files.size(); ++i) {
      const std::string key = i == 0 ? "data_sha256" : files[i].key + "_sha256";
      record.evaluation.settings[key] = evaluation.hashes[i];
    }
    record.seed = plan_.experiment.seed;
    record.code = code_facts();
    record.environment = machine_facts();
    record.environment["compute"] = compute_word(model.source.compute);
    record.environment["fingerprint_of"] = model.fingerprint_of;
    record.warnings = model.warnings;
    if (const auto seed = model.source.random_seed) {
      record.environment["weights"] = "random";
      record.environment["weights_seed"] = *seed;
      record.warnings.push_back(random_weights_note(*seed));
    }
    record.started_at = utc_time();
    return record;
  }

  void start(const Cell& cell) {
    Running running{cell, store_.new_attempt(cell.id), nullptr};
    try {
      start(std::move(running));
    } catch (...) {
      store_.discard(store_.attempt_folder(cell.id));
      throw;
    }
  }

  void start(Running running) {
    CellJob job = new_job(running);
    const KeptReference& reference = references_[group_of(running.cell)];
    if (has_reference(running.cell) && reference.state == KeptReference::State::there)
      job.kept_reference = absolute_path(fs::path(reference.file())).string();
    if (keeps_scores(running.cell)) {
      if (settings_.fresh) store_.forget_unfinished(running.cell.id);
      job.unfinished = absolute_path(store_.unfinished_file(running.cell.id)).string();
    }
    launch(job, std::move(running));
  }

  CellJob new_job(const Running& running) const {
    const Cell& cell = running.cell;
    CellJob job;
    job.record = new_record(cell);
    job.attempt = absolute_path(running.attempt);
    job.files = plan_.grid.evaluations[cell.evaluation].files;
    job.noise_floor = plan_.grid.evaluations[cell.evaluation].noise_floor;
    SubjectRequest& subject = job.subject;
    subject.model = plan_.grid.models[cell.model].source;
    subject.model.folder = absolute_path(subject.model.folder);
    subject.calibration = plan_.grid.calibration;
    if (subject.calibration) {
      subject.calibration->file = absolute_path(subject.calibration->file).string();
    }
    subject.measurements = absolute_path(store_.folder() / ".measured").string();
    subject.plugin_files = plan_.grid.methods[cell.method].plugin_files;
    for (std::string& file : subject.plugin_files) file = absolute_path(file).string();
    const int cores = std::max(1, int(std::thread::hardware_concurrency()));
    subject.device = plan_.device;
    subject.threads = settings_.threads;
    if (subject.threads == 0 && settings_.jobs > 1)
      subject.threads = std::max(1, cores / settings_.jobs);
    job.supervisor = ::getpid();
    job.address_space = uint64_t(plan_.experiment.limits.address_space_gib * double(1 << 30));
    return job;
  }

  void launch(const CellJob& job, Running running) {
    const fs::path file = running.attempt / "job.json";
    write_file_synced(file, json_text(to_json(job)));

    ChildCommand command;
    command.argv = {"/proc/self/exe", "run-cell", file.string()};
    command.log = running.attempt / "log.txt";
    command.wall_seconds = plan_.experiment.limits.cell_seconds;
    command.hang_seconds = plan_.experiment.limits.hang_seconds;
    running.child = std::make_unique<Child>(std::move(command));
    running_.push_back(std::move(running));
  }

  void finish(const Running& running) {
    const ChildEnd& end = *running.child->end();
    if (end.how == ChildEnd::How::stopped) {
      store_.discard(running.attempt);
      return;
    }
    // What a process had that went wrong is not to be built upon.
    if (end.how != ChildEnd::How::too_long && end.code != 0)
      store_.forget_unfinished(running.cell.id);
    const bool ended_well = end.how == ChildEnd::How::exited && end.code == 0;
    std::error_code ignored;
    if (ended_well && fs::exists(running.attempt / "record.json", ignored)) {
      publish(running, end);
    } else {
      fail(running, end);
    }
  }

  void publish(const Running& running, const ChildEnd& end) {
    const Cell& cell = running.cell;
    std::error_code ignored;
    fs::remove(running.attempt / "job.json", ignored);
    const auto differences = store_.publish(running.attempt, cell.place, cell.id, settings_.fresh);
    if (!differences.empty())
      line_.say("CONFLICT: " + cell_name(plan_.grid, cell) +
                    " was computed by another process too, with other numbers: " +
                    differences.front() + "; both results are kept in " + store_.folder().string(),
                true);
    ++summary_.finished;
    estimate_.finished(group_of(cell), end.seconds);
    const bool invalid = store_.status(cell.place, cell.id) == "invalid";
    if (invalid) ++summary_.invalid;
    say_log_problem(running);
    if (line_.animated() && !invalid) return;
    line_.say(fmt::format("[{:>{}}/{}] {}  {}  {}", done(), std::to_string(total_).size(), total_,
                          cell_name(plan_.grid, cell), duration_text(end.seconds),
                          invalid ? "INVALID: the method was not exercised, see result.md in " +
                                        (store_.folder() / (cell.place + "__" + cell.id)).string()
                                  : running.child->note()),
              invalid);
  }

  void fail(const Running& running, const ChildEnd& end) {
    const Cell& cell = running.cell;
    Record record = new_record(cell);
    record.status = "failed";
    record.seconds = end.seconds;
    const Record::Failure failure =
        failure_of(end, running.attempt / "error.json", running.child->note(),
                   plan_.grid.methods[cell.method].record.label, plan_.experiment.limits);
    record.error = failure;
    store_.record_failure(cell.id, json_text(to_json(record), 2) + "\n");
    const fs::path log = store_.failure_log(cell.id);
    std::error_code lost;
    fs::rename(running.attempt / "log.txt", log, lost);
    store_.discard(running.attempt);
    ++summary_.failed;
    std::string text =
        fmt::format("[{:>{}}/{}] FAILED {}: {}", done(), std::to_string(total_).size(), total_,
                    cell_name(plan_.grid, cell), failure.message);
    text += "\n    log: " + log.string();
    if (lost) text += " could not be kept: " + lost.message();
    line_.say(text, true);
    say_log_problem(running);
  }

  void say_log_problem(const Running& running) {
    if (running.child->log_problem().empty()) return;
    line_.say("note: the log of " + cell_name(plan_.grid, running.cell) +
                  " is not complete: " + running.child->log_problem(),
              true);
  }

  std::string name_of(const Running& running) const {
    if (!running.keeps_reference) return cell_name(plan_.grid, running.cell);
    return plan_.grid.models[running.cell.model].record.name + " reference " +
           plan_.grid.evaluations[running.cell.evaluation].name;
  }

  size_t done() const { return summary_.finished + summary_.kept + summary_.failed; }

  // "[ 7/36] tiny-qwen2 kivi-2bit passkey  45 %  acc 0.95  | cell 3 s, all about 1 min 20 s left"
  void show() {
    if (!line_.animated() || running_.empty()) return;
    const Running& first = running_.front();
    std::string text = fmt::format("[{:>{}}/{}] {}  {:.0f} %  {}  | cell {}", done() + 1,
                                   std::to_string(total_).size(), total_, name_of(first),
                                   100 * first.child->fraction(), first.child->note(),
                                   duration_text(first.child->seconds()));
    if (const double left = seconds_left(); left >= 0) {
      text += ", all about " + duration_text(left) + " left";
    }
    if (running_.size() > 1) text += fmt::format(" (and {} more cells)", running_.size() - 1);
    line_.show(text);
  }

  double seconds_left() const {
    double sum = 0;
    for (const Running& cell : running_) {
      const double left =
          estimate_.remaining(group_of(cell.cell), cell.child->fraction(), cell.child->seconds());
      if (left < 0) return -1;
      sum += left;
    }
    for (const Cell& cell : waiting_) {
      const double whole = estimate_.expected(group_of(cell));
      if (whole < 0) return -1;
      sum += whole;
    }
    return sum / settings_.jobs;
  }

  const Plan& plan_;
  const Store& store_;
  const RunSettings& settings_;
  ProgressLine line_;
  TimeEstimate estimate_;
  Claims claims_;
  std::map<std::string, std::string> old_failures_;  // of cells, when we began
  std::map<std::string, double> claimed_;  // by others: when we looked last, seconds of clock_
  Stopwatch clock_;
  std::map<std::string, KeptReference> references_;
  std::deque<Cell> waiting_;
  std::list<Running> running_;
  RunSummary summary_;
  size_t total_ = 0;
};

}  // namespace

RunSummary run_cells(const Plan& plan, const std::vector<Cell>& cells, const Store& store,
                     const RunSettings& settings) {
  return Runner(plan, store, settings).run(cells);
}

}  // namespace ptq
