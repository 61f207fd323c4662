/* The kernel for any machine. */
#include "plain_kernel.h"

const Kernel kernel_portable = {"portable", add_planes, tile_add_values, add_pending};
