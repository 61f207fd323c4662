/* Turns: one request after the other, without the loop between them.
 *
 * pyfuse3 and trio spend several times what an answer costs on the way from one request to the next. After a reply given in
 * place (answers.c) the next request is taken here where there is one, or comes soon: a program that reads a file sends one
 * after the other. Meanwhile the replies of the head are received (fetches.c), and answer those who wait for them.
 *
 * A turn ends when the loop has anything else to do: a task can go on, or one of the loop's descriptors has news. Its timers
 * go late by a turn at most. Where the loop cannot be seen (`watch`), nothing is waited for that goes past it.
 */
#include "turns.h"
#include "answers.h"
#include "fetches.h"
#include "handed.h"
#include "hot_reads.h"

#include <dlfcn.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define TURN_NS 1000000      /* requests are answered in a row for so long */
#define LONG_TURN_NS 8000000 /* or, where the loop has nothing else to do, for so long at most */
#define WATCH_NS 40000       /* a program that has what it takes to send the next request is watched for so long */
#define DISCOURAGED 8        /* after so many requests in a row that did not come, that is done only now and then */
#define NOW_AND_THEN 32
#define PIECES 8             /* of other work, of a few dozen microseconds each, are done instead of watching */
#define CHANNELS_WATCHED 16
#define IN_A_ROW 16          /* requests at hand are taken before what they ask for is sent */
#define WORKER "pyfuse-"     /* what pyfuse3 calls its tasks */

struct turn turn;

long long monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Whether another processor can be sending the next request while this one waits for it. */
static int have_company(void)
{
    static int known = -1;
    cpu_set_t mine;

    if (known < 0)
        known = sched_getaffinity(0, sizeof mine, &mine) != 0 || CPU_COUNT(&mine) > 1;
    return known;
}

/* Do a piece of what can wait for a moment like this; 0 where there is nothing. */
static int idle(void)
{
    PyObject *answer;
    int busy;

    if (answers_release_one())
        return 1;
    answer = answers_ask(IDLE, PyTuple_New(0));
    busy = answer == Py_True;
    Py_XDECREF(answer);
    return busy;
}

/* What else the loop has to do: the descriptor that it sleeps on, and the tasks that can go on. Without them it is not
 * known, and nothing is waited for that goes past it. */
static int loop_fd = -1;
static PyObject *runnable, *handling; /* sets; the latter: those that answer a request */

/* Whether `task` is one of pyfuse3's that has no request in hand: it goes on to wait for the kernel's next one, as we do. */
static int only_waits(PyObject *task)
{
    PyObject *name = PyObject_GetAttrString(task, "name");
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    int waits = text && strncmp(text, WORKER, strlen(WORKER)) == 0 && PySet_Contains(handling, task) == 0;

    Py_XDECREF(name);
    PyErr_Clear();
    return waits;
}

/* Whether a task can go on that has something to do. */
static int is_runnable(void)
{
    PyObject *tasks = PyObject_GetIter(runnable), *task;
    int found = !tasks;

    while (!found && (task = PyIter_Next(tasks))) {
        found = !only_waits(task);
        Py_DECREF(task);
    }
    Py_XDECREF(tasks);
    PyErr_Clear();
    return found;
}

/* Whether the loop has something else to do than what is done here, of some descriptors that were polled: its own in front
 * and those of data channels behind it. What a channel has is news to the loop as well, until it is masked. */
static int is_wanted(struct pollfd *fds, int channels)
{
    int masked = 0;

    if (is_runnable())
        return 1;
    if (!fds[0].revents)
        return 0;
    for (int i = 1; i <= channels; i++)
        if (fds[i].revents) {
            fetches_mask(fds[i].fd);
            masked = 1;
        }
    return !masked || poll(fds, 1, 0) != 0;
}

/* Whether a turn that began then may go on. */
static int in_turn(long long begun)
{
    struct pollfd fds[1 + CHANNELS_WATCHED];
    long long spent = monotonic_ns() - begun;
    int count;

    if (spent < TURN_NS)
        return 1;
    if (loop_fd < 0 || spent >= LONG_TURN_NS)
        return 0;
    fds[0] = (struct pollfd){.fd = loop_fd, .events = POLLIN};
    count = fetches_awaited(fds + 1, CHANNELS_WATCHED);
    return poll(fds, (nfds_t)count + 1, 0) >= 0 && !is_wanted(fds, count);
}

/* What has news of the kernel's descriptor, the loop's and those of the channels that owe replies; with `watched` for a moment
 * without sleeping. */
static int wait_for_news(struct pollfd *fds, nfds_t count, int watched, long long turn_end)
{
    long long now = monotonic_ns(), left = turn_end - now, end = now + WATCH_NS;
    struct timespec patience = {0, left > 0 ? (long)left : 0};
    int got = 0;

    Py_BEGIN_ALLOW_THREADS
    if (watched && have_company())
        while (!(got = poll(fds, count, 0)) && monotonic_ns() < end)
            ;
    if (!got)
        got = ppoll(fds, count, &patience, NULL);
    Py_END_ALLOW_THREADS
    return got;
}

/* The kernel's next request is waited for together with what the head owes: replies are taken as they come, in pieces, and
 * the requests that they answer with them. Until the turn ends, or the loop has something else to do.
 *
 * One small read at a time is watched: its reply, and the request that follows, come sooner than this thread would wake up. */
static int another_or_reply(int fd, long long turn_end)
{
    struct pollfd fds[2 + CHANNELS_WATCHED], *loop = fds + 1;
    unsigned before = 0;

    answers_settle();
    for (;;) {
        int count = fetches_awaited(fds + 2, CHANNELS_WATCHED);
        unsigned waiting = hot_waiting();

        fds[0] = (struct pollfd){.fd = fd, .events = POLLIN};
        *loop = (struct pollfd){.fd = loop_fd, .events = POLLIN};
        if (wait_for_news(fds, (nfds_t)count + 2, waiting + before == 1, turn_end) <= 0)
            return 0;
        before = waiting;
        for (int i = 0; i < count; i++)
            if (fds[2 + i].revents)
                fetches_receive(fds[2 + i].fd);
        if (fds[0].revents)
            return (fds[0].revents & POLLIN) != 0;
        if (is_wanted(loop, count))
            return 0;
    }
}

/* Whether there is another request now, or within `WATCH_NS`, or after a piece of other work. */
static int another_soon(int fd)
{
    static unsigned disappointed; /* so often in a row */
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    long long end;
    int got;

    for (int pieces = 0; pieces < PIECES && idle(); pieces++)
        if (poll(&waiting, 1, 0) > 0)
            return (waiting.revents & POLLIN) != 0;
    if (disappointed >= DISCOURAGED && disappointed % NOW_AND_THEN) {
        disappointed++;
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS /* one of ours may have what the program asks for next to do */
    end = monotonic_ns() + WATCH_NS;
    do
        got = poll(&waiting, 1, 0);
    while (got <= 0 && monotonic_ns() < end);
    Py_END_ALLOW_THREADS
    if (got > 0) {
        disappointed = 0;
        return (waiting.revents & POLLIN) != 0;
    }
    disappointed++;
    return 0;
}

/* Whether there is another request: now, soon where a program has what it takes to send one (`patience`), or before the
 * turn ends or the loop has something to do, for which nobody need be woken but this thread. */
static int another(int fd, int patience, long long turn_end)
{
    static unsigned row; /* requests at hand, one after the other */
    struct pollfd waiting = {.fd = fd, .events = POLLIN}, owed;

    if (row++ < IN_A_ROW && poll(&waiting, 1, 0) > 0)
        return (waiting.revents & POLLIN) != 0;
    row = 0;
    fetches_send_all();
    if (patience && (loop_fd < 0 || !fetches_awaited(&owed, 1)) && have_company() && another_soon(fd))
        return 1;
    return loop_fd >= 0 && !is_runnable() && another_or_reply(fd, turn_end);
}

typedef void process_fn(struct fuse_session *, const struct fuse_buf *);
typedef int receive_fn(struct fuse_session *, struct fuse_buf *);

static void carry_out(process_fn *process, struct fuse_session *session, const struct fuse_buf *request)
{
    turn.in_place = 0;
    interrupts_before(request);
    process(session, request);
    turn.in_place |= interrupts_after(request);
}

/* What pyfuse3 calls for each request it has received. */
__attribute__((visibility("default"))) void
fuse_session_process_buf(struct fuse_session *session, const struct fuse_buf *request)
{
    static struct fuse_buf next;
    static process_fn *process;
    static receive_fn *receive;
    long long begun;

    if (!process) {
        void *libfuse = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_NOLOAD);
        *(void **)&receive = dlsym(libfuse, "fuse_session_receive_buf");
        *(void **)&process = dlsym(libfuse, "fuse_session_process_buf");
    }
    turn.session = session;
    fetches_hold_back(1);
    carry_out(process, session, request);
    begun = monotonic_ns();
    while (receive && turn.in_place && in_turn(begun) && !fuse_session_exited(session) &&
           another(fuse_session_fd(session), turn.awaited, begun + LONG_TURN_NS)) {
        if (receive(session, &next) <= 0)
            break; /* interrupted, or the end: pyfuse3 will see it as well */
        /* what is not answered in place is left for pyfuse3 to wait for, so it is the last */
        carry_out(process, session, &next);
    }
    answers_settle();
    handed_tell(1);
    fetches_hold_back(0);
    fetches_send_all();
    fetches_unmask();
}

PyObject *turns_watch(PyObject *module, PyObject *arguments)
{
    PyObject *tasks, *busy;
    int descriptor;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "iO!O!", &descriptor, &PySet_Type, &tasks, &PySet_Type, &busy))
        return NULL;
    loop_fd = descriptor;
    Py_INCREF(tasks);
    Py_XSETREF(runnable, tasks);
    Py_INCREF(busy);
    Py_XSETREF(handling, busy);
    Py_RETURN_NONE;
}
