"""`verify --against-origin`: cached fragments beside the bytes that the origin has now.

Only fragments of a file's present version can be compared; those of earlier versions are counted and left to eviction.
A difference is one only if the file is still in that version, and still different, a while later: attributes of a
network file system may lag behind its data.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator

import trio

from dadafs.wire.messages import Attr
from dadafsd.confine import Descriptor
from dadafsd.exported import Exported
from dadafsd.jobs import Job
from dadafsd.origin_read import Piece, read_piece
from dadafsd.store.record import FragmentKey
from dadafsd.store_access import StoreAccess
from dadafsd.warming import files_below

#: How long after a difference was seen the file is looked at again, in seconds.
SECOND_LOOK = 3.0
#: Fragments looked up in one go.
BATCH = 4096


class Comparer:
    """Compares a `sample` (0 to 1) of the fragments of one export that are cached, file by file."""

    def __init__(self, exported: Exported, store: StoreAccess, job: Job, sample: float = 1.0) -> None:
        self._exported = exported
        self._store = store
        self._job = job
        self._sample = sample
        self._chance = random.Random()
        self.counts: Counter[str] = Counter()  # `same`, `different`, `changed`, `earlier`

    async def compare(self, path: bytes) -> None:
        """All files at or below `path`. Raises `OSError` for `path` itself."""
        async for file in files_below(self._exported, path):
            try:
                await self._file(file)
            except FileNotFoundError:
                self.counts["changed"] += 1
            except OSError as error:
                self._job.problem(f"{self._name(file)}: {error.strerror or error}")
            counts = self.counts
            self._job.message = (
                f"{counts['same']} fragments are what the origin has, {counts['different']} are not and were deleted; "
                f"{counts['changed']} files changed meanwhile, "
                f"of {counts['earlier']} only earlier versions are cached"
            )

    async def _file(self, path: bytes) -> None:
        exported = self._exported
        attr, _ = await exported.pool.run(exported.export.lstat, path, prefetch=True)
        tiers: dict[str, int] = await self._store.call(self._store.store.cached, exported.name, (attr.dev, attr.ino))
        cached = sum(tiers.values()) > 0
        if self._store.scanned and not cached:
            return
        held, attr = await exported.pool.run(exported.export.open_file, path, prefetch=True)
        present = 0
        async for key in self._present(attr):
            present += 1
            if self._chance.random() < self._sample and not await self._fragment(path, held, key):
                self.counts["changed"] += 1
                return
        if cached and not present:
            self.counts["earlier"] += 1

    async def _present(self, attr: Attr) -> AsyncIterator[FragmentKey]:
        """The fragments of a file in its present version that some tier has."""
        export, size = self._exported.name, self._exported.options.fragment_size
        keys = (FragmentKey(export, attr.version, index, size) for index in range(-(-attr.size // size)))
        while batch := list(itertools.islice(keys, BATCH)):
            for key in await self._store.call(self._store.store.present, batch):
                yield key

    async def _fragment(self, path: bytes, held: Descriptor, key: FragmentKey) -> bool:
        """Compare one fragment; False where the file is no longer, or not provably, in the version of `key`."""
        copies: dict[str, bytes] = await self._store.call(self._store.store.copies, key)
        piece = await self._read(held, key)
        if piece is None:
            return False
        wrong = [tier for tier, data in copies.items() if data != piece.data]
        if wrong:
            await trio.sleep(SECOND_LOOK)
            piece = await self._read(held, key)
            if piece is None:
                return False
            wrong = [tier for tier in wrong if copies[tier] != piece.data]
        self._job.done += 1
        self._job.bytes += len(piece.data)
        self.counts["different" if wrong else "same"] += 1
        if wrong:
            self._job.problem(f"{self._name(path)}: fragment {key.fragment} in {', '.join(wrong)} is not what is there")
            self._exported.fragments.memory.discard(key)
            await self._store.damaged(key)
        return True

    async def _read(self, held: Descriptor, key: FragmentKey) -> Piece | None:
        """What the origin has for `key`; None where the file is in another version, or was written just now."""
        offset = key.fragment * key.fragment_size
        found = await self._exported.pool.run(
            read_piece, held, key.version, offset, key.length, self._exported.clock, prefetch=True
        )
        return None if isinstance(found, Attr) or not found.settled else found

    def _name(self, path: bytes) -> str:
        return f"{self._exported.name}:/{path.decode(errors='replace')}"
