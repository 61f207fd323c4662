/* What the two files of this module say to each other. */
#ifndef DADAFS_ANSWERS_H
#define DADAFS_ANSWERS_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#define FUSE_USE_VERSION 30
#include <fuse_lowlevel.h>

/* Let `ops`, pyfuse3's own, be asked only where Python has no answer at once. */
void answers_install(struct fuse_lowlevel_ops *ops);

/* answer(**callables), of the module. */
PyObject *answers_set(PyObject *module, PyObject *arguments, PyObject *names);

/* reply(request, data), fail(request, errno), of the module. */
PyObject *answers_reply(PyObject *module, PyObject *arguments);
PyObject *answers_fail(PyObject *module, PyObject *arguments);

/* answered() -> requests answered in place so far, of the module. */
PyObject *answers_count(PyObject *module, PyObject *unused);

#endif
