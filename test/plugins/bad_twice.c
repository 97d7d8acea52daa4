/* Wrong on purpose: a second copy in the same process ends it. */
#define BAD_NAME "bad_twice"
#include <stdlib.h>
#include <sys/prctl.h>

#include "bad.h"

__attribute__((constructor)) static void only_once(void) {
  char name[16] = "";
  prctl(PR_GET_NAME, name);
  if (strcmp(name, "bad_twice") == 0) abort();
  prctl(PR_SET_NAME, "bad_twice");
}
