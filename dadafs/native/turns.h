/* One request after the other: see turns.c. */
#ifndef DADAFS_TURNS_H
#define DADAFS_TURNS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct fuse_session;

/* What the handlers say of the request that is processed, or was last. */
struct turn {
    int in_place; /* it was answered here, or will be */
    int awaited;  /* a program now has what it takes to send the next one */
    struct fuse_session *session;
};

extern struct turn turn;

/* The monotonic clock. */
long long monotonic_ns(void);

/* watch(descriptor, runnable, handling), of the module: what the loop sleeps on, -1 where that is not known; the tasks that
 * can go on; and those that answer a request. */
PyObject *turns_watch(PyObject *module, PyObject *arguments);

#endif
