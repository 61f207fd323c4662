#include "lz4_stream.h"

#include <string.h>

/* The format's rules for the end of a block, see lz4_avx512.c. */
#define LAST_LITERALS 5
#define LAST_MATCH 12
#define LAST_SEQUENCE 8

void lz4_stream_begin(Lz4Stream *stream, const uint8_t *in, size_t n_in, size_t n_out, bool raw)
{
    stream->in = in;
    stream->in_end = in + n_in;
    stream->left = n_out;
    stream->literals = raw ? n_out : 0;
    stream->match = 0;
    stream->in_sequence = raw;
    stream->raw = raw;
    stream->filled = 0;
}

static bool lengthen(Lz4Stream *s, size_t *length)
{
    uint8_t more;
    do {
        if (s->in == s->in_end || *length > s->left)
            return false;
        more = *s->in++;
        *length += more;
    } while (more == 255);
    return true;
}

static bool read_literals(Lz4Stream *s)
{
    if (s->in == s->in_end)
        return false;
    s->token = *s->in++;
    s->literals = s->token >> 4;
    s->in_sequence = true;
    if (s->literals == 15 && !lengthen(s, &s->literals))
        return false;
    return s->literals <= (size_t)(s->in_end - s->in) && s->literals <= s->left;
}

static bool read_match(Lz4Stream *s)
{
    if (s->raw || (size_t)(s->in_end - s->in) < LAST_SEQUENCE || s->left < LAST_MATCH)
        return false;
    s->offset = (size_t)(s->in[0] | s->in[1] << 8);
    s->in += 2;
    s->match = s->token & 15;
    s->in_sequence = false;
    if (s->match == 15 && !lengthen(s, &s->match))
        return false;
    s->match += 4;
    return s->offset && s->offset <= s->filled && s->match <= s->left - LAST_LITERALS;
}

static void copy_literals(Lz4Stream *s, size_t n)
{
    memcpy(s->window + s->filled, s->in, n);
    s->in += n;
    s->literals -= n;
}

/* What a match at distance d repeats has the period d: each copy doubles what can be copied at once. */
static void copy_match(Lz4Stream *s, size_t n)
{
    uint8_t *to = s->window + s->filled;
    s->match -= n;
    for (size_t distance = s->offset; n; distance *= 2) {
        size_t part = n < distance ? n : distance;
        memcpy(to, to - distance, part);
        to += part;
        n -= part;
    }
}

/* Copy up to n bytes of the current sequence; returns how many, 0 where the block is damaged. */
static size_t copy_some(Lz4Stream *s, size_t n)
{
    if (s->match) {
        n = n < s->match ? n : s->match;
        copy_match(s, n);
        return n;
    }
    while (!s->literals) {
        if (!s->in_sequence) {
            if (!read_literals(s))
                return 0;
            continue;
        }
        return read_match(s) ? copy_some(s, n) : 0;
    }
    n = n < s->literals ? n : s->literals;
    copy_literals(s, n);
    return n;
}

/* A sound block ends with the literals of a sequence, at the end of its input. */
static bool ends_soundly(Lz4Stream *s)
{
    if (!s->match && !s->in_sequence && !read_literals(s))
        return false;
    return !s->match && !s->literals && s->in == s->in_end;
}

const uint8_t *lz4_stream_next(Lz4Stream *s, size_t n)
{
    if (s->filled + n > sizeof s->window) {
        memmove(s->window, s->window + s->filled - LZ4_HISTORY, LZ4_HISTORY);
        s->filled = LZ4_HISTORY;
    }
    const uint8_t *piece = s->window + s->filled;
    while (n) {
        size_t done = copy_some(s, n);
        if (!done)
            return NULL;
        s->filled += done;
        s->left -= done;
        n -= done;
    }
    return s->left || ends_soundly(s) ? piece : NULL;
}
