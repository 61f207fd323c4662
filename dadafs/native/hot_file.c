/* `HotFile`, one file in one state as the compiled part reads it, a Python object: see hot_reads.c. */
#include "hot_inside.h"

PyTypeObject *hot_file_type;

static PyObject *file_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    struct block_request request = {.count = 1};
    struct hot_file *self;
    struct fetches *channel;
    PyObject *object;
    unsigned fragment_size;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "OK(KKLLL)I", &object, &request.handle, &request.version.dev, &request.version.ino,
                          &request.version.size, &request.version.mtime_ns, &request.version.ctime_ns, &fragment_size))
        return NULL;
    if (!(channel = fetches_of(object)))
        return NULL;
    if (fragment_size < BLOCK_SIZE || fragment_size % BLOCK_SIZE || request.version.size < 0)
        return PyErr_Format(PyExc_ValueError, "fragments of %u bytes, a file of %lld", fragment_size,
                            (long long)request.version.size);
    self = (struct hot_file *)type->tp_alloc(type, 0); /* zeroed */
    if (!self)
        return NULL;
    self->request = request;
    self->blocks_per_fragment = fragment_size / BLOCK_SIZE;
    self->blocks = ((uint64_t)request.version.size + BLOCK_SIZE - 1) / BLOCK_SIZE;
    self->held = PyMem_Calloc(self->blocks / 8 + 1, 1);
    self->channel = channel;
    Py_INCREF(object);
    if (!self->held) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void file_dealloc(PyObject *object)
{
    struct hot_file *self = (struct hot_file *)object;
    PyTypeObject *type = Py_TYPE(object);

    Py_XDECREF((PyObject *)self->channel);
    PyMem_Free(self->held);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *file_believe(PyObject *object, PyObject *argument)
{
    double span = PyFloat_AsDouble(argument);

    if (PyErr_Occurred())
        return NULL;
    ((struct hot_file *)object)->until = hot_now_ns() + (long long)((span < 3600 ? span : 3600) * 1e9);
    Py_RETURN_NONE;
}

static PyObject *file_hold(PyObject *object, PyObject *arguments)
{
    struct hot_file *self = (struct hot_file *)object;
    unsigned long long fragment, first, end;
    unsigned offset, count;
    int held;

    if (!PyArg_ParseTuple(arguments, "KIIp", &fragment, &offset, &count, &held))
        return NULL;
    if (fragment > self->blocks)
        Py_RETURN_NONE;
    first = fragment * self->blocks_per_fragment + offset;
    end = first + count < self->blocks ? first + count : self->blocks;
    for (; first < end; first++)
        if (held)
            self->held[first / 8] |= (uint8_t)(1 << first % 8);
        else
            self->held[first / 8] &= (uint8_t)~(1 << first % 8);
    Py_RETURN_NONE;
}

static PyObject *file_cool(PyObject *object, PyObject *unused)
{
    struct hot_file *self = (struct hot_file *)object;

    (void)unused;
    self->cold = 1;
    hot_drop(self);
    Py_RETURN_NONE;
}

static PyObject *file_is_usable(PyObject *object, void *unused)
{
    struct hot_file *self = (struct hot_file *)object;

    (void)unused;
    return PyBool_FromLong(!self->cold && fetches_open(self->channel));
}

static PyMethodDef file_methods[] = {
    {"believe", file_believe, METH_O, "believe(seconds): the file is in this state for so long."},
    {"hold", file_hold, METH_VARARGS, "hold(fragment, first, count, held): whether Python's cache has these blocks."},
    {"cool", file_cool, METH_NOARGS, "cool(): nothing of this state is read any more."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef file_attributes[] = {{"usable", file_is_usable, NULL, "Whether reads of it can be answered.", NULL},
                                        {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot type_slots[] = {{Py_tp_new, file_new},
                                   {Py_tp_dealloc, file_dealloc},
                                   {Py_tp_methods, file_methods},
                                   {Py_tp_getset, file_attributes},
                                   {Py_tp_doc, "HotFile(channel, handle, version, fragment_size): see hot_reads.c."},
                                   {0, NULL}};

static PyType_Spec spec = {"_dadafs_fuse.HotFile", sizeof(struct hot_file), 0, Py_TPFLAGS_DEFAULT, type_slots};

int hot_add_type(PyObject *module)
{
    hot_forget_all();
    hot_file_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return hot_file_type ? PyModule_AddObjectRef(module, "HotFile", (PyObject *)hot_file_type) : -1;
}
