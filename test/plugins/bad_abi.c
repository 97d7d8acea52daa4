/* Wrong on purpose: built for a major version that no host has. */
#define BAD_NAME "bad_abi"
#define BAD_MAJOR 99
#include "bad.h"
