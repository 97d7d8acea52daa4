/* Wrong on purpose: linked with a library that not every machine has, and with the folder in which
   this machine has it (test/CMakeLists.txt). */
#define BAD_NAME "bad_needs"
#include "bad.h"
