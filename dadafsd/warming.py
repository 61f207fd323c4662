"""Warming the cache: reading files before anybody asks, with what HDF5 master files refer to."""

from __future__ import annotations

import errno
import json
import posixpath
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import trio

from dadafs.wire.messages import BLOCK_SIZE, Attr
from dadafs.wire.paths import BadPath, check
from dadafsd.confine import Descriptor
from dadafsd.exported import Exported
from dadafsd.fragments import Found
from dadafsd.jobs import Job
from dadafsd.open_files import OpenFile
from dadafsd.store_access import StoreAccess

HDF5_ENDINGS = (b".h5", b".hdf5", b".nxs", b".hdf", b".he5")
#: Fragments fetched at a time.
PARALLEL = 4
#: How often a file that is being written is looked at again, in seconds.
FOLLOW_TICK = 1.0
LINKS_SECONDS = 60.0


class Warmer:
    """Reads one path of one export into the cache."""

    def __init__(self, exported: Exported, store: StoreAccess | None, job: Job, *, links: bool = True) -> None:
        self.exported = exported
        self.files: set[tuple[int, int]] = set()  # what was warmed, for pinning
        self._store = store
        self._job = job
        self._links = links
        self._done: dict[bytes, Attr] = {}

    async def warm(self, path: bytes, *, follow: float = 0.0) -> None:
        """Warm `path` and all below it; with `follow`, again until nothing has changed for so many seconds."""
        quiet_since = trio.current_time()
        while True:
            if await self._pass(path):
                quiet_since = trio.current_time()
            if trio.current_time() - quiet_since >= follow:
                return
            await trio.sleep(FOLLOW_TICK)

    async def _pass(self, path: bytes) -> bool:
        """Read everything that is new or changed; whether there was anything."""
        changed = False
        waiting = [path]
        seen: set[bytes] = set()
        while waiting:
            async for file in files_below(self.exported, waiting.pop()):
                if file in seen:
                    continue
                seen.add(file)
                try:
                    changed |= await self._file(file)
                except OSError as error:
                    self._job.problem(f"{file.decode(errors='replace')}: {error.strerror or error}")
                    continue
                if self._links and file.endswith(HDF5_ENDINGS):
                    waiting += await self._referred(file)
        return changed

    async def _file(self, path: bytes) -> bool:
        exported = self.exported
        held, attr = await exported.pool.run(exported.export.open_file, path, prefetch=True)
        self.files.add((attr.dev, attr.ino))
        before = self._done.get(path)
        if before is not None and before.version == attr.version:
            return False
        size = exported.options.fragment_size
        fragments = iter(range(-(-attr.size // size)))
        self._job.total += -(-attr.size // size)
        file = exported.files.attach(path, held, attr)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(PARALLEL):
                    nursery.start_soon(self._fetch, file, attr, fragments)
        finally:
            exported.files.detach(file)
        self._done[path] = attr
        return True

    async def _fetch(self, file: OpenFile, attr: Attr, fragments: Iterator[int]) -> None:
        exported = self.exported
        for index in fragments:
            count = exported.options.fragment_size // BLOCK_SIZE
            want = exported.fragments.wanted(attr.version, index, 0, count, prefetch=True, verify=False)
            if self._store is not None:
                await self._store.writes.room(want.length)
            try:
                found = await exported.fragments.find(file, want)
            except OSError as error:
                self._job.problem(f"fragment {index}: {error.strerror or error}")
                continue
            if isinstance(found, Found) and found.piece is not None:
                exported.fragments.keep_now(want.key, found.piece, file.path)
            self._job.done += 1
            self._job.bytes += 0 if isinstance(found, Attr) else want.length

    async def _referred(self, path: bytes) -> list[bytes]:
        """What an HDF5 file refers to, inside the export."""
        exported = self.exported
        try:
            held, _ = await exported.pool.run(exported.export.open_file, path, prefetch=True)
            names = await exported.pool.run(_names_in, held, prefetch=True, deadline=LINKS_SECONDS + 5)
        except (OSError, ValueError) as error:
            self._job.problem(f"{path.decode(errors='replace')}: {error}")
            return []
        found = []
        for name in names:
            joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), name.encode()))
            try:
                found.append(check(joined))
            except BadPath:
                self._job.problem(f"{name} lies outside the export")
        return found


async def files_below(exported: Exported, path: bytes) -> AsyncIterator[bytes]:
    """All regular files at or below `path`; links are not followed. Raises `OSError` for `path` itself only."""
    attr, _ = await exported.pool.run(exported.export.lstat, path)
    if stat.S_ISREG(attr.mode):
        yield path
        return
    if not stat.S_ISDIR(attr.mode):
        raise OSError(errno.EINVAL, "neither a file nor a directory")
    waiting = [path]
    while waiting:
        directory = waiting.pop()
        try:
            _, items = await exported.pool.run(exported.export.list_directory, directory, prefetch=True)
        except OSError:
            continue
        for item in sorted(items, key=lambda item: item.name):
            below = directory + b"/" + item.name if directory else item.name
            if stat.S_ISDIR(item.attr.mode):
                waiting.append(below)
            elif stat.S_ISREG(item.attr.mode):
                yield below


def _names_in(held: Descriptor) -> list[str]:
    """Blocking, for a thread. Raises ValueError where the file cannot be understood."""
    ended = subprocess.run(
        [sys.executable, "-m", "dadafsd.hdf5_links", str(held.fd)],
        pass_fds=(held.fd,),
        capture_output=True,
        timeout=LINKS_SECONDS,
        check=False,
    )
    if ended.returncode:
        raise ValueError("its links cannot be read; is it an HDF5 file?")
    names = json.loads(ended.stdout)
    return [name for name in names if isinstance(name, str)]
