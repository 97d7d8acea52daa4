/* Wrong on purpose: the same layer gets another scale the next time. */
#define BAD_NAME "bad_activation_random"
static float calls;
#define BAD_STEP(largest) (++calls + (largest))
#include "bad_layer.h"
