/* Wrong on purpose: a factor is negative. */
#define BAD_NAME "bad_transform"
#define BAD_FACTOR(largest) (-1 - (largest))
#include "bad_layer.h"
