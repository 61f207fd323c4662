/* `Fetches`, the Python object: see fetches.c. */
#include "fetches_inside.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

/* A fetch whose bytes Python wants. */
struct wanted {
    PyObject *done;
    Py_buffer into;
};

static const char *const tier_names[] = {"origin", "ssd", "memory"};

static PyObject *numbers(const uint64_t *values, unsigned count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (unsigned i = 0; list && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(values[i]);

        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, number);
    }
    return list;
}

static void drop_wanted(struct wanted *wanted)
{
    PyBuffer_Release(&wanted->into);
    Py_DECREF(wanted->done);
    PyMem_Free(wanted);
}

static void wanted_landed(void *whose, const struct blocks *blocks, int intact)
{
    struct wanted *wanted = whose;
    PyObject *done = wanted->done, *result, *checksums;

    Py_INCREF(done);
    drop_wanted(wanted);
    checksums = blocks ? numbers(blocks->checksums, blocks->count) : NULL;
    if (checksums)
        result = PyObject_CallFunction(done, "OOOs", checksums, intact ? Py_True : Py_False,
                                       blocks->settled ? Py_True : Py_False, tier_names[blocks->tier]);
    else {
        PyErr_Clear();
        result = PyObject_CallFunction(done, "OOOs", Py_None, Py_False, Py_False, "");
    }
    if (!result)
        PyErr_WriteUnraisable(done);
    Py_XDECREF(result);
    Py_XDECREF(checksums);
    Py_DECREF(done);
}

static PyObject *fetch(PyObject *object, PyObject *arguments)
{
    struct fetches *self = (struct fetches *)object;
    struct block_request request = {0};
    struct wanted *wanted;
    PyObject *into, *done;
    uint32_t id;

    if (!PyArg_ParseTuple(arguments, "K(KKLLL)KIIpOO", &request.handle, &request.version.dev, &request.version.ino,
                          &request.version.size, &request.version.mtime_ns, &request.version.ctime_ns,
                          &request.fragment, &request.first, &request.count, &request.prefetch, &into, &done))
        return NULL;
    if (!fetches_open(self))
        return PyLong_FromLong(0);
    wanted = PyMem_Malloc(sizeof *wanted);
    if (!wanted)
        return PyErr_NoMemory();
    if (PyObject_GetBuffer(into, &wanted->into, PyBUF_CONTIG) != 0) {
        PyMem_Free(wanted);
        return NULL;
    }
    Py_INCREF(done);
    wanted->done = done;
    id = wanted->into.len ? fetches_begin(self, &request, wanted->into.buf, (size_t)wanted->into.len, wanted_landed, wanted)
                          : 0;
    if (!id)
        drop_wanted(wanted);
    return PyLong_FromUnsignedLong(id);
}

static PyObject *give_up(PyObject *object, PyObject *arguments)
{
    struct fetches *self = (struct fetches *)object;
    unsigned id;
    struct fetch *found;

    if (!PyArg_ParseTuple(arguments, "I", &id))
        return NULL;
    found = fetches_find(self, id);
    if (!found || found->landed != wanted_landed || !fetches_abandon(self, id))
        Py_RETURN_FALSE;
    drop_wanted(found->whose);
    Py_RETURN_TRUE;
}

static PyObject *receive(PyObject *object, PyObject *unused)
{
    struct fetches *self = (struct fetches *)object;
    int more = fetches_take(self, TURN);

    (void)unused;
    if (more < 0) {
        PyErr_SetString(self->broken ? PyExc_ValueError : PyExc_ConnectionError, self->trouble);
        return NULL;
    }
    return PyBool_FromLong(more);
}

static PyObject *hold(PyObject *object, PyObject *argument)
{
    struct fetches *self = (struct fetches *)object;
    int held = PyObject_IsTrue(argument);

    if (held < 0)
        return NULL;
    self->held = held;
    Py_RETURN_NONE;
}

static PyObject *cork(PyObject *object, PyObject *argument)
{
    struct fetches *self = (struct fetches *)object;
    int corked = PyObject_IsTrue(argument);

    if (corked < 0)
        return NULL;
    if (corked)
        self->corked = 1;
    else
        fetches_flush(self);
    Py_RETURN_NONE;
}

static PyObject *divert(PyObject *object, PyObject *arguments)
{
    unsigned id;

    if (!PyArg_ParseTuple(arguments, "I", &id))
        return NULL;
    fetches_divert((struct fetches *)object, id);
    Py_RETURN_NONE;
}

static PyObject *close_channel(PyObject *object, PyObject *unused)
{
    (void)unused;
    fetches_leave((struct fetches *)object);
    Py_RETURN_NONE;
}

static PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    struct fetches *self;
    PyObject *take, *landed;
    int fd;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "iOO", &fd, &take, &landed))
        return NULL;
    if (!wire_ready()) {
        PyErr_SetString(PyExc_RuntimeError, "no function for checksums was found");
        return NULL;
    }
    self = (struct fetches *)type->tp_alloc(type, 0); /* zeroed */
    if (!self)
        return NULL;
    self->gate = -1;
    self->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* our own: nobody may close it, or take its number, meanwhile */
    if (self->fd < 0) {
        self->over = 1;
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->take = Py_NewRef(take);
    self->landed = Py_NewRef(landed);
    self->buffer = PyMem_Malloc(ROOM + READ_AHEAD);
    self->requests = PyMem_Malloc(MOST_CORKED * REQUEST_ROOM);
    if (!self->buffer || !self->requests) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    if (fetches_enter(self) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    struct fetches *self = (struct fetches *)object;

    Py_VISIT(self->take);
    Py_VISIT(self->landed);
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static int clear(PyObject *object)
{
    struct fetches *self = (struct fetches *)object;

    Py_CLEAR(self->take);
    Py_CLEAR(self->landed);
    return 0;
}

static void dealloc(PyObject *object)
{
    struct fetches *self = (struct fetches *)object;
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    fetches_leave(self);
    clear(object);
    PyMem_Free(self->buffer);
    PyMem_Free(self->requests);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *get_count(PyObject *object, void *which)
{
    struct fetches *self = (struct fetches *)object;

    switch (*(const char *)which) {
    case 'g':
        return PyLong_FromLong(self->gate);
    case 'r':
        return PyLong_FromUnsignedLongLong(self->received);
    default:
        return PyLong_FromUnsignedLong(self->pending);
    }
}

static PyGetSetDef attributes[] = {
    {"gate", get_count, NULL, "A descriptor that is readable when there is something to receive; -1 at the end.", "g"},
    {"received", get_count, NULL, "Bytes received so far.", "r"},
    {"pending", get_count, NULL, "Requests begun here that are under way.", "p"},
    {NULL, NULL, NULL, NULL, NULL}};

static PyMethodDef methods[] = {
    {"fetch", fetch, METH_VARARGS,
     "fetch(handle, version, fragment, first, count, prefetch, into, done) -> number, 0 where nothing was asked.\n"
     "`done(checksums, intact, settled, tier)` is called once, with None where it has to be asked for in another way."},
    {"give_up", give_up, METH_VARARGS, "give_up(number): whether `done` will not be called."},
    {"receive", receive, METH_NOARGS,
     "receive() -> whether there may be more. Raises ConnectionError at the end of the channel, ValueError where\n"
     "the head broke the protocol."},
    {"hold", hold, METH_O, "hold(whether): begin no request while Python sends one."},
    {"cork", cork, METH_O, "cork(whether): keep the requests begun from now on, or send them together."},
    {"divert", divert, METH_VARARGS, "divert(number): write no more of this reply into its buffer."},
    {"close", close_channel, METH_NOARGS, "End all requests."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot slots[] = {{Py_tp_new, make},           {Py_tp_dealloc, dealloc},
                              {Py_tp_traverse, traverse}, {Py_tp_clear, clear},
                              {Py_tp_methods, methods},           {Py_tp_getset, attributes},
                              {Py_tp_doc, "Fetches(fd, take, landed): see fetches.c."},
                              {0, NULL}};

static PyType_Spec spec = {"_dadafs_fuse.Fetches", sizeof(struct fetches), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
static PyTypeObject *the_type;

struct fetches *fetches_of(PyObject *object)
{
    if (!the_type || !PyObject_TypeCheck(object, the_type)) {
        PyErr_SetString(PyExc_TypeError, "not a data channel");
        return NULL;
    }
    return (struct fetches *)object;
}

int fetches_add_type(PyObject *module)
{
    the_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return the_type ? PyModule_AddObjectRef(module, "Fetches", (PyObject *)the_type) : -1;
}
