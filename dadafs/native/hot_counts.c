/* What is counted of reads that Python does not see, until it asks: see hot_reads.c. */
#include "hot_inside.h"

#include <string.h>

#define LATEST 64
#define MOST_BOUNDS 16

struct latest {
    uint64_t handle;
    off_t offset;
    size_t size;
    long long ns, since;
    int tier;
};

static struct latest latest[LATEST];
static unsigned latest_count;
static long long bounds[MOST_BOUNDS];
static unsigned bound_count;
static unsigned long long buckets[TIERS][MOST_BOUNDS + 1];
static double seconds[TIERS];

void hot_count_wait(const struct waiting_read *read, int tier, long long now)
{
    struct handle *handle = hot_handle(read->handle);
    long long ns = now - read->since;

    latest[latest_count++ % LATEST] =
        (struct latest){read->handle, read->offset, read->size, ns, read->since, tier};
    if (handle) {
        handle->tally.misses++;
        handle->tally.miss_bytes += read->size;
        handle->tally.waited_ns += (unsigned long long)ns;
        handle->tally.tiers[tier]++;
    }
}

void hot_count_reply(const struct waiting_read *read, size_t length, int tier, long long now)
{
    struct handle *handle = hot_handle(read->handle);
    long long ns = now - read->since;
    unsigned bucket = 0;

    while (bucket < bound_count && ns > bounds[bucket])
        bucket++;
    buckets[tier][bucket]++;
    seconds[tier] += (double)ns / 1e9;
    if (handle)
        handle->tally.wire_bytes += length;
}

int hot_count_in(PyObject *limits)
{
    Py_ssize_t count = PyTuple_GET_SIZE(limits);

    if (count > MOST_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "at most %d bounds", MOST_BOUNDS);
        return -1;
    }
    bound_count = (unsigned)count;
    for (unsigned i = 0; i < bound_count; i++)
        bounds[i] = (long long)(PyFloat_AsDouble(PyTuple_GET_ITEM(limits, (Py_ssize_t)i)) * 1e9);
    return PyErr_Occurred() ? -1 : 0;
}

void hot_forget_counts(void)
{
    latest_count = 0;
    memset(buckets, 0, sizeof buckets);
    memset(seconds, 0, sizeof seconds);
}

/* --- brought to Python ------------------------------------------------------------------------------------------------ */

static PyObject *tallies(void)
{
    PyObject *list = PyList_New(0);

    for (unsigned i = 0; list && i < HANDLES; i++) {
        struct tally *t = &hot_handles[i].tally;
        PyObject *one;

        if (!hot_handles[i].number || !(t->hits + t->misses + t->requests + t->damaged))
            continue;
        one = Py_BuildValue("(KKKKKKKKK(KKK))", (unsigned long long)hot_handles[i].number, t->hits, t->hit_bytes, t->misses,
                            t->miss_bytes, t->wire_bytes, t->requests, t->waited_ns, t->damaged, t->tiers[0],
                            t->tiers[1], t->tiers[2]);
        memset(t, 0, sizeof *t);
        if (!one || PyList_Append(list, one) != 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *replies(void)
{
    PyObject *list = PyList_New(0);

    for (int tier = 0; list && tier < TIERS; tier++) {
        PyObject *counts = PyTuple_New((Py_ssize_t)bound_count + 1), *one;

        for (unsigned i = 0; counts && i <= bound_count; i++)
            PyTuple_SET_ITEM(counts, (Py_ssize_t)i, PyLong_FromUnsignedLongLong(buckets[tier][i]));
        one = Py_BuildValue("(dN)", seconds[tier], counts);
        if (!one || PyList_Append(list, one) != 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    memset(buckets, 0, sizeof buckets);
    memset(seconds, 0, sizeof seconds);
    return list;
}

static PyObject *latest_reads(void)
{
    unsigned count = latest_count < LATEST ? latest_count : LATEST, first = latest_count - count;
    long long now = monotonic_ns();
    PyObject *list = PyList_New(0);

    for (unsigned i = 0; list && i < count; i++) {
        struct latest *l = &latest[(first + i) % LATEST];
        PyObject *one = Py_BuildValue("(KLnddi)", (unsigned long long)l->handle, (long long)l->offset,
                                      (Py_ssize_t)l->size, (double)l->ns / 1e9, (double)(now - l->since) / 1e9, l->tier);

        if (!one || PyList_Append(list, one) != 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    latest_count = 0;
    return list;
}

PyObject *hot_drain(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("(NNN)", tallies(), replies(), latest_reads());
}
