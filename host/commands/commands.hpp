// The commands of ptq-host. Each takes the words behind its name and returns the exit code; errors
// are thrown as ptq::Error.
#pragma once

#include <string>
#include <vector>

namespace ptq {

int run_command(const std::vector<std::string>& args);
int run_cell_command(const std::vector<std::string>& args);  // used by run_command only
int methods_command(const std::vector<std::string>& args);
int info_command(const std::vector<std::string>& args);
int tokenize_command(const std::vector<std::string>& args);
int logits_command(const std::vector<std::string>& args);
int fidelity_command(const std::vector<std::string>& args);
int sensitivity_command(const std::vector<std::string>& args);
int trace_command(const std::vector<std::string>& args);
int check_command(const std::vector<std::string>& args);
int quantize_command(const std::vector<std::string>& args);
int prune_command(const std::vector<std::string>& args);
int import_command(const std::vector<std::string>& args);
int doctor_command(const std::vector<std::string>& args);

}  // namespace ptq
