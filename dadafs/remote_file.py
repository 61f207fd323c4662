"""An open file of the head as the node holds it: its version, its handle, and what happens when either changes.

    files = RemoteFiles(session, cache, counters)
    file = files.believed(path, attr, answer...)   # no round trip: the caller's belief about `path` is live
    file, answer = await files.open(path)          # one round trip: asks the head now (close-to-open)
    ...
    file.close()                                   # once for each of the two calls above

One `RemoteFile` per (device, inode) is shared by all kernel handles. It holds the version all reads are made in;
`Changed` replies and pushes advance it and call its listeners.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from dadafs.counters import Counters
from dadafs.ram_cache import RamCache
from dadafs.session import Answer, Session
from dadafs.wire.messages import Attr, Opened, Version

#: Called as listener(file, old attributes, new attributes) after the file changed in place; must not block or raise.
Listener = Callable[["RemoteFile", Attr, Attr], None]


class RemoteFile:
    """One file of the head that is, or was recently, open on this node.

    `epoch` grows by one with every change in place. `orphaned`: its path names another file or nothing now; it goes
    on being read through its handle while the head can.
    """

    path: bytes
    attr: Attr
    epoch: int
    settled: bool
    orphaned: bool
    asked_at: float
    generation: int
    leased: bool

    @property
    def version(self) -> Version:
        """The state all reads are made in."""
        return self.attr.version

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode)."""
        return self.attr.dev, self.attr.ino

    @property
    def size(self) -> int:
        """Bytes, in the current version."""
        return self.attr.size

    async def refresh(self) -> None:
        """Return when `version` may be believed: at once while a lease or freshness holds, else ask the head.

        Raises `OSError(ESTALE)` where the file is gone for good, `OSError(EIO)` after `retry`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """The caller uses it no more. The head's handle is given back some `lease` seconds after the last close."""
        raise NotImplementedError


class RemoteFiles:
    """All remote files of a mount, by identity."""

    def __init__(self, session: Session, cache: RamCache, counters: Counters) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Background task: gives unused handles back in batches. Runs until cancelled."""
        await trio.sleep_forever()

    def believed(
        self, path: bytes, attr: Attr, *, asked_at: float, generation: int, leased: bool
    ) -> RemoteFile:
        """The file at `path` as the caller believes it (the belief must be live). No round trip."""
        raise NotImplementedError

    async def open(self, path: bytes) -> tuple[RemoteFile, Answer[Opened]]:
        """Ask the head to open `path` now; a small file's content is in the cache afterwards. Raises OSError."""
        raise NotImplementedError

    def find(self, identity: tuple[int, int]) -> RemoteFile | None:
        """The file with this (device, inode), if it is known; not counted as a use."""
        raise NotImplementedError

    def on_change(self, listener: Listener) -> None:
        """Call `listener` for every change in place of any file."""
        raise NotImplementedError
