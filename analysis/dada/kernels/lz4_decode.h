/* Decoders of one LZ4 block. */
#ifndef DADA_LZ4_DECODE_H
#define DADA_LZ4_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes around the buffers that lz4_decode_avx512 may touch: readable behind the input, writable on both sides of the
 * output. */
#define LZ4_MARGIN 64

/* Decode exactly n_out bytes from exactly n_in; false where the block is damaged. */
bool lz4_decode_avx512(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out);

#endif
