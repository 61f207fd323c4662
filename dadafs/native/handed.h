/* Small files that were handed over to the compiled part: see handed.c. */
#ifndef DADAFS_HANDED_H
#define DADAFS_HANDED_H

#include "answers.h"

/* Answer an open, a read or a close; 0 where it is not of a file that was handed over, or has to be answered by Python. */
int handed_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
int handed_read(fuse_req_t req, uint64_t handle, size_t size, off_t offset);
int handed_release(fuse_req_t req, uint64_t handle);

/* Tell Python who opened what; with `all` whatever there is, otherwise where it is enough, or waited for. */
void handed_tell(int all);

/* The mount is gone, and its files with it. */
void handed_forget_all(void);

/* Functions of the module. */
PyObject *handed_over(PyObject *module, PyObject *arguments);
PyObject *handed_take_back(PyObject *module, PyObject *id);
PyObject *handed_rests(PyObject *module, PyObject *id);
PyObject *handed_open_now(PyObject *module, PyObject *unused);

#endif
