// What `ptq-host logits` and `ptq-host trace` have in common: one sequence of tokens through a
// model with or without methods, computed in a child process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "host/arguments.hpp"
#include "ptq/engine/modes.hpp"
#include "ptq/run/open_subject.hpp"

namespace ptq {

// The help of the options that parse_one_sequence reads.
extern const char* const kOneSequenceHelp;

// What a command has beside them.
struct OwnOptions {
  std::vector<const char*> with_value, flags = {};
  // Errors, too: neither of --ids and --text.
  bool needs_tokens = true;
};
// Errors: no model, both of --ids and --text.
Arguments parse_one_sequence(const std::vector<std::string>& args, const OwnOptions& own);

struct OneSequence {
  std::unique_ptr<OpenSubject> subject;
  std::vector<int32_t> ids;  // at least one, where --ids or --text is given
  Regime regime = Regime::independent;
  Compute compute = Compute::fp32;
};
OneSequence open_one_sequence(const Arguments& arguments);

// What opening and asking brought to light, on the standard error.
void print_warnings(OpenSubject& subject);

// The text that `compute` gives, from a child process: a plugin that crashes or ends it costs a
// sentence, not the reason. `what`: the thing that is computed, for the message, as "trace".
std::string compute_apart(const Arguments& arguments, const std::string& what,
                          const std::function<std::string()>& compute);

}  // namespace ptq
