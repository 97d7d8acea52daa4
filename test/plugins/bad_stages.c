/* Wrong on purpose: all its stages do nothing. It learns nothing from the inputs, moves no scales,
   leaves activations as they are, and its order of columns is the usual one. */
#define BAD_NAME "bad_stages"
#define BAD_ORDER 1
#define BAD_FACTOR(largest) 1.0f
#define BAD_KIND PTQ_ACTIVATION_FULL
#include "bad_layer.h"
