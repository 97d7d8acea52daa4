/* Wrong on purpose: the first eight bytes are not "PTQPLUG". */
#define BAD_NAME "bad_magic"
#define BAD_MAGIC "NOTPTQ!"
#include "bad.h"
