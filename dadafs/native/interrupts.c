/* Which request is being processed, and which is to be interrupted.
 *
 * When a signal reaches a process that waits for a reply, the kernel sends FUSE_INTERRUPT with the number of that request.
 * libfuse notes it for programs that ask, and pyfuse3 does not ask: a process that was killed would stay until the reply.
 * So the number is read from the request itself, and Python is told (`dadafs/interrupts.py`).
 */
#include "answers.h"
#include "hot_reads.h"

#include <stdint.h>
#include <string.h>

#define OPCODE_INTERRUPT 36 /* FUSE_INTERRUPT in linux/fuse.h */

struct in_header { /* struct fuse_in_header of linux/fuse.h */
    uint32_t length, opcode;
    uint64_t unique, node;
    uint32_t uid, gid, thread, padding;
};

static struct in_header header;

void interrupts_before(const struct fuse_buf *request)
{
    memset(&header, 0, sizeof header);
    if (!(request->flags & FUSE_BUF_IS_FD) && request->size >= sizeof header)
        memcpy(&header, request->mem, sizeof header);
}

int interrupts_after(const struct fuse_buf *request)
{
    uint64_t unique;

    if (header.opcode != OPCODE_INTERRUPT || request->size < sizeof header + sizeof unique)
        return 0;
    memcpy(&unique, (const char *)request->mem + sizeof header, sizeof unique);
    if (!hot_interrupted(unique))
        Py_XDECREF(answers_ask(INTERRUPT, Py_BuildValue("(K)", (unsigned long long)unique)));
    return 1;
}

void interrupts_number(uint64_t *unique, int *thread)
{
    *unique = header.unique;
    *thread = (int)header.thread;
}

/* current() -> (number, thread) of the request that was processed last, of the module. */
PyObject *interrupts_current(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("(Ki)", (unsigned long long)header.unique, (int)header.thread);
}
