/* Wrong on purpose: on a host of a later version a matrix gets fewer bits. */
#define BAD_NAME "bad_matrix_later"
#define BAD_WIDTH of_size
#include "bad_layer.h"

static int32_t of_size(const ptq_call* call, const ptq_linear* linear) {
  (void)call;
  return linear->struct_size > sizeof *linear ? 4 : 8;
}
