// What a subject is made of (open_subject.hpp opens it).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ptq/calibrate/sequences.hpp"
#include "ptq/core/error.hpp"
#include "ptq/results/record.hpp"
#include "ptq/run/model_source.hpp"

namespace ptq {

// What to write into an experiment that names no calibration text.
constexpr const char* kCalibrationTable =
    "add to it:  [calibration]  text = \"datasets/embedded/calib.txt\"";

// where: the place that would name the text; hint: what to write there.
inline Error calibration_is_missing(const std::string& label, const std::string& where,
                                    const std::string& hint) {
  return usage_error("`" + label + "` learns from a calibration text, and none is named", where,
                     hint);
}

// What to open.
struct SubjectRequest {
  ModelSource model;
  std::string device = "cpu";  // or "cuda:N"
  std::string build;      // version and commit of the program, which the CUDA engine must share
  int threads = 0;        // 0 = all cores
  Record::Method method;  // no parts: full precision
  std::vector<std::string> plugin_files;  // of each part of the method
  uint64_t seed = 0;                      // of the methods, and of the places in the text below
  std::optional<calibrate::CalibrationSource> calibration;
  // The place that names the calibration text, and what to write there where it is missing.
  std::string calibration_where, calibration_hint = kCalibrationTable;
  // For pruning. fingerprint: of the model; measurements: a folder where measurements are kept that
  // other cells can use, empty: none; scratch: where the pruned model is written, empty: among
  // temporary files.
  std::string fingerprint, measurements, scratch;
  // The reference's logits of an earlier process (engine/kept_logits.hpp); empty: none.
  std::string kept_logits;
  bool reference_is_spare = false;  // opened when something is asked of it only
  // Opened with the rest; otherwise when they are first asked for.
  bool with_tokenizer = false, with_reference = false;
};

}  // namespace ptq
