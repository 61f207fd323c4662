/* What all frames of the wire have in common (dadafs/wire/frame.py), without I/O: the header with its check, MessagePack, and
 * XXH3. Used by the compiled parts of node and head. */
#ifndef DADAFS_WIRE_H
#define DADAFS_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { WIRE_HEADER = 20, WIRE_REQUEST = 2, WIRE_REPLY = 3 };

struct wire_header {
    uint32_t id, metadata, payload, check;
    uint8_t kind;
};

/* Find the functions that compute XXH3 in the module at `path` (that of the package xxhash); 0, or -1 where it has none. */
int wire_use_hash(const char *path);

/* Whether they were found: before that nothing else here may be used. */
int wire_ready(void);

/* XXH3-64 of `data`. */
uint64_t wire_hash(const void *data, size_t length);

/* The header in `in` (WIRE_HEADER bytes); 0, or -1 where it is none. */
int wire_header(const uint8_t *in, struct wire_header *header);

/* Whether header and metadata, which follow each other in `in`, are as they were sent. */
int wire_intact(const uint8_t *in, const struct wire_header *header);

/* Put the header in front of `metadata` bytes that lie behind it already; the length of both. */
size_t wire_begin(uint8_t *out, int kind, uint32_t id, size_t metadata, uint32_t payload);

/* MessagePack, written: where the next item goes. */
uint8_t *wire_put(uint8_t *out, uint64_t value);
uint8_t *wire_put_signed(uint8_t *out, int64_t value);
uint8_t *wire_put_array(uint8_t *out, size_t count);

/* MessagePack, read. Whatever is something else, or lies beyond the end, makes it `wrong`; what is read then is 0. */
struct wire_reader {
    const uint8_t *at, *end;
    int wrong;
};

uint8_t wire_byte(struct wire_reader *in);
void wire_exactly(struct wire_reader *in, uint8_t expected);
uint64_t wire_natural(struct wire_reader *in);
int64_t wire_integer(struct wire_reader *in);
unsigned wire_array(struct wire_reader *in);
int wire_bool(struct wire_reader *in);

/* Whether all was read, and nothing was wrong. */
int wire_done(const struct wire_reader *in);

#endif
