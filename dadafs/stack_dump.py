"""SIGUSR1: print what every thread and every task is doing to stderr; the threads also when the loop hangs.

Nothing is looked at in a signal handler: there the frames of a thread may be followed while they change, which ended
the process now and then. The signal is blocked in all threads, since before the first began, and one waits for it.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def on_usr1() -> Iterator[None]:
    """While the loop runs this, SIGUSR1 shows all threads at once, and all tasks when the loop has its turn.

    The caller has blocked the signal before it, or a library, began a thread.
    """
    ended = threading.Event()
    loop = trio.lowlevel.current_trio_token()
    waits = threading.Thread(target=_show, args=(loop, ended), name="stack dump", daemon=True)
    waits.start()
    try:
        yield
    finally:
        ended.set()
        signal.pthread_kill(waits.ident or 0, signal.SIGUSR1)  # it waits for it, or will
        waits.join(1.0)  # whoever reads what it prints may have stopped


def _show(loop: trio.lowlevel.TrioToken, ended: threading.Event) -> None:
    """A thread: show everybody whenever the signal comes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    while True:
        signal.sigwait({signal.SIGUSR1})
        if ended.is_set():
            return
        print(dump_threads(), file=sys.stderr, flush=True)
        try:
            loop.run_sync_soon(print_tasks, idempotent=True)
        except trio.RunFinishedError:
            return


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
