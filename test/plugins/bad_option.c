/* Wrong on purpose: the default of an option lies outside its own range. */
#define BAD_NAME "bad_option"
#define BAD_DEFAULT "17"
#include "bad.h"
