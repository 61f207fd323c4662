/* What the files of the module `_dadafsd_opening` share. */
#ifndef DADAFSD_OPENING_H
#define DADAFSD_OPENING_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <sys/stat.h>

static inline long long ns(struct timespec time)
{
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Some names of an open directory with what lstat says of each: see listing.c. */
PyObject *list_some(PyObject *module, PyObject *descriptor);

#endif
