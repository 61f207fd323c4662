/* See frames.h. Numbers of MessagePack are big-endian, those of the frame's header little-endian. */
#define _GNU_SOURCE
#include "frames.h"

#include <dlfcn.h>
#include <string.h>

enum { TAG_READ = 20, TAG_BLOCKS = 46, HEADER_BARE = 16 };

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

int frames_use_hash(const char *path)
{
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);

    if (library) {
        *(void **)&hash = symbol(library, "XXH3_64bits_dispatch", "XXH3_64bits");
        *(void **)&seeded_hash = symbol(library, "XXH3_64bits_withSeed_dispatch", "XXH3_64bits_withSeed");
    }
    return frames_ready() ? 0 : -1;
}

int frames_ready(void)
{
    return hash && seeded_hash;
}

uint64_t frames_hash(const void *data, size_t length)
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

static uint32_t check_of(const uint8_t *bare, const uint8_t *metadata, size_t length)
{
    return (uint32_t)seeded_hash(metadata, length, hash(bare, HEADER_BARE));
}

int frames_header(const uint8_t *in, struct frame_header *header)
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

int frames_intact(const uint8_t *in, const struct frame_header *header)
{
    return check_of(in, in + FRAME_HEADER, header->metadata) == header->check;
}

/* --- MessagePack: writing ---------------------------------------------------------------------------------------------- */

static uint8_t *put_big(uint8_t *out, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        *out++ = (uint8_t)(value >> (8 * i));
    return out;
}

static uint8_t *put_unsigned(uint8_t *out, uint64_t value)
{
    if (value < 128) {
        *out++ = (uint8_t)value;
        return out;
    }
    if (value <= UINT8_MAX) {
        *out++ = 0xcc;
        return put_big(out, value, 1);
    }
    if (value <= UINT16_MAX) {
        *out++ = 0xcd;
        return put_big(out, value, 2);
    }
    if (value <= UINT32_MAX) {
        *out++ = 0xce;
        return put_big(out, value, 4);
    }
    *out++ = 0xcf;
    return put_big(out, value, 8);
}

static uint8_t *put_signed(uint8_t *out, int64_t value)
{
    if (value >= 0)
        return put_unsigned(out, (uint64_t)value);
    *out++ = 0xd3;
    return put_big(out, (uint64_t)value, 8);
}

size_t frames_request(uint8_t *out, uint32_t id, const struct block_request *request)
{
    uint8_t *metadata = out + FRAME_HEADER, *at = metadata;
    size_t length;

    *at++ = 0x98; /* eight items, the tag first */
    *at++ = TAG_READ;
    at = put_unsigned(at, request->handle);
    *at++ = 0x95;
    at = put_unsigned(at, request->version.dev);
    at = put_unsigned(at, request->version.ino);
    at = put_signed(at, request->version.size);
    at = put_signed(at, request->version.mtime_ns);
    at = put_signed(at, request->version.ctime_ns);
    at = put_unsigned(at, request->fragment);
    at = put_unsigned(at, request->first);
    at = put_unsigned(at, request->count);
    *at++ = 0x90; /* nothing is known */
    *at++ = request->prefetch ? 0xc3 : 0xc2;
    length = (size_t)(at - metadata);
    memcpy(out, "dF\2", 4); /* a request, no flags */
    put32(out + 4, id);
    put32(out + 8, (uint32_t)length);
    put32(out + 12, 0);
    put32(out + 16, check_of(out, metadata, length));
    return FRAME_HEADER + length;
}

/* --- MessagePack: reading ---------------------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
    int failed;
};

static uint8_t take(struct reader *from)
{
    if (from->at >= from->end) {
        from->failed = 1;
        return 0;
    }
    return *from->at++;
}

static uint64_t take_big(struct reader *from, int bytes)
{
    uint64_t value = 0;

    while (bytes--)
        value = value << 8 | take(from);
    return value;
}

static uint64_t take_unsigned(struct reader *from)
{
    uint8_t first = take(from);

    switch (first) {
    case 0xcc:
        return take_big(from, 1);
    case 0xcd:
        return take_big(from, 2);
    case 0xce:
        return take_big(from, 4);
    case 0xcf:
        return take_big(from, 8);
    default:
        from->failed |= first > 0x7f;
        return first;
    }
}

static unsigned take_array(struct reader *from)
{
    uint8_t first = take(from);

    if (first == 0xdc)
        return (unsigned)take_big(from, 2);
    from->failed |= (first & 0xf0) != 0x90;
    return first & 0x0f;
}

static int take_bool(struct reader *from)
{
    uint8_t first = take(from);

    from->failed |= first != 0xc2 && first != 0xc3;
    return first == 0xc3;
}

static int take_tier(struct reader *from)
{
    static const struct {
        const char *name;
        uint8_t length;
        int tier;
    } tiers[] = {{"memory", 6, TIER_MEMORY}, {"ssd", 3, TIER_SSD}, {"origin", 6, TIER_ORIGIN}};
    uint8_t first = take(from);
    size_t length = first & 0x1f;

    if ((first & 0xe0) == 0xa0 && (size_t)(from->end - from->at) == length) /* it is the last item */
        for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++)
            if (tiers[i].length == length && memcmp(from->at, tiers[i].name, length) == 0) {
                from->at += length;
                return tiers[i].tier;
            }
    from->failed = 1;
    return TIER_ORIGIN;
}

int frames_blocks(const uint8_t *metadata, size_t length, struct blocks *blocks)
{
    struct reader from = {metadata, metadata + length, 0};

    if (take(&from) != 0x97 || take(&from) != TAG_BLOCKS)
        return -1;
    blocks->count = take_array(&from);
    if (from.failed || blocks->count > MOST_BLOCKS)
        return -1;
    for (unsigned i = 0; i < blocks->count; i++)
        blocks->checksums[i] = take_unsigned(&from);
    if (blocks->count > MOST_NAMED)
        blocks->all = take(&from) == 0xff; /* -1 */
    else
        blocks->all = take_unsigned(&from) == (blocks->count == 64 ? UINT64_MAX : (UINT64_C(1) << blocks->count) - 1);
    blocks->size = take_unsigned(&from);
    blocks->encoding = (unsigned)take_unsigned(&from);
    blocks->settled = take_bool(&from);
    blocks->tier = take_tier(&from);
    return from.failed || from.at != from.end ? -1 : 0;
}
