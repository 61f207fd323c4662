/* The module `_dadafsd_hot`. */
#include "hot_reads.h"

static PyObject *use_xxh3_of(PyObject *module, PyObject *path)
{
    const char *name = PyUnicode_AsUTF8(path);

    (void)module;
    return name ? PyBool_FromLong(wire_use_hash(name) == 0) : NULL;
}

static PyMethodDef methods[] = {
    {"use_xxh3_of", use_xxh3_of, METH_O,
     "use_xxh3_of(path): take XXH3 from the extension module at `path`, which is loaded; whether it has that. Nothing\n"
     "else of this module may be used before."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_dadafsd_hot", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__dadafsd_hot(void)
{
    PyObject *made = PyModule_Create(&module);

    if (made && (PyModule_AddType(made, &Entry_Type) != 0 || PyModule_AddType(made, &Answers_Type) != 0 ||
                 PyModule_AddType(made, &Loop_Type) != 0))
        Py_CLEAR(made);
    return made;
}
