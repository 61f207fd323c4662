"""SIGUSR1: print what every thread and every task is doing to stderr, also when the loop hangs."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def on_usr1() -> Iterator[None]:
    """While this runs, SIGUSR1 dumps the stacks of all threads at once, and then goes where it went before."""
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)


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
