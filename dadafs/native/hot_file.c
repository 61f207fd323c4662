/* `HotFile`, one file in one state as the compiled part reads it, a Python object: see hot_reads.c. */
#include "hot_inside.h"

PyTypeObject *hot_file_type;

int hot_file_held(const struct hot_file *file, uint64_t block)
{
    block &= file->mask;
    return file->held[block / 8] >> block % 8 & 1;
}

static PyObject *file_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    struct block_request request = {.count = 1};
    struct hot_file *self;
    struct fetches *channel;
    PyObject *object;
    unsigned fragment_size;
    unsigned long long most, bits = 8;

    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "OK(KKLLL)IK", &object, &request.handle, &request.version.dev, &request.version.ino,
                          &request.version.size, &request.version.mtime_ns, &request.version.ctime_ns, &fragment_size, &most))
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
    while (bits < self->blocks && bits < most)
        bits *= 2;
    self->mask = bits - 1;
    self->held = PyMem_Calloc(bits / 8, 1);
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
    ((struct hot_file *)object)->until = monotonic_ns() + (long long)((span < 3600 ? span : 3600) * 1e9);
    Py_RETURN_NONE;
}

static void mark(struct hot_file *self, uint64_t bit, int held)
{
    if (held)
        self->held[bit / 8] |= (uint8_t)(1 << bit % 8);
    else
        self->held[bit / 8] &= (uint8_t)~(1 << bit % 8);
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
        mark(self, first & self->mask, held);
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
    return PyBool_FromLong(!self->cold && !fetches_over(self->channel));
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
                                   {Py_tp_doc, "HotFile(channel, handle, version, fragment_size, bits): see hot_reads.c; `bits` bounds what it remembers of the cache."},
                                   {0, NULL}};

static PyType_Spec spec = {"_dadafs_fuse.HotFile", sizeof(struct hot_file), 0, Py_TPFLAGS_DEFAULT, type_slots};

int hot_add_type(PyObject *module)
{
    hot_forget_all();
    hot_file_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return hot_file_type ? PyModule_AddObjectRef(module, "HotFile", (PyObject *)hot_file_type) : -1;
}
