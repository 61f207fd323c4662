/* Small reads here and there, from the request of the kernel to its reply: see hot_reads.c. */
#ifndef DADAFS_HOT_READS_H
#define DADAFS_HOT_READS_H

#include "answers.h"

/* Answer a read of the handle `handle` now or later; 0 where it is not of that kind, and nothing was done. */
int hot_read(fuse_req_t req, uint64_t handle, size_t size, off_t offset);

/* A signal reached whoever waits for the request `number`; 0 where that is none of these. */
int hot_interrupted(uint64_t number);

/* How many requests wait for the head. */
unsigned hot_waiting(void);

/* The mount is gone, and its requests with it. */
void hot_forget_all(void);

/* Functions of the module. */
PyObject *hot_start(PyObject *module, PyObject *arguments);
PyObject *hot_attach(PyObject *module, PyObject *arguments);
PyObject *hot_expire(PyObject *module, PyObject *arguments);
PyObject *hot_give_back(PyObject *module, PyObject *unused);
PyObject *hot_drain(PyObject *module, PyObject *unused);

/* Add the type `HotFile` to the module; 0, or -1. */
int hot_add_type(PyObject *module);

#endif
