"""inotify as the watcher needs it: watches on open directories, events as tuples, nothing decoded to text."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from inotify_simple import INotify, flags

from dadafsd.confine import Descriptor

MODIFY = int(flags.MODIFY)
ATTRIB = int(flags.ATTRIB)
CLOSE_WRITE = int(flags.CLOSE_WRITE)
MOVED_FROM = int(flags.MOVED_FROM)
MOVED_TO = int(flags.MOVED_TO)
CREATE = int(flags.CREATE)
DELETE = int(flags.DELETE)
OVERFLOW = int(flags.Q_OVERFLOW)
IGNORED = int(flags.IGNORED)
ISDIR = int(flags.ISDIR)
#: A name appeared or went.
ENTRY = MOVED_FROM | MOVED_TO | CREATE | DELETE
#: What is watched is no longer what its path means, or no longer watched.
GONE = int(flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT) | IGNORED
_WANTED = MODIFY | ATTRIB | CLOSE_WRITE | ENTRY | int(flags.DELETE_SELF | flags.MOVE_SELF | flags.EXCL_UNLINK)
_MASK_ADD = int(flags.MASK_ADD)
_EVENT = struct.Struct("iIII")
_READ_SIZE = 256 * 1024


class Watches:
    """One inotify instance."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._buffer = bytearray(_READ_SIZE)

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def add(self, held: Descriptor) -> int:
        """Watch what `held` (an `O_PATH` descriptor) refers to; its number, the same for the same object.

        May be called from any thread. Raises `OSError`, `ENOSPC` where the kernel's limit is reached.
        """
        return int(self._inotify.add_watch(f"/proc/self/fd/{held.fd}", _WANTED))

    def add_opened(self, held: Descriptor) -> int:
        """Watch writes to the file that `held` has open, and its link count, beside what is watched of it.

        Waits for nothing. Raises `OSError`, as `add`.
        """
        return int(self._inotify.add_watch(f"/proc/self/fd/{held.fd}", ATTRIB | MODIFY | _MASK_ADD))

    def remove(self, number: int) -> None:
        """Watch no longer; no error where the watch is gone already."""
        try:
            self._inotify.rm_watch(number)
        except OSError:
            return

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """All events that are there: (watch number, mask, name). Does not wait."""
        while True:
            try:
                length = os.readv(self._inotify.fileno(), [self._buffer])
            except BlockingIOError:
                return
            data = bytes(memoryview(self._buffer)[:length])
            offset = 0
            while offset < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size
                yield number, mask, data[offset : offset + length].rstrip(b"\0")
                offset += length

    def close(self) -> None:
        """Remove all watches."""
        self._inotify.close()
