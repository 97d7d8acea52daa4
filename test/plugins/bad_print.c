/* Wrong on purpose: loading it can be seen. */
#define BAD_NAME "bad_print"
#include <stdio.h>

#include "bad.h"

__attribute__((constructor)) static void greet(void) { puts("hello from bad_print"); }
