/* The kernel for any machine. */
#include "plain_kernel.h"

const Kernel kernel_portable = {"portable", add_planes, add_values, NULL, add_pending, add_pixels};
