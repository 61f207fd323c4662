/* Replies that are put right on their way to libfuse, pyfuse3's own included.
 *
 * Python has counted a reference that the kernel gets with the reply to a look-up; where the request is no longer there it
 * gets none, and ours would be kept for as long as the mount lives. And pyfuse3 has one number for an object, its id, where
 * the kernel takes two: an object that got an id of its own is shown with the inode number that it has on the origin.
 */
#include "answers.h"

#include <dlfcn.h>
#include <errno.h>

#define OWN_IDS (1ULL << 63) /* as in node.py: ids from here up are the mount's own */

ino_t replies_number(unsigned long long id)
{
    PyObject *answer;
    unsigned long long number = id;

    if (id < OWN_IDS)
        return (ino_t)id;
    answer = answers_ask(NUMBER, Py_BuildValue("(K)", id));
    if (answer && PyLong_Check(answer))
        number = PyLong_AsUnsignedLongLongMask(answer);
    Py_XDECREF(answer);
    return (ino_t)number;
}

/* `attr` with the inode number that is to be shown; `copy` has room for it. */
static const struct stat *shown(const struct stat *attr, struct stat *copy)
{
    PyGILState_STATE state;

    if (attr->st_ino < OWN_IDS)
        return attr;
    *copy = *attr;
    state = PyGILState_Ensure();
    copy->st_ino = replies_number(attr->st_ino);
    PyGILState_Release(state);
    return copy;
}

/* The function of libfuse that one of ours stands before. */
static void *before(const char *name)
{
    return dlsym(dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_NOLOAD), name);
}

typedef int reply_entry_fn(fuse_req_t, const struct fuse_entry_param *);
typedef int reply_attr_fn(fuse_req_t, const struct stat *, double);
typedef size_t add_direntry_fn(fuse_req_t, char *, size_t, const char *, const struct fuse_entry_param *, off_t);

__attribute__((visibility("default"))) int fuse_reply_entry(fuse_req_t req, const struct fuse_entry_param *entry)
{
    static reply_entry_fn *real;
    struct fuse_entry_param told = *entry;
    struct stat copy;
    int result;

    if (!real)
        *(void **)&real = before("fuse_reply_entry");
    told.attr = *shown(&entry->attr, &copy);
    result = real(req, &told);
    if (result == -ENOENT && entry->ino) {
        PyGILState_STATE state = PyGILState_Ensure();

        Py_XDECREF(answers_ask(FORGET, Py_BuildValue("(KK)", (unsigned long long)entry->ino, 1ULL)));
        PyGILState_Release(state);
    }
    return result;
}

__attribute__((visibility("default"))) int fuse_reply_attr(fuse_req_t req, const struct stat *attr, double timeout)
{
    static reply_attr_fn *real;
    struct stat copy;

    if (!real)
        *(void **)&real = before("fuse_reply_attr");
    return real(req, shown(attr, &copy), timeout);
}

__attribute__((visibility("default"))) size_t fuse_add_direntry_plus(fuse_req_t req, char *reply, size_t size,
                                                                     const char *name,
                                                                     const struct fuse_entry_param *entry, off_t next)
{
    static add_direntry_fn *real;
    struct fuse_entry_param told = *entry;
    struct stat copy;

    if (!real)
        *(void **)&real = before("fuse_add_direntry_plus");
    told.attr = *shown(&entry->attr, &copy);
    return real(req, reply, size, name, &told, next);
}
