// Trying a method on a model's shape before anything is computed: whether it takes the options of
// the experiment, whether its cache can be made, what it will ask for. In a child process, because
// a plugin may do anything; one that ends badly there is left to its cells, which say how.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>

#include "ptq/core/own_json.hpp"
#include "ptq/core/problems.hpp"
#include "ptq/engine/pass/cache_rules.hpp"
#include "ptq/run/experiment.hpp"
#include "ptq/run/grid.hpp"
#include "ptq/run/method_set.hpp"
#include "ptq/run/subject_request.hpp"

namespace ptq {

struct MethodTrial {
  std::optional<Error> error;  // what the cells would fail with
  bool wants_calibration = false;
  bool evicts = false;  // rows of the cache are dropped
};

namespace trial_detail {

// In the child: what is found out, as JSON.
inline std::string try_here(const GridMethod& method, const ModelConfig& config, uint64_t seed) {
  Json answer;
  try {
    MethodSet methods = make_methods(method.record.parts, method.plugin_files, seed);
    attach(methods, config);
    if (methods.kv != nullptr) {
      for (int64_t l = 0; l < config.num_hidden_layers; ++l)
        for (const KvSide side : {KvSide::keys, KvSide::values})
          CacheRules(side, int(l), config.head_dim, methods.kv);
      answer["evicts"] = methods.kv->policy(KvSide::keys).evicts;
    }
    const bool prunes_by_text =
        methods.pruner != nullptr && methods.pruner->settings().wants.text();
    answer["wants_calibration"] = prunes_by_text || wants_calibration(methods);
  } catch (const Error& e) {
    answer = {{"code", int(e.code())},
              {"message", e.message()},
              {"where", e.where()},
              {"hint", e.hint()}};
  }
  return answer.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

// All that the child writes before it closes the pipe, or nothing after `seconds`.
inline std::string read_all(int fd, int seconds) {
  using clock = std::chrono::steady_clock;
  const auto end = clock::now() + std::chrono::seconds(seconds);
  std::string text;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - clock::now());
    pollfd wait{fd, POLLIN, 0};
    const int ready = left.count() > 0 ? ::poll(&wait, 1, int(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return {};
    char buffer[4096];
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return {};
    if (n == 0) return text;
    text.append(buffer, size_t(n));
  }
}

}  // namespace trial_detail

inline MethodTrial try_method(const GridMethod& method, const GridModel& model, uint64_t seed) {
  constexpr int kSeconds = 10;
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) return {};
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
    const std::string text = trial_detail::try_here(method, model.config, seed);
    for (size_t at = 0; at < text.size();) {
      const ssize_t n = ::write(pipe_ends[1], text.data() + at, text.size() - at);
      if (n <= 0) break;
      at += size_t(n);
    }
    ::_exit(0);
  }
  ::close(pipe_ends[1]);
  const std::string text = child > 0 ? trial_detail::read_all(pipe_ends[0], kSeconds) : "";
  ::close(pipe_ends[0]);
  if (child > 0) {
    ::kill(child, SIGKILL);  // a plugin may have kept it from ending
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  const auto answer = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  MethodTrial trial;
  if (!answer.is_object()) return trial;
  if (answer.contains("message")) {
    trial.error = Error(ExitCode(answer.value("code", 0)), answer.value("message", ""),
                        answer.value("where", ""), answer.value("hint", ""));
  }
  trial.wants_calibration = answer.value("wants_calibration", false);
  trial.evicts = answer.value("evicts", false);
  return trial;
}

// Tries the methods that the experiment lists, on every model, and adds what the file is to blame
// for: options that a method refuses or that do not fit the model, a calibration text that is
// missing, an evaluation that a method cannot take part in. Methods of `methods = "*"` were not
// chosen one by one: there only the cells concerned fail.
inline void try_methods(const ExperimentGrid& grid, const Experiment& experiment,
                        Problems& problems) {
  for (size_t i = 0; i < experiment.methods.size(); ++i) {
    const MethodVariant& variant = experiment.methods[i];
    bool given = false;  // any option
    for (const MethodPart& part : variant.parts) given = given || !part.options.empty();
    for (const GridModel& model : grid.models) {
      const MethodTrial trial = try_method(grid.methods[i], model, experiment.seed);
      const std::string who = "`" + variant.label + "` on " + model.record.name + ": ";
      // A plugin that fails without being given anything has a fault of its own.
      if (trial.error && (trial.error->code() == ExitCode::usage || given)) {
        problems.add(usage_error(who + trial.error->message(), variant.where, trial.error->hint()));
        break;
      }
      if (trial.wants_calibration && experiment.calibration_where.empty()) {
        problems.add(calibration_is_missing(variant.label, variant.where, kCalibrationTable));
        break;
      }
      for (const Evaluation& evaluation : experiment.evaluations) {
        if (!trial.evicts || eval::regime_of(evaluation.settings) != Regime::prefill_encoded)
          continue;
        problems.add(usage_error(
            "`" + evaluation.name + "` has the regime `prefill-encoded`, and `" + variant.label +
                "` drops rows",
            evaluation.where, "use `streaming`: a dropped row has no encoding to read"));
      }
      if (trial.evicts) break;  // on every model alike
    }
  }
}

}  // namespace ptq
