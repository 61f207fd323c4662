"""Readahead for mounts that may not set `read_ahead_kb`: a helper process touches what readers will read next.

The pages come through the mount by ordinary requests, so that nothing about their freshness is special. Nothing here
waits: a request that does not fit into the pipe to the helper is dropped, and readers go on without.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dadafs import touch_ahead
from dadafs.operations import Operations
from dadafs.policy.kernel_windows import Windows

log = logging.getLogger(__name__)
#: A write of so many bytes to a pipe is taken whole or not at all (PIPE_BUF).
_ATOMIC = 4096
#: Seconds for the helper to end when the mount has.
_PATIENCE = 2.0


def keepable(operations: Operations) -> Callable[[int], tuple[bytes, int] | None]:
    """`place` for `KernelReadahead`: opening a file whose pages may not be kept would drop those that are there."""

    def place(node_id: int) -> tuple[bytes, int] | None:
        node = operations.tree.find(node_id)
        if node is None or node.doubtful or node.told is None or node.pages != node.told:
            return None
        try:
            return operations.tree.path_of(node_id), node.told[0]
        except OSError:
            return None

    return place


@dataclass(slots=True)
class _Reader:
    """One open file of the kernel's."""

    node_id: int
    windows: Windows = field(default_factory=Windows)
    touched: bytes | None = None  # the path that the helper has opened for it


class KernelReadahead:
    """The helper, and what is known of each open file.

    `place(node id)` gives the path below the mountpoint and the size of a file whose pages may be kept, or None.
    """

    def __init__(self, mountpoint: str, place: Callable[[int], tuple[bytes, int] | None]) -> None:
        self._mountpoint = mountpoint
        self._place = place
        self._files: dict[int, _Reader] = {}
        self._helper: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._ranges = 0

    @property
    def pid(self) -> int | None:
        """The helper's; None where there is none."""
        return None if self._helper is None else self._helper.pid

    def start(self) -> None:
        """Start the helper. Raises OSError."""
        argv = [sys.executable, "-I", "-S", str(Path(touch_ahead.__file__)), self._mountpoint]
        null = subprocess.DEVNULL
        self._helper = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=null, stderr=null, cwd="/")
        assert self._helper.stdin is not None
        self._pipe = self._helper.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def report(self) -> dict[str, int] | None:
        """Its process, and how many ranges it was given; None where there is none."""
        return None if self._helper is None else {"pid": self._helper.pid, "ranges": self._ranges}

    def opened(self, handle: int, node_id: int, by: int) -> None:
        """Process `by` opened a file: its requests are noted, unless they are the helper's own."""
        if self._helper is not None and by != self._helper.pid:
            self._files[handle] = _Reader(node_id)

    def closed(self, handle: int) -> None:
        """A file was closed."""
        reader = self._files.pop(handle, None)
        if reader is not None and reader.touched is not None:
            self._send(reader.touched, 0, 0)

    def read(self, handle: int, offset: int, length: int) -> None:
        """The kernel asked for `length` bytes at `offset`."""
        reader = self._files.get(handle)
        place = None if reader is None else self._place(reader.node_id)
        if reader is None or place is None:
            return
        path, size = place
        for start, end in reader.windows.note(offset, length, size):
            reader.touched = path
            self._ranges += 1
            self._send(path, start, end)

    def _send(self, path: bytes, start: int, end: int) -> None:
        request = touch_ahead.REQUEST.pack(start, end, len(path)) + path
        if len(request) > _ATOMIC:
            return
        try:
            os.write(self._pipe, request)
        except BlockingIOError:
            pass  # it has enough to do
        except OSError as problem:
            log.info("the helper for readahead is gone (%s); the kernel reads ahead on its own", problem.strerror)
            self.stop()

    def stop(self) -> None:
        """End the helper. It may hang in a call on the mount, so that this waits for a moment only."""
        helper, self._helper = self._helper, None
        self._files.clear()
        if helper is None:
            return
        if helper.stdin is not None:
            with suppress(OSError):
                helper.stdin.close()
        helper.kill()
        with suppress(subprocess.TimeoutExpired):
            helper.wait(_PATIENCE)
