/* See frames.h. */
#include "frames.h"

#include <string.h>

enum { TAG_READ = 20, TAG_BLOCKS = 46 };

size_t frames_request(uint8_t *out, uint32_t id, const struct block_request *request)
{
    uint8_t *metadata = out + WIRE_HEADER, *at = wire_put_array(metadata, 8); /* the tag first */

    *at++ = TAG_READ;
    at = wire_put(at, request->handle);
    at = wire_put_array(at, 5);
    at = wire_put(at, request->version.dev);
    at = wire_put(at, request->version.ino);
    at = wire_put_signed(at, request->version.size);
    at = wire_put_signed(at, request->version.mtime_ns);
    at = wire_put_signed(at, request->version.ctime_ns);
    at = wire_put(at, request->fragment);
    at = wire_put(at, request->first);
    at = wire_put(at, request->count);
    at = wire_put_array(at, 0); /* nothing is known */
    *at++ = request->prefetch ? 0xc3 : 0xc2;
    return wire_begin(out, WIRE_REQUEST, id, (size_t)(at - metadata), 0);
}

static int take_tier(struct wire_reader *in)
{
    static const struct {
        const char *name;
        uint8_t length;
        int tier;
    } tiers[] = {{"memory", 6, TIER_MEMORY}, {"ssd", 3, TIER_SSD}, {"origin", 6, TIER_ORIGIN}};
    uint8_t first = wire_byte(in);
    size_t length = first & 0x1f;

    if ((first & 0xe0) == 0xa0 && (size_t)(in->end - in->at) == length) /* it is the last item */
        for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++)
            if (tiers[i].length == length && memcmp(in->at, tiers[i].name, length) == 0) {
                in->at += length;
                return tiers[i].tier;
            }
    in->wrong = 1;
    return TIER_ORIGIN;
}

int frames_blocks(const uint8_t *metadata, size_t length, struct blocks *blocks)
{
    struct wire_reader in = {metadata, metadata + length, 0};

    wire_exactly(&in, 0x97);
    wire_exactly(&in, TAG_BLOCKS);
    blocks->count = wire_array(&in);
    if (in.wrong || blocks->count > MOST_BLOCKS)
        return -1;
    for (unsigned i = 0; i < blocks->count; i++)
        blocks->checksums[i] = wire_natural(&in);
    if (blocks->count > MOST_NAMED)
        blocks->all = wire_integer(&in) == -1;
    else
        blocks->all = wire_natural(&in) == (blocks->count == 64 ? UINT64_MAX : (UINT64_C(1) << blocks->count) - 1);
    blocks->size = wire_natural(&in);
    blocks->encoding = (unsigned)wire_natural(&in);
    blocks->settled = wire_bool(&in);
    blocks->tier = take_tier(&in);
    return wire_done(&in) ? 0 : -1;
}
