/* See wire.h. Numbers of MessagePack are big-endian, those of the frame's header little-endian. */
#define _GNU_SOURCE
#include "wire.h"

#include <dlfcn.h>

#define BARE 16 /* of the header, before its check */

typedef uint64_t hash_fn(const void *, size_t);
typedef uint64_t seeded_hash_fn(const void *, size_t, uint64_t);
static hash_fn *hash;
static seeded_hash_fn *seeded_hash;

/* --- checksums --------------------------------------------------------------------------------------------------- */

static void *symbol(void *library, const char *best, const char *plain)
{
    void *found = dlsym(library, best);

    return found ? found : dlsym(library, plain);
}

int wire_use_hash(const char *path)
{
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);

    if (library) {
        *(void **)&hash = symbol(library, "XXH3_64bits_dispatch", "XXH3_64bits");
        *(void **)&seeded_hash = symbol(library, "XXH3_64bits_withSeed_dispatch", "XXH3_64bits_withSeed");
    }
    return wire_ready() ? 0 : -1; /* the library stays: Python has loaded it, and the handle is kept */
}

int wire_ready(void)
{
    return hash && seeded_hash;
}

uint64_t wire_hash(const void *data, size_t length)
{
    return hash(data, length);
}

/* --- the header ---------------------------------------------------------------------------------------------------- */

static void put32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get32(const uint8_t *in)
{
    return in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

static uint32_t check_of(const uint8_t *frame, size_t metadata)
{
    return (uint32_t)seeded_hash(frame + WIRE_HEADER, metadata, hash(frame, BARE));
}

int wire_header(const uint8_t *in, struct wire_header *header)
{
    if (in[0] != 'd' || in[1] != 'F' || in[3] != 0)
        return -1;
    header->kind = in[2];
    header->id = get32(in + 4);
    header->metadata = get32(in + 8);
    header->payload = get32(in + 12);
    header->check = get32(in + 16);
    return 0;
}

int wire_intact(const uint8_t *in, const struct wire_header *header)
{
    return check_of(in, header->metadata) == header->check;
}

size_t wire_begin(uint8_t *out, int kind, uint32_t id, size_t metadata, uint32_t payload)
{
    out[0] = 'd';
    out[1] = 'F';
    out[2] = (uint8_t)kind;
    out[3] = 0;
    put32(out + 4, id);
    put32(out + 8, (uint32_t)metadata);
    put32(out + 12, payload);
    put32(out + 16, check_of(out, metadata));
    return WIRE_HEADER + metadata;
}

/* --- MessagePack: writing ---------------------------------------------------------------------------------------------- */

static uint8_t *put_big(uint8_t *out, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        *out++ = (uint8_t)(value >> (8 * i));
    return out;
}

uint8_t *wire_put(uint8_t *out, uint64_t value)
{
    int size = value <= UINT8_MAX ? 0 : value <= UINT16_MAX ? 1 : value <= UINT32_MAX ? 2 : 3;

    if (value < 0x80) {
        *out++ = (uint8_t)value;
        return out;
    }
    *out++ = (uint8_t)(0xcc + size);
    return put_big(out, value, 1 << size);
}

uint8_t *wire_put_signed(uint8_t *out, int64_t value)
{
    if (value >= 0)
        return wire_put(out, (uint64_t)value);
    *out++ = 0xd3;
    return put_big(out, (uint64_t)value, 8);
}

uint8_t *wire_put_array(uint8_t *out, size_t count)
{
    if (count < 16) {
        *out++ = (uint8_t)(0x90 | count);
        return out;
    }
    *out++ = 0xdc;
    return put_big(out, count, 2);
}

/* --- MessagePack: reading ---------------------------------------------------------------------------------------------- */

uint8_t wire_byte(struct wire_reader *in)
{
    if (in->at >= in->end) {
        in->wrong = 1;
        return 0;
    }
    return *in->at++;
}

void wire_exactly(struct wire_reader *in, uint8_t expected)
{
    in->wrong |= wire_byte(in) != expected;
}

static uint64_t take_big(struct wire_reader *in, int bytes)
{
    uint64_t value = 0;

    while (bytes--)
        value = value << 8 | wire_byte(in);
    return value;
}

/* Any integer; `negative` where it is one, in two's complement then. */
static uint64_t take_any(struct wire_reader *in, int *negative)
{
    uint8_t kind = wire_byte(in);
    int64_t value = 0;

    *negative = 0;
    if (kind < 0x80)
        return kind;
    if (kind >= 0xcc && kind <= 0xcf) /* uint 8, 16, 32, 64 */
        return take_big(in, 1 << (kind - 0xcc));
    if (kind >= 0xe0)
        value = (int8_t)kind;
    else if (kind == 0xd0)
        value = (int8_t)take_big(in, 1);
    else if (kind == 0xd1)
        value = (int16_t)take_big(in, 2);
    else if (kind == 0xd2)
        value = (int32_t)take_big(in, 4);
    else if (kind == 0xd3)
        value = (int64_t)take_big(in, 8);
    else
        in->wrong = 1;
    *negative = value < 0;
    return (uint64_t)value;
}

uint64_t wire_natural(struct wire_reader *in)
{
    int negative;
    uint64_t value = take_any(in, &negative);

    in->wrong |= negative;
    return value;
}

int64_t wire_integer(struct wire_reader *in)
{
    int negative;
    uint64_t value = take_any(in, &negative);

    in->wrong |= !negative && value > INT64_MAX;
    return (int64_t)value;
}

unsigned wire_array(struct wire_reader *in)
{
    uint8_t first = wire_byte(in);

    if (first == 0xdc)
        return (unsigned)take_big(in, 2);
    in->wrong |= (first & 0xf0) != 0x90;
    return first & 0x0f;
}

int wire_bool(struct wire_reader *in)
{
    uint8_t first = wire_byte(in);

    in->wrong |= first != 0xc2 && first != 0xc3;
    return first == 0xc3;
}

int wire_done(const struct wire_reader *in)
{
    return !in->wrong && in->at == in->end;
}
