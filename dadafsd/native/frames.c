/* The two frames that are understood here (dadafs/wire/frame.py, messages.py): a `Read` that comes, a `Blocks` that goes.
 *
 * What comes is from outside: nothing is looked at beyond the length that was received, and whatever is not exactly the
 * form that a node gives to a `Read` is left to Python, which knows all forms and says what is wrong.
 */
#include "hot_reads.h"

#include <dlfcn.h>
#include <endian.h>
#include <string.h>

#define REQUEST 2
#define REPLY 3
#define READ_TAG 20
#define BLOCKS_TAG 46
#define BARE_SIZE 16 /* of the header, before its check */

typedef uint64_t xxh3_fn(const void *, size_t);
typedef uint64_t xxh3_seeded_fn(const void *, size_t, uint64_t);

static xxh3_fn *xxh3;
static xxh3_seeded_fn *xxh3_seeded;

int frames_find_xxh3(const char *path)
{
    void *module = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);

    if (!module)
        return -1;
    *(void **)&xxh3 = dlsym(module, "XXH3_64bits");
    *(void **)&xxh3_seeded = dlsym(module, "XXH3_64bits_withSeed");
    return xxh3 && xxh3_seeded ? 0 : -1; /* the module stays: Python has loaded it, and the handle is kept */
}

static uint32_t check_of(const uint8_t *header, const uint8_t *metadata, size_t length)
{
    return (uint32_t)xxh3_seeded(metadata, length, xxh3(header, BARE_SIZE));
}

static uint32_t little(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static void put_little(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}

/* --- MessagePack: reading --------------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
    int wrong; /* it was something else, or the end */
};

static uint8_t byte(struct reader *in)
{
    if (in->at >= in->end) {
        in->wrong = 1;
        return 0;
    }
    return *in->at++;
}

static uint64_t big(struct reader *in, int bytes)
{
    uint64_t value = 0;

    for (int i = 0; i < bytes; i++)
        value = value << 8 | byte(in);
    return value;
}

/* Any integer; `negative` where it is one, in two's complement then. */
static uint64_t integer(struct reader *in, int *negative)
{
    uint8_t kind = byte(in);
    int64_t value;

    *negative = 0;
    if (kind < 0x80)
        return kind;
    if (kind >= 0xcc && kind <= 0xcf) /* uint 8, 16, 32, 64 */
        return big(in, 1 << (kind - 0xcc));
    if (kind >= 0xe0)
        value = (int8_t)kind;
    else if (kind == 0xd0)
        value = (int8_t)big(in, 1);
    else if (kind == 0xd1)
        value = (int16_t)big(in, 2);
    else if (kind == 0xd2)
        value = (int32_t)big(in, 4);
    else if (kind == 0xd3)
        value = (int64_t)big(in, 8);
    else
        value = 0, in->wrong = 1;
    *negative = value < 0;
    return (uint64_t)value;
}

static uint64_t natural(struct reader *in)
{
    int negative;
    uint64_t value = integer(in, &negative);

    in->wrong |= negative;
    return value;
}

static int64_t whole(struct reader *in)
{
    int negative;
    uint64_t value = integer(in, &negative);

    in->wrong |= !negative && value > INT64_MAX;
    return (int64_t)value;
}

static void exactly(struct reader *in, uint8_t expected)
{
    in->wrong |= byte(in) != expected;
}

/* [20, handle, [dev, ino, size, mtime, ctime], fragment, first, count, [], prefetch] and nothing behind it. */
static int parse_read(const uint8_t *metadata, size_t length, struct request *request)
{
    struct reader in = {metadata, metadata + length, 0};

    exactly(&in, 0x98);
    exactly(&in, READ_TAG);
    request->handle = natural(&in);
    exactly(&in, 0x95);
    request->dev = natural(&in);
    request->ino = natural(&in);
    request->size = natural(&in);
    request->mtime_ns = whole(&in);
    request->ctime_ns = whole(&in);
    request->fragment = natural(&in);
    request->first = natural(&in);
    request->count = natural(&in);
    exactly(&in, 0x90);
    in.wrong |= (byte(&in) & 0xfe) != 0xc2; /* false or true: whether it is read ahead changes nothing here */
    return !in.wrong && in.at == in.end;
}

enum frame_kind frames_parse(const uint8_t *at, size_t have, struct request *request)
{
    size_t length;

    if (have < HEADER_SIZE)
        return FRAME_INCOMPLETE;
    length = little(at + 8);
    if (at[0] != 'd' || at[1] != 'F' || at[2] != REQUEST || at[3] || length > MOST_METADATA || little(at + 12))
        return FRAME_OTHER;
    if (have < HEADER_SIZE + length)
        return FRAME_INCOMPLETE;
    if (check_of(at, at + HEADER_SIZE, length) != little(at + 16) || !parse_read(at + HEADER_SIZE, length, request))
        return FRAME_OTHER;
    request->id = little(at + 4);
    request->frame = HEADER_SIZE + length;
    return FRAME_READ;
}

/* --- MessagePack: writing --------------------------------------------------------------------------------------- */

static uint8_t *put_big(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

static uint8_t *put_integer(uint8_t *at, uint64_t value)
{
    if (value < 0x80) {
        *at++ = (uint8_t)value;
        return at;
    }
    if (value <= UINT8_MAX)
        *at = 0xcc;
    else if (value <= UINT16_MAX)
        *at = 0xcd;
    else if (value <= UINT32_MAX)
        *at = 0xce;
    else
        *at = 0xcf;
    return put_big(at + 1, value, 1 << (*at - 0xcc));
}

/* [46, [checksums], sent, size, 0, true, told] */
size_t frames_reply(uint8_t *into, uint32_t id, const uint64_t *checksums, size_t count, uint64_t size, const char *told,
                    size_t told_length)
{
    uint8_t *at = into + HEADER_SIZE;

    *at++ = 0x97;
    *at++ = BLOCKS_TAG;
    if (count < 16) {
        *at++ = (uint8_t)(0x90 | count);
    } else {
        *at++ = 0xdc;
        at = put_big(at, count, 2);
    }
    for (size_t i = 0; i < count; i++)
        at = put_integer(at, checksums[i]);
    at = put_integer(at, UINT64_MAX >> (64 - count));
    at = put_integer(at, size);
    *at++ = 0;
    *at++ = 0xc3;
    *at++ = (uint8_t)(0xa0 | told_length);
    memcpy(at, told, told_length);
    at += told_length;

    into[0] = 'd';
    into[1] = 'F';
    into[2] = REPLY;
    into[3] = 0;
    put_little(into + 4, id);
    put_little(into + 8, (uint32_t)(at - into - HEADER_SIZE));
    put_little(into + 12, (uint32_t)size);
    put_little(into + 16, check_of(into, into + HEADER_SIZE, (size_t)(at - into - HEADER_SIZE)));
    return (size_t)(at - into);
}
