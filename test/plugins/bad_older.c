/* Wrong on purpose: fills a field that hosts of version 1.0 do not have, without PTQ_HAS. */
#define BAD_NAME "bad_older"
#define BAD_POLICY_FLAGS 0
#include "bad.h"
