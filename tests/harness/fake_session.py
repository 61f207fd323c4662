"""A session without a head: answers from a plain directory, counts what it was asked, and pushes what a test says."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from dadafs.checksum import checksum
from dadafs.policy.lease import LeaseClock
from dadafs.session import Answer, Batch, Listed
from dadafs.wire.messages import Attr, Change, Changes, Entry, Item, LeasesLost, Opened, StatfsReply, Welcome


def attr_of(path: bytes | int) -> Attr:
    """What lstat says of a path, or fstat of a descriptor."""
    found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return Attr(
        dev=found.st_dev,
        ino=found.st_ino,
        mode=found.st_mode,
        nlink=found.st_nlink,
        uid=found.st_uid,
        gid=found.st_gid,
        rdev=found.st_rdev,
        size=found.st_size,
        blocks=found.st_blocks,
        blksize=found.st_blksize,
        atime_ns=found.st_atime_ns,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


@dataclass
class FakeOptions:
    """What remote files want to know of a session's options."""

    freshness: float = 1.0
    lease: float = 30.0


@dataclass
class FakeSession:
    """As much of `dadafs.session.Session` as operations and remote files use. `leased`, `settled`: the answers are."""

    tree: Path
    freshness: float = 1.0
    leased: bool = True
    asked: Counter[str] = field(default_factory=Counter)
    paging: int = 3
    settled: bool = True

    def __post_init__(self) -> None:
        self.options = FakeOptions(self.freshness)
        self.mapping = None  # of users and groups
        self.leases = LeaseClock(self.freshness)
        self.leases.connected_again(1)
        self.generation = 1
        self.connected = True
        root = attr_of(os.fsencode(self.tree))
        self.welcome = Welcome(1, 1, 1 << 20, 1 << 16, root, "fake")
        self.held: dict[int, int] = {}
        self._callbacks: list[Callable[[Changes | LeasesLost], None]] = []
        self._connection: list[Callable[[bool], None]] = []

    # --- what the head would do of its own accord ---------------------------------------------------------------

    def keepalive(self) -> None:
        """A pass arrives now."""
        self.leases.passed(self.now())

    def push(self, *names: str, subtree: bool = False) -> None:
        """The head noticed that these paths changed."""
        changes = []
        for name in names:
            entry = self._entry(os.fsencode(name))
            changes.append(Change(os.fsencode(name), entry.attr, entry.target, subtree))
        for callback in self._callbacks:
            callback(Changes(changes))

    def lose(self, *paths: str) -> None:
        """The head gives leases back."""
        for callback in self._callbacks:
            callback(LeasesLost([os.fsencode(path) for path in paths]))

    # --- the session --------------------------------------------------------------------------------------------

    def now(self) -> float:
        return trio.current_time()

    def deadline(self) -> float:
        return self.now() + 30

    def on_changes(self, callback: Callable[[Changes | LeasesLost], None], *, first: bool = False) -> None:
        self._callbacks.insert(0 if first else len(self._callbacks), callback)

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        self._connection.append(callback)

    def _real(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.tree), path)

    def _entry(self, path: bytes) -> Entry:
        real = self._real(path)
        try:
            attr = attr_of(real)
        except (FileNotFoundError, NotADirectoryError):
            return Entry(None, None, self.leased)
        return Entry(attr, os.readlink(real) if os.path.islink(real) else None, self.leased)

    def _answer(self, value: Any) -> Answer[Any]:
        return Answer(value, self.now(), self.generation)

    async def stat(self, path: bytes, *, lease: bool = True) -> Answer[Entry]:
        self.asked["stat"] += 1
        await trio.lowlevel.checkpoint()
        return self._answer(self._entry(path))

    async def list_directory(self, path: bytes, take: Callable[[int, Sequence[Item]], None]) -> Answer[Listed]:
        self.asked["list"] += 1
        await trio.lowlevel.checkpoint()
        items = []
        for name in sorted(os.listdir(self._real(path))):
            entry = self._entry(os.path.join(path, name))
            if entry.attr is not None:
                items.append(Item(name, entry.attr, entry.target))
        for page, start in enumerate(range(0, max(1, len(items)), self.paging)):
            take(page, items[start : start + self.paging])
        return self._answer(Listed(attr_of(self._real(path)), [], self.leased))

    async def open(
        self,
        path: bytes,
        *,
        expect: tuple[int, int] | None = None,
        want_inline: bool = True,
        deadline: float | None = None,
    ) -> tuple[Answer[Opened], bytes | None]:
        self.asked["open"] += 1
        await trio.lowlevel.checkpoint()
        attr = attr_of(self._real(path))
        if expect is not None and (attr.dev, attr.ino) != expect:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        handle = os.open(self._real(path), os.O_RDONLY)
        self.held[handle] = handle
        return self._answer(Opened(handle, attr, self.leased)), None

    async def open_ahead(self, directory: bytes, names: list[bytes], limit: int) -> Batch:
        self.asked["open_ahead"] += 1
        found, contents = [], []
        for name in names:
            answer, _ = await self.open(os.path.join(directory, name))
            self.asked["open"] -= 1
            contents.append(os.pread(answer.value.handle, answer.value.attr.size, 0))
            digest = checksum(contents[-1])
            found.append(Opened(answer.value.handle, answer.value.attr, self.leased, True, digest, self.settled))
        return Batch(found, memoryview(b"".join(contents)), self.now(), self.leases.generation, frozenset())

    def whole(self, opened: Opened, content: memoryview) -> bytes | None:
        return bytes(content)

    async def resolve(self, handle: int, path: bytes, *, deadline: float | None = None) -> Answer[Entry]:
        self.asked["resolve"] += 1
        return self._answer(Entry(attr_of(handle), None, False))

    async def release(self, handles: list[int]) -> None:
        for handle in handles:
            os.close(self.held.pop(handle))

    async def statfs(self) -> StatfsReply:
        found = os.statvfs(self.tree)
        return StatfsReply(*found[:4], found.f_bavail, *found[5:8], found.f_namemax)

    async def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        self.asked["xattrs"] += 1
        real = self._real(path)
        return {
            os.fsencode(name): os.getxattr(real, name, follow_symlinks=False)
            for name in os.listxattr(real, follow_symlinks=False)
        }

    async def child_xattrs(self, path: bytes) -> dict[bytes, dict[bytes, bytes]]:
        self.asked["child_xattrs"] += 1
        found = {name: await self.xattrs(os.path.join(path, name)) for name in os.listdir(self._real(path))}
        self.asked["xattrs"] -= len(found)
        return {name: values for name, values in found.items() if values}
