// The score of a row of logits, as a device hands it out.
#pragma once

#include <cstdint>

namespace ptq {

// What scoring needs of one row of logits.
struct RowScore {
  double log_sum_exp = 0;
  double kl = 0;       // nats, KL(reference || this row), where there is a reference
  float target = 0;    // logit of the target
  int32_t argmax = 0;  // the first maximum
  bool finite = true;  // false: some logit is not, and the rest means nothing
};

}  // namespace ptq
