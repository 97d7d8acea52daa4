/* Wrong on purpose: a block of 0 rows. */
#define BAD_NAME "bad_policy"
#define BAD_BLOCK 0
#include "bad.h"
