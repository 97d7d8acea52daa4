/* What stands behind plugin.h where test/abi/test_abi.sh compiles it alone. */
typedef int ptq_test_nothing;
