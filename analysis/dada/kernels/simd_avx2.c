/* The kernel for AVX2: the plain one, which gcc and clang vectorize well with its instructions and POPCNT, TZCNT, BLSR. */
#include "plain_kernel.h"

const Kernel kernel_avx2 = {"avx2", add_planes, add_values, NULL, add_pending};
