/* Wrong on purpose: chooses a kind that does not exist. */
#define BAD_NAME "bad_activation"
#define BAD_KIND 99
#include "bad_layer.h"
