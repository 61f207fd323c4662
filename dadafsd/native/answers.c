/* Reads of one connection that can be answered at once, one after the other.
 *
 * `run` is called by the task that receives the requests of the connection, in the loop's thread and with the
 * interpreter's lock, and it never waits: so to everybody else a row of answers is one step of that task. It receives
 * into the channel's own buffer. A request that it does not understand or cannot answer stays there for Python, and of a
 * reply that the socket takes in part only the rest is handed over. After `TURN_NS` at most the loop has its turn.
 *
 * What Python counts for a read is counted here in the same objects, before the reply is sent.
 */
#include "hot_reads.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>
#include <time.h>

#define TURN_NS 1000000        /* requests are answered in a row for so long at most */
#define MOST_ASKED 1024        /* blocks, as in service.py */
#define ASKED_EACH (256 << 10) /* after so many bytes it is asked again whether payloads go raw */

static PyObject *identity_name, *scan_name, *tiers_name, *reads_name, *bytes_name, *read_as_name, *note_read_name;

int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* --- what is counted -------------------------------------------------------------------------------------------- */

/* object.name += by; 0, or -1 with an exception. */
static int add(PyObject *object, PyObject *name, uint64_t by)
{
    PyObject *old = PyObject_GetAttr(object, name);
    PyObject *more = PyLong_FromUnsignedLongLong(by);
    PyObject *sum = old && more ? PyNumber_Add(old, more) : NULL;
    int failed = !sum || PyObject_SetAttr(object, name, sum) != 0;

    Py_XDECREF(sum);
    Py_XDECREF(more);
    Py_XDECREF(old);
    return failed ? -1 : 0;
}

/* mapping[key] += by, where what is not there counts as 0. */
static int add_to(PyObject *mapping, PyObject *key, uint64_t by)
{
    PyObject *old = PyDict_GetItemWithError(mapping, key);
    PyObject *more = PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(by);
    PyObject *sum = !more ? NULL : old ? PyNumber_Add(old, more) : Py_NewRef(more);
    int failed = !sum || PyDict_SetItem(mapping, key, sum) != 0;

    Py_XDECREF(sum);
    Py_XDECREF(more);
    return failed ? -1 : 0;
}

static int count_scan(PyObject *file, const Entry *entry, uint64_t size)
{
    PyObject *scan = PyObject_GetAttr(file, scan_name), *tiers = NULL;
    int failed = !scan;

    if (scan && scan != Py_None) {
        tiers = PyObject_GetAttr(scan, tiers_name);
        failed = !tiers || !PyDict_Check(tiers) || add_to(tiers, entry->tier, size) || add(scan, reads_name, 1) ||
                 add(scan, bytes_name, size);
    }
    Py_XDECREF(tiers);
    Py_XDECREF(scan);
    return failed ? -1 : 0;
}

/* The file was read in this state: see OpenFile.note_read. */
static int note_read(PyObject *file, const Entry *entry)
{
    PyObject *seen = PyObject_GetAttr(file, read_as_name), *noted = NULL;
    int same = seen ? PyObject_RichCompareBool(seen, entry->version, Py_EQ) : -1;

    if (same == 0)
        noted = PyObject_CallMethodOneArg(file, note_read_name, entry->version);
    Py_XDECREF(noted);
    Py_XDECREF(seen);
    return same > 0 || noted ? 0 : -1;
}

/* Count a read of `size` bytes, as `Service` does; 0, or -1 with an exception. */
static int count(Answers *self, PyObject *file, const Entry *entry, uint64_t size)
{
    if (self->tier != entry->tier) {
        PyObject *tally = PyObject_CallOneArg(self->tally_of, entry->tier);

        if (!tally)
            return -1;
        Py_XSETREF(self->tally, tally);
        Py_XSETREF(self->tier, Py_NewRef(entry->tier));
    }
    if (note_read(file, entry) || add_to(self->requests, self->counted, 1) || add(self->tally, reads_name, 1) ||
        add(self->tally, bytes_name, size))
        return -1;
    self->total++;
    return count_scan(file, entry, size);
}

/* --- one read --------------------------------------------------------------------------------------------------- */

static void put(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value); /* little-endian, as Python packed it: see meson.build */
}

/* The entry asked for, a new reference; NULL where there is none. */
static Entry *find_entry(Answers *self, const struct request *request)
{
    PyObject *key, *found = NULL;

    put(self->key + 8, request->fragment);
    put(self->key + 16, request->dev);
    put(self->key + 24, request->ino);
    put(self->key + 32, request->size);
    put(self->key + 40, (uint64_t)request->mtime_ns);
    put(self->key + 48, (uint64_t)request->ctime_ns);
    key = PyBytes_FromStringAndSize((const char *)self->key, KEY_SIZE);
    if (key)
        found = PyDict_GetItemWithError(self->table, key);
    Py_XDECREF(key);
    return found && Py_IS_TYPE(found, &Entry_Type) ? (Entry *)Py_NewRef(found) : NULL;
}

/* The open file of the handle, a new reference; NULL where there is none, or it is another file than that of `entry`. */
static PyObject *find_file(Answers *self, const struct request *request, const Entry *entry)
{
    PyObject *handle = PyLong_FromUnsignedLongLong(request->handle), *identity;
    PyObject *file = handle ? PyDict_GetItemWithError(self->handles, handle) : NULL;
    int same = 0;

    Py_XDECREF(handle);
    if (!file)
        return NULL;
    Py_INCREF(file);
    identity = PyObject_GetAttr(file, identity_name);
    if (identity)
        same = PyObject_RichCompareBool(identity, entry->identity, Py_EQ);
    Py_XDECREF(identity);
    if (same != 1)
        Py_CLEAR(file);
    return file;
}

/* Whether a payload of so many bytes goes as it is; what Python said last holds for a while. */
static int goes_raw(Answers *self, uint64_t size)
{
    PyObject *bytes, *answer;

    if (size < PACKED_FROM)
        return 1;
    self->unasked += size;
    if (self->raw && self->unasked < ASKED_EACH)
        return 1;
    bytes = PyLong_FromUnsignedLongLong(self->unasked);
    answer = bytes ? PyObject_CallOneArg(self->goes_raw, bytes) : NULL;
    self->raw = answer == Py_True;
    self->unasked = 0;
    Py_XDECREF(answer);
    Py_XDECREF(bytes);
    return self->raw;
}

/* So much of what was still to be sent was sent. */
static void was_sent(struct turn *turn, uint64_t sent)
{
    struct rest *rest = &turn->rest;
    uint64_t of_head = rest->head_length - rest->head_sent;

    turn->sent += sent;
    if (of_head > sent)
        of_head = sent;
    rest->head_sent += of_head;
    rest->start += sent - of_head;
    rest->length -= sent - of_head;
    if (rest->head_sent == rest->head_length && rest->length == 0)
        Py_CLEAR(rest->entry);
}

uint64_t answers_send_more(struct turn *turn)
{
    struct rest *rest = &turn->rest;
    uint64_t sent = entry_send(rest->entry, turn->sock, rest->head + rest->head_sent, rest->head_length - rest->head_sent,
                               rest->start, rest->length, NULL, 0);

    was_sent(turn, sent);
    return sent;
}

/* The rest as Python sends it: (bytes, buffer or None, fd, offset, length, owner); None where there is none. */
static PyObject *rest_of(struct turn *turn)
{
    const struct rest *rest = &turn->rest;
    const Entry *entry = rest->entry;

    if (!entry)
        return Py_NewRef(Py_None);
    return Py_BuildValue("(y#OiLKO)", (const char *)rest->head + rest->head_sent,
                         (Py_ssize_t)(rest->head_length - rest->head_sent), entry->data ? entry->data : Py_None,
                         entry->fd, (long long)(entry->offset + (int64_t)rest->start),
                         (unsigned long long)rest->length, entry->owner);
}

/* Whether a request that is there whole follows `request`: their replies go together. */
static int another_follows(struct turn *turn, const struct request *request)
{
    size_t next = turn->start + request->frame;
    struct request following;

    turn->corked = frames_parse(turn->buffer + next, turn->end - next, &following) == FRAME_READ;
    return turn->corked;
}

/* Send what waits for a reply that does not follow after all. */
static void uncork(struct turn *turn)
{
    int on = 1;

    if (turn->corked)
        setsockopt(turn->sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* which it is; that sends it, too */
    turn->corked = 0;
}

/* Answer from `entry`; whether that was done or begun: where not, Python has to do it. */
static int answer_from(Answers *self, struct turn *turn, const struct request *request, PyObject *file, Entry *entry,
                       int64_t now)
{
    static uint8_t buffer[SMALL]; /* in use by one call at a time: nothing here lets go of the interpreter's lock */
    struct rest *rest = &turn->rest;
    size_t count_of;
    uint64_t start, length;

    if (request->first >= entry->blocks || request->count == 0 || (entry->asks_ns && now >= entry->asks_ns))
        return 0;
    count_of = entry->blocks - (size_t)request->first;
    if (count_of > request->count)
        count_of = (size_t)request->count;
    start = request->first * BLOCK_SIZE;
    length = entry->length - start;
    if (length > count_of * BLOCK_SIZE)
        length = count_of * BLOCK_SIZE;
    if (count_of > MOST_BLOCKS || request->count > MOST_ASKED || !entry_ready(entry, start, length, buffer))
        return 0;
    if ((!entry->dense && !goes_raw(self, length)) || count(self, file, entry, length) != 0)
        return 0;
    turn->corked = 0;
    entry->used_ns = now;
    entry->used = 1;
    rest->head_length = frames_reply(rest->head, request->id, entry->checksums + request->first, count_of, length,
                                     entry->told, entry->told_length);
    rest->head_sent = 0;
    rest->start = start;
    rest->length = length;
    rest->since_ns = now;
    rest->entry = (Entry *)Py_NewRef(entry);
    was_sent(turn, entry_send(entry, turn->sock, rest->head, rest->head_length, start, length,
                              length <= SMALL ? buffer : NULL, length <= SMALL && another_follows(turn, request)));
    return 1;
}

static int answer(Answers *self, struct turn *turn, const struct request *request, int64_t now)
{
    Entry *entry = find_entry(self, request);
    PyObject *file = entry ? find_file(self, request, entry) : NULL;
    int done = file ? answer_from(self, turn, request, file, entry, now) : 0;

    Py_XDECREF(file);
    Py_XDECREF(entry);
    if (!done)
        PyErr_Clear(); /* Python meets the same trouble, if it is any, and tells of it */
    return done;
}

/* --- one after the other ---------------------------------------------------------------------------------------- */

/* Receive what is there; 1, or with 0 the state of affairs where there is nothing, or -1 with an exception. */
static int receive(struct turn *turn, int *state)
{
    ssize_t got;

    if (turn->start == turn->end)
        turn->start = turn->end = 0;
    if (turn->end == turn->room) {
        memmove(turn->buffer, turn->buffer + turn->start, turn->end - turn->start);
        turn->end -= turn->start;
        turn->start = 0;
    }
    got = recv(turn->sock, turn->buffer + turn->end, turn->room - turn->end, MSG_DONTWAIT);
    if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (got <= 0) {
        *state = got == 0 ? LEFT : WAIT; /* at the end of the stream Python finds it, too */
        return 0;
    }
    turn->end += (size_t)got;
    turn->received += (uint64_t)got;
    return 1;
}

int answers_take_turn(Answers *self, struct turn *turn)
{
    struct request request;
    int64_t now = now_ns(), end = now + TURN_NS;

    for (;;) {
        enum frame_kind kind = frames_parse(turn->buffer + turn->start, turn->end - turn->start, &request);
        int state = -1;

        if (kind == FRAME_OTHER)
            return LEFT;
        if (kind == FRAME_INCOMPLETE) {
            if (receive(turn, &state) <= 0)
                return state;
            continue;
        }
        if (!answer(self, turn, &request, now)) {
            uncork(turn);
            return LEFT;
        }
        turn->start += request.frame;
        if (turn->rest.entry)
            return REST;
        now = now_ns();
        if (now >= end) {
            uncork(turn);
            return TURN;
        }
    }
}

int answers_begin(struct turn *turn, int sock, const Py_buffer *view, Py_ssize_t start, Py_ssize_t end)
{
    if (start < 0 || end < start || end > view->len || view->len < WIRE_HEADER + MOST_METADATA) {
        PyErr_SetString(PyExc_ValueError, "not a part of the buffer");
        return -1;
    }
    turn->sock = sock;
    turn->buffer = view->buf;
    turn->room = (size_t)view->len;
    turn->start = (size_t)start;
    turn->end = (size_t)end;
    turn->received = turn->sent = 0;
    turn->corked = 0;
    turn->rest.entry = NULL;
    return 0;
}

PyObject *answers_moved(int state, struct turn *turn)
{
    PyObject *rest = rest_of(turn);

    Py_CLEAR(turn->rest.entry);
    return !rest ? NULL : Py_BuildValue("(innKKN)", state, (Py_ssize_t)turn->start, (Py_ssize_t)turn->end,
                         (unsigned long long)turn->received, (unsigned long long)turn->sent, rest);
}

static PyObject *run(Answers *self, PyObject *arguments)
{
    struct turn turn;
    Py_ssize_t start, end;
    Py_buffer buffer;
    int sock, state = -1;

    if (!PyArg_ParseTuple(arguments, "iw*nn", &sock, &buffer, &start, &end))
        return NULL;
    if (answers_begin(&turn, sock, &buffer, start, end) == 0)
        state = answers_take_turn(self, &turn);
    PyBuffer_Release(&buffer);
    return state < 0 ? NULL : answers_moved(state, &turn);
}

/* --- the type --------------------------------------------------------------------------------------------------- */

static int learn_names(void)
{
    if (note_read_name)
        return 0;
    identity_name = PyUnicode_InternFromString("identity");
    scan_name = PyUnicode_InternFromString("scan");
    tiers_name = PyUnicode_InternFromString("tiers");
    reads_name = PyUnicode_InternFromString("reads");
    bytes_name = PyUnicode_InternFromString("bytes");
    read_as_name = PyUnicode_InternFromString("read_as");
    note_read_name = PyUnicode_InternFromString("note_read");
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *answers_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *known[] = {"table", "key", "handles", "requests", "counted", "tally_of", "goes_raw", NULL};
    PyObject *table, *handles, *requests, *counted, *tally_of, *goes_raw_;
    const char *key;
    Py_ssize_t key_size;
    Answers *self;

    if (!PyArg_ParseTupleAndKeywords(arguments, names, "O!y#O!O!O!OO", known, &PyDict_Type, &table, &key, &key_size,
                                     &PyDict_Type, &handles, &PyDict_Type, &requests, &PyTuple_Type, &counted, &tally_of,
                                     &goes_raw_) ||
        learn_names() != 0)
        return NULL;
    if (key_size != KEY_SIZE) {
        PyErr_SetString(PyExc_ValueError, "not a key of a fragment");
        return NULL;
    }
    self = (Answers *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    memcpy(self->key, key, KEY_SIZE);
    self->table = Py_NewRef(table);
    self->handles = Py_NewRef(handles);
    self->requests = Py_NewRef(requests);
    self->counted = Py_NewRef(counted);
    self->tally_of = Py_NewRef(tally_of);
    self->goes_raw = Py_NewRef(goes_raw_);
    return (PyObject *)self;
}

static int answers_traverse(Answers *self, visitproc visit, void *arg)
{
    Py_VISIT(self->table);
    Py_VISIT(self->handles);
    Py_VISIT(self->requests);
    Py_VISIT(self->counted);
    Py_VISIT(self->tally_of);
    Py_VISIT(self->goes_raw);
    Py_VISIT(self->tier);
    Py_VISIT(self->tally);
    Py_VISIT(self->turn.rest.entry);
    Py_VISIT(self->error);
    return 0;
}

static int answers_clear(Answers *self)
{
    Py_CLEAR(self->table);
    Py_CLEAR(self->handles);
    Py_CLEAR(self->requests);
    Py_CLEAR(self->counted);
    Py_CLEAR(self->tally_of);
    Py_CLEAR(self->goes_raw);
    Py_CLEAR(self->tier);
    Py_CLEAR(self->tally);
    Py_CLEAR(self->turn.rest.entry);
    Py_CLEAR(self->error);
    return 0;
}

static void answers_dealloc(Answers *self)
{
    PyObject_GC_UnTrack(self);
    answers_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef members[] = {{"total", T_ULONGLONG, offsetof(Answers, total), READONLY, "reads answered here"},
                                {NULL, 0, 0, 0, NULL}};

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_VARARGS,
     "run(socket, buffer, start, end) -> (state, start, end, received, sent, rest): answer the requests in the buffer\n"
     "and those that the socket has. Raises OSError where it can receive no more."},
    {NULL, NULL, 0, NULL}};

PyTypeObject Answers_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_dadafsd_hot.Answers",
    .tp_doc = "Answers(table, key, handles, requests, counted, tally_of, goes_raw): the reads of one connection that\n"
              "can be answered at once; see answers.c.",
    .tp_basicsize = sizeof(Answers),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = answers_new,
    .tp_dealloc = (destructor)answers_dealloc,
    .tp_traverse = (traverseproc)answers_traverse,
    .tp_clear = (inquiry)answers_clear,
    .tp_methods = methods,
    .tp_members = members,
};
