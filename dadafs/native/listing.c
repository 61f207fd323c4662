/* Listing a directory of the mount, so that the kernel knows its names: by a thread of ours, which needs the interpreter's
 * lock for none of it. (os.listdir takes it again after each name, and waits for it each time.) */
#include "answers.h"

#include <dirent.h>
#include <errno.h>

PyObject *listing_of(PyObject *module, PyObject *arguments)
{
    const char *path;
    DIR *directory;
    int failed;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "y", &path))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    directory = opendir(path);
    if (directory) {
        do
            errno = 0;
        while (readdir(directory));
        failed = errno;
        closedir(directory);
    } else {
        failed = errno;
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(failed);
}
