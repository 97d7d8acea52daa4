/* Wrong on purpose: the name of the method has a capital and a space. */
#define BAD_NAME "bad_name"
#define BAD_METHOD_NAME "Bad Name"
#include "bad.h"
