/* What the files of this module say to each other. */
#ifndef DADAFS_ANSWERS_H
#define DADAFS_ANSWERS_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#define FUSE_USE_VERSION 30
#include <fuse_lowlevel.h>
#include <stdint.h>

/* What Python is asked; the names are in answers.c. */
enum { LOOKUP, GETATTR, OPEN, READ, RELEASE, FORGET, GETXATTR, OPENDIR, READDIR, RELEASEDIR, IDLE, NUMBER,
       INTERRUPT, RETRY, NOTICED, RECLAIM, COUNT };

/* A new reference to what the callable says to `arguments`, which is released; NULL where it has nothing to say. */
PyObject *answers_ask(int which, PyObject *arguments);

/* Put the whole content of a file into the kernel's page cache; whether it is there now. Only for a file that nobody has
 * open: a page that somebody waits for is locked, and this would wait for the lock while that one waits for us. */
int answers_store(fuse_ino_t ino, void *content, size_t length);

/* A new reference to what stands for a request that Python will answer; NULL, with an exception, where there is no memory. */
PyObject *answers_request(fuse_req_t req);

/* Let `ops`, pyfuse3's own, be asked only where Python has no answer at once. */
void answers_install(struct fuse_lowlevel_ops *ops);

/* answer(**callables), of the module. */
PyObject *answers_set(PyObject *module, PyObject *arguments, PyObject *names);

/* reply(request, data), fail(request, errno), of the module. */
PyObject *answers_reply(PyObject *module, PyObject *arguments);
PyObject *answers_fail(PyObject *module, PyObject *arguments);

/* Tell Python of a handle, or of all, whose release was answered already; whether there was one. Before tasks run, all must be. */
int answers_release_one(void);
void answers_settle(void);

/* afterwards(work), of the module: call `work` once the reply to the present request is on its way; whether that will be. */
PyObject *answers_afterwards(PyObject *module, PyObject *work);

/* entry(name, told, cookie), entries(...), of the module: see entries.c. */
PyObject *entries_one(PyObject *module, PyObject *arguments);
PyObject *entries_many(PyObject *module, PyObject *arguments);

/* list(path), of the module: see listing.c. */
PyObject *listing_of(PyObject *module, PyObject *arguments);

/* `Told(id, fields, timeout)` as the kernel wants it; 0, or -1 where it is something else. */
int answers_told(PyObject *answer, struct fuse_entry_param *entry);
void answers_set_time(struct timespec *time, long long ns);

/* The inode number to show for the object `id`: see replies.c. */
ino_t replies_number(unsigned long long id);

/* What interrupts.c does with each request before and after it is processed; `after`: whether it was an interrupt. */
void interrupts_before(const struct fuse_buf *request);
int interrupts_after(const struct fuse_buf *request);
/* Number and thread of the request that was processed last. */
void interrupts_number(uint64_t *unique, int *thread);
PyObject *interrupts_current(PyObject *module, PyObject *unused);

/* answered() -> requests answered in place so far, of the module. */
PyObject *answers_count(PyObject *module, PyObject *unused);

#endif
