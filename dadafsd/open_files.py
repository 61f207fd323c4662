"""The files that nodes hold open: one descriptor a file, shared by all handles on it.

A file that was replaced or deleted goes on being readable through its descriptor. When descriptors run
short, those not used for longest are closed; their files are opened again by name when somebody reads, and
only if the name still belongs to the same inode.
"""

from __future__ import annotations

import errno
import resource
from collections import OrderedDict
from collections.abc import Callable

from dadafs.wire.messages import Attr, Version
from dadafsd.confine import Descriptor
from dadafsd.counters import ScanTally
from dadafsd.export import Export
from dadafsd.origin_pool import OriginPool
from dadafsd.sites import Failure, Site

#: Descriptors left for sockets, the store and everything else.
RESERVE = 512


class OpenFile:
    """One file of one export that at least one handle refers to."""

    __slots__ = ("attr", "descriptor", "identity", "path", "read_as", "scan", "users")

    def __init__(self, path: bytes, attr: Attr) -> None:
        self.path = path
        self.attr = attr  # as last seen
        self.identity = (attr.dev, attr.ino)
        self.descriptor: Descriptor | None = None
        self.scan: ScanTally | None = None  # what is counted for the scan that it belongs to
        self.read_as: Version | None = None  # the newest state that somebody read
        self.users = 0

    def note_read(self, version: Version) -> None:
        """Somebody reads this state, or tries to; one that is behind the others does not count."""
        if self.read_as is None or version.ctime_ns >= self.read_as.ctime_ns:
            self.read_as = version

    @property
    def version(self) -> Version:
        """The version last seen."""
        return self.attr.version


class OpenFiles:
    """All open files of one export."""

    def __init__(self, export: Export, pool: OriginPool, limit: int) -> None:
        self.limit = limit
        self.closed_early = 0
        self.on_open: Callable[[OpenFile], None] = _nobody
        self._export = export
        self._pool = pool
        self._files: dict[tuple[int, int], OpenFile] = {}
        self._held: OrderedDict[tuple[int, int], OpenFile] = OrderedDict()  # those with a descriptor, oldest first

    def __len__(self) -> int:
        return len(self._files)

    @property
    def descriptors(self) -> int:
        """How many descriptors are held."""
        return len(self._held)

    def files(self) -> list[OpenFile]:
        """All open files."""
        return list(self._files.values())

    def attach(self, path: bytes, descriptor: Descriptor, attr: Attr) -> OpenFile:
        """One more handle on the file that `descriptor` was just opened on."""
        file = self._files.get((attr.dev, attr.ino))
        if file is None:
            file = self._files[attr.dev, attr.ino] = OpenFile(path, attr)
        file.path, file.attr = path, attr
        file.users += 1
        self._hold(file, descriptor)
        self.on_open(file)
        return file

    def detach(self, file: OpenFile) -> None:
        """One handle fewer; the last one closes the file."""
        file.users -= 1
        if file.users == 0:
            file.descriptor = None
            self._files.pop(file.identity, None)
            self._held.pop(file.identity, None)

    async def descriptor(self, file: OpenFile, *, prefetch: bool = False) -> Descriptor:
        """The file's descriptor, opened again where it had to be closed. Raises `OSError`."""
        if file.descriptor is not None:
            self._held.move_to_end(file.identity)
            return file.descriptor
        try:
            opened, attr = await self._pool.run(self._export.open_file, file.path, prefetch=prefetch)
        except FileNotFoundError as error:
            raise Failure(errno.ESTALE, Site.HANDLE_OTHER_FILE) from error
        if (attr.dev, attr.ino) != file.identity:
            raise Failure(errno.ESTALE, Site.HANDLE_OTHER_FILE)
        if file.users:
            self._hold(file, opened)
        return opened

    def _hold(self, file: OpenFile, descriptor: Descriptor) -> None:
        file.descriptor = descriptor
        self._held[file.identity] = file
        self._held.move_to_end(file.identity)
        while len(self._held) > self.limit:
            _, oldest = self._held.popitem(last=False)
            oldest.descriptor = None
            self.closed_early += 1


def _nobody(file: OpenFile) -> None:
    """Nobody wants to know."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit on open descriptors to the hard one.

    Returns how many may be held for open files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(soft - RESERVE, soft // 2)
