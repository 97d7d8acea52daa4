/* Wrong on purpose: exports a second symbol. Built by test/abi/test_abi.sh, because the version
   script of ptq_add_plugin would hide it. */
#define BAD_NAME "bad_two_symbols"
#include "../plugins/bad.h"

PTQ_EXPORT int helper(void) { return 1; }
