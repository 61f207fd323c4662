"""Whoever is killed while it waits for the head goes at once: its request is answered with `EINTR`.

The kernel tells of every signal that reaches a waiting process, once for each request. Only what ends the process is
heeded, as on a local disk and on NFS: a program whose timer goes off does not want `EINTR` from a look-up.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

#: How often it is looked whether a process that got a signal it lives with gets one that it does not, in s.
_LOOK_AGAIN = 0.25
#: Signals that end nobody unless somebody asked for more; what stops a process does not end it.
_HARMLESS = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
_FATAL = sum(1 << (number - 1) for number in signal.valid_signals() if number not in _HARMLESS)


def is_dying(thread: int) -> bool:
    """Whether a signal waits for a thread that will end its process (proc(5), status). False where nobody can say."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path(f"/proc/{thread}/status").read_text().splitlines()
        masks = {name: int(value, 16) for name, _, value in (line.partition(":") for line in lines) if name in _MASKS}
        pending = masks["SigPnd"] | masks["ShdPnd"]
        return bool(pending & _FATAL & ~(masks["SigBlk"] | masks["SigIgn"] | masks["SigCgt"]))
    return False


_MASKS = {"SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"}


class Interrupts:
    """The requests of one mount that somebody waits for. `current` says which is being processed: (number, thread)."""

    def __init__(self, current: Callable[[], tuple[int, int]]) -> None:
        self.current = current
        self._claimed: tuple[int, int] | None = None
        self._waiting: dict[int, tuple[trio.CancelScope, int]] = {}
        self._later: dict[int, bool] = {}  # requests without a task, and whether they were interrupted
        self._nursery: trio.Nursery | None = None
        self.handling: set[trio.lowlevel.Task] = set()  #: those that answer a request

    def start(self, nursery: trio.Nursery) -> None:
        """Those that live with their first signal are looked at again in tasks of `nursery`."""
        self._nursery = nursery

    @contextmanager
    def waiting(self) -> Iterator[trio.CancelScope]:
        """A scope for the request that a handler was just begun for; it is cancelled when its process is killed."""
        claimed, self._claimed = self._claimed, None
        number, thread = claimed or self.current()
        with trio.CancelScope() as scope:
            if number:
                self._waiting[number] = scope, thread
            task = trio.lowlevel.current_task()
            self.handling.add(task)
            try:
                yield scope
            finally:
                self.handling.discard(task)
                self._waiting.pop(number, None)

    def later(self) -> tuple[int, int]:
        """The request being processed will be answered later, without a task so far; see `claim` and `done`."""
        request = self.current()
        self._later[request[0]] = False
        return request

    def taken_over(self, request: tuple[int, int], *, interrupted: bool) -> None:
        """The same of a request that the compiled part has kept until now."""
        self._later[request[0]] = interrupted

    def done(self, request: tuple[int, int]) -> None:
        """It was answered."""
        self._later.pop(request[0], None)

    def claim(self, request: tuple[int, int]) -> bool:
        """The handler begun next is for `request`; False where that was interrupted meanwhile."""
        if self._later.pop(request[0], False) and is_dying(request[1]):
            return False
        self._claimed = request
        return True

    def interrupted(self, number: int) -> None:
        """A signal reached whoever waits for this request."""
        if number in self._later:
            self._later[number] = True
        elif number in self._waiting and not self._cancelled(number) and self._nursery is not None:
            self._nursery.start_soon(self._look_again, number)

    def _cancelled(self, number: int) -> bool:
        scope, thread = self._waiting[number]
        if is_dying(thread):
            scope.cancel()
            return True
        return False

    async def _look_again(self, number: int) -> None:
        """The kernel tells of the first signal only."""
        while number in self._waiting and not self._cancelled(number):  # noqa: ASYNC110 - a process sets no event
            await trio.sleep(_LOOK_AGAIN)
