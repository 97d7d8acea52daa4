/* A correct 8-bit cache method with places where test/hostile/test_hostile.sh puts what a plugin
   must not do: -DAT_LOAD=..., AT_END (of the process), AT_ENCODE, INSTEAD (of the answer), SUMMARY.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BAD_NAME "hostile"
#define BAD_ENCODE hostile_encode
#ifdef SUMMARY
#define BAD_SUMMARY SUMMARY
#endif
#include "../plugins/bad.h"

#ifdef AT_LOAD
__attribute__((constructor)) static void at_load(void) { AT_LOAD; }
#endif
#ifdef AT_END
__attribute__((destructor)) static void at_end(void) { AT_END; }
#endif
#ifndef AT_ENCODE
#define AT_ENCODE (void)0
#endif

static int calls; /* of encode */

/* The answer of the host to a round-to-nearest encoding of `bits`. */
static inline ptq_status rounded(const ptq_call* call, const ptq_tensor* x, int bits,
                                 ptq_encoding* out) {
  const ptq_encode_service* service = (const ptq_encode_service*)call->service(call, PTQ_ENCODE_1);
  const ptq_affine how = {sizeof(ptq_affine), bits, PTQ_GRID_MIN, 1, 0, NULL};
  return service->affine(call, x, &how, out);
}

static ptq_status hostile_encode(void* method, const ptq_call* call, const ptq_kv_block* block,
                                 const ptq_tensor* x, ptq_encoding* out) {
  ++calls;
  AT_ENCODE;
#ifdef INSTEAD
  (void)method, (void)block;
  INSTEAD;
#else
  return encode_codes(method, call, block, x, out);
#endif
}
