/* Wrong on purpose: refuses the sample that it asked for, without a sentence. */
#define BAD_NAME "bad_calibration"
#define BAD_CALIBRATE calibrate
#include "bad.h"

static ptq_status calibrate(void* method, const ptq_call* call, const ptq_kv_block* rows,
                            const ptq_tensor* x, const ptq_tensor* fisher) {
  (void)method, (void)call, (void)rows, (void)x, (void)fisher;
  return PTQ_INVALID;
}
