/* Wrong on purpose: how many bits a matrix gets depends on which of its tasks runs last. */
#define BAD_NAME "bad_matrix_tasks"
#define BAD_WIDTH of_last_task
#include "bad_layer.h"

static int64_t last_task;
static void task(void* context, int64_t i) {
  (void)context;
  last_task = i;
}

static int32_t of_last_task(const ptq_call* call, const ptq_linear* linear) {
  (void)linear;
  const ptq_math* math = (const ptq_math*)call->service(call, PTQ_MATH_1);
  last_task = 0;
  if (math) math->parallel(call, 8, task, NULL);
  return last_task == 0 ? 8 : 4;
}
