/* All connections that wait for a request: where one comes that can be answered at once, nobody is woken.
 *
 * A connection is parked here with its receive buffer. One task of the loop (hot_reads.py) waits until any of them has
 * something to read and calls `serve`; the task of a connection is woken only where a request is left to it, or the rest
 * of a reply. To wake a task, and to have it wait again, costs several times what an answer costs.
 *
 * Where requests keep coming `serve` waits for the next one itself, without the interpreter's lock, instead of returning
 * to a loop that would do nothing else. It gives way at once when that loop has anything to do, which its own epoll says
 * (`waker`), and the tasks that can go on (`others`); and after `ROW_NS` in any case, since timers are not seen.
 */
#include "hot_reads.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define ROW_NS 8000000 /* so long at most it goes on without the loop */
#define EVENTS 32       /* connections looked at in one go */
#define DISCOURAGED 8   /* after so many requests in a row that did not come they are waited for only now and then */
#define NOW_AND_THEN 16

typedef struct {
    PyObject_HEAD
    int epoll;
    PyObject *parked; /* socket -> Answers */
    unsigned disappointed; /* so often in a row */
} Loop;

/* The connection that is parked with this socket, a new reference; NULL where there is none. */
static Answers *parked_with(Loop *self, int sock)
{
    PyObject *key = PyLong_FromLong(sock);
    PyObject *found = key ? PyDict_GetItemWithError(self->parked, key) : NULL;

    Py_XDECREF(key);
    return (Answers *)Py_XNewRef(found);
}

/* Park no more: whatever comes from now on is for others. To be called before the socket is closed. */
static void take_out(Loop *self, Answers *one)
{
    PyObject *key = PyLong_FromLong(one->turn.sock);

    epoll_ctl(self->epoll, EPOLL_CTL_DEL, one->turn.sock, NULL);
    if (!key || PyDict_DelItem(self->parked, key) != 0)
        PyErr_Clear();
    Py_XDECREF(key);
    one->parked = 0;
}

/* Go on with a connection that can be read, or written where a rest waits for that; how it ended. */
static int go_on(Answers *one)
{
    if (one->turn.rest.entry && answers_send_more(&one->turn) == 0)
        return LEFT; /* whoever sends the rest finds out why */
    return one->turn.rest.entry ? REST : answers_take_turn(one, &one->turn);
}

/* Wait for what comes next: for requests, or until more of the rest can be sent; 0, or -1. */
static int wait_on(Loop *self, Answers *one)
{
    struct epoll_event event = {.events = one->state == REST ? EPOLLOUT : EPOLLIN, .data.fd = one->turn.sock};

    if (one->writes == (one->state == REST))
        return 0;
    one->writes = !one->writes;
    return epoll_ctl(self->epoll, EPOLL_CTL_MOD, one->turn.sock, &event);
}

/* An exception is raised to whoever takes the connection back. */
static void keep_error(Answers *one)
{
    PyObject *type, *trace;

    PyErr_Fetch(&type, &one->error, &trace);
    PyErr_NormalizeException(&type, &one->error, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
}

/* Whether its turn ended with requests in the buffer: no event will tell of those, its task goes on with them. */
static int has_more(const Answers *one)
{
    return one->state == TURN && one->turn.start < one->turn.end;
}

/* Answer what `sock` has; 0, or -1 with an exception. The connection goes to `woken` where Python has to go on. */
static int answer_one(Loop *self, int sock, PyObject *woken)
{
    Answers *one = parked_with(self, sock);
    int failed = 0;

    if (!one)
        return PyErr_Occurred() ? -1 : 0;
    one->state = go_on(one);
    if (one->state < 0)
        keep_error(one);
    if (one->state < 0 || one->state == LEFT || has_more(one) || wait_on(self, one) != 0) {
        take_out(self, one);
        failed = PyList_Append(woken, (PyObject *)one);
    }
    Py_DECREF(one);
    return failed;
}

/* Whether there is something to read before the loop has something to do, or `patience_ns` are over. */
static int another(Loop *self, int waker, int64_t patience_ns)
{
    struct pollfd both[2] = {{.fd = self->epoll, .events = POLLIN}, {.fd = waker, .events = POLLIN}};
    struct timespec patience = {.tv_sec = patience_ns / 1000000000, .tv_nsec = patience_ns % 1000000000};
    int ready;

    if (self->disappointed >= DISCOURAGED && self->disappointed % NOW_AND_THEN) {
        self->disappointed++;
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    ready = ppoll(both, 2, &patience, NULL);
    Py_END_ALLOW_THREADS
    if (ready <= 0 || both[1].revents || !(both[0].revents & POLLIN)) {
        self->disappointed += ready == 0;
        return 0;
    }
    self->disappointed = 0;
    return 1;
}

static PyObject *serve(Loop *self, PyObject *arguments)
{
    PyObject *woken = PyList_New(0), *others;
    struct epoll_event ready[EVENTS];
    int64_t end = now_ns() + ROW_NS, left;
    int waker, count;

    if (!woken || !PyArg_ParseTuple(arguments, "iO", &waker, &others))
        goto failed;
    do {
        count = epoll_wait(self->epoll, ready, EVENTS, 0);
        left = end - now_ns();
        for (int i = 0; i < count && left > 0; i++) {
            if (answer_one(self, ready[i].data.fd, woken) != 0)
                goto failed;
            left = end - now_ns();
        }
    } while (left > 0 && PyList_GET_SIZE(woken) == 0 && waker >= 0 && PyObject_Size(others) == 0 &&
             another(self, waker, left));
    return woken;
failed:
    Py_XDECREF(woken);
    return NULL;
}

static PyObject *park(Loop *self, PyObject *arguments)
{
    struct epoll_event event = {.events = EPOLLIN};
    Py_ssize_t start, end;
    PyObject *key, *buffer;
    Answers *one;
    int sock;

    if (!PyArg_ParseTuple(arguments, "O!iOnn", &Answers_Type, &one, &sock, &buffer, &start, &end))
        return NULL;
    if (one->parked || one->view.obj) {
        PyErr_SetString(PyExc_RuntimeError, "it is parked already");
        return NULL;
    }
    if (PyObject_GetBuffer(buffer, &one->view, PyBUF_WRITABLE) != 0)
        return NULL;
    event.data.fd = sock;
    key = PyLong_FromLong(sock);
    if (!key || answers_begin(&one->turn, sock, &one->view, start, end) != 0 ||
        PyDict_SetItem(self->parked, key, (PyObject *)one) != 0) {
        PyBuffer_Release(&one->view);
        Py_XDECREF(key);
        return NULL;
    }
    Py_DECREF(key);
    one->parked = 1;
    one->writes = 0;
    one->state = WAIT;
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, sock, &event) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        take_out(self, one);
        PyBuffer_Release(&one->view);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Those that could not send a rest for so many seconds. */
static PyObject *stuck(Loop *self, PyObject *seconds)
{
    PyObject *found = PyList_New(0), *key, *value;
    int64_t limit = now_ns() - (int64_t)(PyFloat_AsDouble(seconds) * 1e9);
    Py_ssize_t position = 0;

    if (!found || PyErr_Occurred())
        goto failed;
    while (PyDict_Next(self->parked, &position, &key, &value)) {
        const struct rest *rest = &((Answers *)value)->turn.rest;

        if (rest->entry && rest->since_ns < limit && PyList_Append(found, value) != 0)
            goto failed;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(found); i++)
        take_out(self, (Answers *)PyList_GET_ITEM(found, i));
    return found;
failed:
    Py_XDECREF(found);
    return NULL;
}

static PyObject *leave(Loop *self, PyObject *argument)
{
    Answers *one = (Answers *)argument;

    if (Py_IS_TYPE(argument, &Answers_Type) && one->parked)
        take_out(self, one);
    Py_RETURN_NONE;
}

static PyObject *take_back(Loop *self, PyObject *argument)
{
    Answers *one = (Answers *)argument;

    if (!Py_IS_TYPE(argument, &Answers_Type) || !one->view.obj) {
        PyErr_SetString(PyExc_ValueError, "it was not parked");
        return NULL;
    }
    if (one->parked)
        take_out(self, one);
    PyBuffer_Release(&one->view);
    if (one->error) {
        PyErr_SetObject((PyObject *)Py_TYPE(one->error), one->error);
        Py_CLEAR(one->error);
        return NULL;
    }
    return answers_moved(one->state, &one->turn);
}

/* --- the type ------------------------------------------------------------------------------------------------------ */

static PyObject *loop_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    Loop *self;

    if (PyTuple_GET_SIZE(arguments) || names)
        return PyErr_Format(PyExc_TypeError, "Loop() takes no arguments");
    self = (Loop *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->parked = PyDict_New();
    if (self->epoll < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    if (self->epoll < 0 || !self->parked)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void loop_dealloc(Loop *self)
{
    if (self->epoll >= 0)
        close(self->epoll);
    Py_XDECREF(self->parked);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *loop_fileno(Loop *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLong(self->epoll);
}

static PyMethodDef methods[] = {
    {"fileno", (PyCFunction)(void (*)(void))loop_fileno, METH_NOARGS,
     "What can be read where a parked connection has something to read."},
    {"serve", (PyCFunction)(void (*)(void))serve, METH_VARARGS,
     "serve(waker, others) -> the connections that Python has to go on with, which are parked no more. It goes on while\n"
     "requests come, until `waker` (-1: not at all) can be read or `others` is not empty."},
    {"park", (PyCFunction)(void (*)(void))park, METH_VARARGS,
     "park(answers, socket, buffer, start, end): wait for requests; the buffer belongs to this until `take_back`."},
    {"stuck", (PyCFunction)(void (*)(void))stuck, METH_O,
     "stuck(seconds) -> the connections that have waited for so long to send a rest; they are parked no more."},
    {"leave", (PyCFunction)(void (*)(void))leave, METH_O,
     "leave(answers): answer no more; to be called before the socket is closed."},
    {"take_back", (PyCFunction)(void (*)(void))take_back, METH_O,
     "take_back(answers) -> what `Answers.run` returns, for all the time that it was parked. Raises OSError as that does."},
    {NULL, NULL, 0, NULL}};

PyTypeObject Loop_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_dadafsd_hot.Loop",
    .tp_doc = "Loop(): all connections that wait for a request; see loop.c.",
    .tp_basicsize = sizeof(Loop),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = loop_new,
    .tp_dealloc = (destructor)loop_dealloc,
    .tp_methods = methods,
};
