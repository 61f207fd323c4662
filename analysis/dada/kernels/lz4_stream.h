/* Decodes one LZ4 block piece by piece through a window, so that a block that holds a whole frame stays in the cache. */
#ifndef DADA_LZ4_STREAM_H
#define DADA_LZ4_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LZ4_HISTORY 65536      /* a match reaches back at most so far */
#define LZ4_PIECE 16384        /* bytes that may be asked for at once */

typedef struct {
    const uint8_t *in, *in_end;
    size_t left;               /* bytes of the block not handed out yet */
    size_t literals, match;    /* what is left to copy of the current sequence */
    size_t offset;
    unsigned token;
    bool in_sequence;          /* its literals are copied or being copied, its match was not read yet */
    bool raw;                  /* not compressed: one long run of literals */
    size_t filled;             /* bytes in the window */
    uint8_t window[2 * LZ4_HISTORY + LZ4_PIECE];
} Lz4Stream;

/* Begin a block of n_in stored and n_out decoded bytes. */
void lz4_stream_begin(Lz4Stream *stream, const uint8_t *in, size_t n_in, size_t n_out, bool raw);

/* The next n <= LZ4_PIECE bytes, valid until the next call; NULL where the block is damaged. */
const uint8_t *lz4_stream_next(Lz4Stream *stream, size_t n);

#endif
