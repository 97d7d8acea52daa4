/* Wrong on purpose: makes factors and scales of inputs that nobody has measured. */
#define BAD_NAME "bad_guess"
#define BAD_GUESS(call) (void)0
#include "bad_layer.h"
