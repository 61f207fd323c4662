/* The two frames that are understood here (dadafs/wire/messages.py): a `Read` that comes, a `Blocks` that goes.
 *
 * What comes is from outside: nothing is looked at beyond the length that was received, and whatever is not exactly the
 * form that a node gives to a `Read` is left to Python, which knows all forms and says what is wrong.
 */
#include "hot_reads.h"

#include <string.h>

#define READ_TAG 20
#define BLOCKS_TAG 46

/* [20, handle, [dev, ino, size, mtime, ctime], fragment, first, count, [], prefetch] and nothing behind it. */
static int parse_read(const uint8_t *metadata, size_t length, struct request *request)
{
    struct wire_reader in = {metadata, metadata + length, 0};

    wire_exactly(&in, 0x98);
    wire_exactly(&in, READ_TAG);
    request->handle = wire_natural(&in);
    wire_exactly(&in, 0x95);
    request->dev = wire_natural(&in);
    request->ino = wire_natural(&in);
    request->size = wire_natural(&in);
    request->mtime_ns = wire_integer(&in);
    request->ctime_ns = wire_integer(&in);
    request->fragment = wire_natural(&in);
    request->first = wire_natural(&in);
    request->count = wire_natural(&in);
    wire_exactly(&in, 0x90);
    wire_bool(&in); /* whether it is read ahead changes nothing here */
    return wire_done(&in);
}

enum frame_kind frames_parse(const uint8_t *at, size_t have, struct request *request)
{
    struct wire_header header;

    if (have < WIRE_HEADER)
        return FRAME_INCOMPLETE;
    if (wire_header(at, &header) != 0 || header.kind != WIRE_REQUEST || header.metadata > MOST_METADATA || header.payload)
        return FRAME_OTHER;
    if (have < WIRE_HEADER + header.metadata)
        return FRAME_INCOMPLETE;
    if (!wire_intact(at, &header) || !parse_read(at + WIRE_HEADER, header.metadata, request))
        return FRAME_OTHER;
    request->id = header.id;
    request->frame = WIRE_HEADER + header.metadata;
    return FRAME_READ;
}

/* [46, [checksums], sent, size, 0, true, told] */
size_t frames_reply(uint8_t *into, uint32_t id, const uint64_t *checksums, size_t count, uint64_t size, const char *told,
                    size_t told_length)
{
    uint8_t *metadata = into + WIRE_HEADER, *at = wire_put_array(metadata, 7);

    *at++ = BLOCKS_TAG;
    at = wire_put_array(at, count);
    for (size_t i = 0; i < count; i++)
        at = wire_put(at, checksums[i]);
    at = wire_put(at, UINT64_MAX >> (64 - count));
    at = wire_put(at, size);
    *at++ = 0;
    *at++ = 0xc3;
    *at++ = (uint8_t)(0xa0 | told_length);
    memcpy(at, told, told_length);
    at += told_length;
    return wire_begin(into, WIRE_REPLY, id, (size_t)(at - metadata), (uint32_t)size);
}
