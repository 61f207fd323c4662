"""SIGUSR1: print what every thread and every task is doing to stderr, also when the loop hangs."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import trio

#: Pieces of a stack that follow each other within this many seconds belong to one signal.
TOGETHER = 0.05
MOST = 64 * 1024


@contextmanager
def on_usr1() -> Iterator[None]:
    """While this runs, SIGUSR1 dumps the stacks of all threads at once, and then goes where it went before.

    A signal handler can follow the frames of the thread that it interrupts. Those of others change while it looks, and
    following them ended the process now and then. So it writes its own into a pipe, and a thread that reads the pipe
    adds the others as an ordinary thread may.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # a signal handler must not wait
    threading.Thread(target=_add_others, args=(reading,), name="stack dump", daemon=True).start()
    faulthandler.register(signal.SIGUSR1, file=writing, all_threads=False, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        os.close(writing)


def _add_others(pipe: int) -> None:
    """A thread: print each stack that arrives, and those of all threads; until the other end is closed."""
    while found := os.read(pipe, select.PIPE_BUF):
        while len(found) < MOST and select.select([pipe], [], [], TOGETHER)[0]:
            if not (more := os.read(pipe, select.PIPE_BUF)):
                break
            found += more
        print(found.decode(errors="replace"), dump_threads(), sep="\n", file=sys.stderr, flush=True)
    os.close(pipe)


def dump_tasks() -> str:
    """The stacks of all tasks of the running loop, deepest frames last."""
    root = trio.lowlevel.current_root_task()
    return "" if root is None else "\n".join(_task_stack(task) for task in _below(root))


def dump_threads() -> str:
    """The stacks of all threads."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"thread {names.get(ident, ident)}\n" + "".join(traceback.format_stack(frame)))
    return "\n".join(parts)


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child)


def _task_stack(task: trio.lowlevel.Task) -> str:
    frames = traceback.StackSummary.extract(task.iter_await_frames())
    return f"task {task.name}\n" + "".join(frames.format())


def print_tasks() -> None:
    """Write the stacks of all tasks to stderr."""
    print(dump_tasks(), file=sys.stderr, flush=True)
