/* Wrong on purpose: the same inputs give other factors the next time. */
#define BAD_NAME "bad_transform_random"
static float calls;
#define BAD_FACTOR(largest) (++calls + (largest))
#include "bad_layer.h"
