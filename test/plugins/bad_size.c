/* Wrong on purpose: struct_size ends before the last fields of version 1.0. */
#define BAD_NAME "bad_size"
#define BAD_SIZE 24
#include "bad.h"
