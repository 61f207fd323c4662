"""Unchanged blocks of a changed file: known by their checksums, copied from stale data instead of sent again."""

from __future__ import annotations

from dadafs.cached_file import CachedFile, Extent
from dadafs.wire.messages import BLOCK_SIZE, Blocks, all_sent


class Damaged(Exception):
    """A reply does not hold together: a checksum is wrong, or blocks are missing that nobody has."""


class Known:
    """The stale blocks held for one run of blocks: their checksums, and where their data is.

    `checksums` has one entry a block, 0 where nothing is held; it is empty where nothing is held at all.
    """

    def __init__(self, file: CachedFile, extent: Extent) -> None:
        self.checksums: list[int] = []
        self._count = extent.count
        self._sources: dict[int, memoryview] = {}
        for stale in file.stale.get(extent.fragment, ()):
            self._add(stale, extent)

    def _add(self, stale: Extent, extent: Extent) -> None:
        view = stale.view()
        for block in range(max(stale.first, extent.first), min(stale.end, extent.end)):
            start = (block - stale.first) * BLOCK_SIZE
            source = view[start : start + BLOCK_SIZE]
            index = block - extent.first
            if len(source) != block_length(extent, index):
                continue
            if not self.checksums:
                self.checksums = [0] * extent.count
            self.checksums[index] = stale.checksums[block - stale.first]
            self._sources[index] = source

    def source(self, index: int) -> memoryview:
        """The stale data of block `index` of the run. Raises Damaged where there is none."""
        try:
            return self._sources[index]
        except KeyError:
            raise Damaged("a block was left out that was never held") from None

    def forget(self) -> None:
        """Insist on all blocks: ask the head to read them again, with verification."""
        self.checksums = [0] * self._count
        self._sources.clear()


def block_length(extent: Extent, index: int) -> int:
    """Bytes of block `index` of the run `extent`."""
    return min(BLOCK_SIZE, extent.length - index * BLOCK_SIZE)


def assemble(extent: Extent, reply: Blocks, known: Known) -> int:
    """Put sent and unchanged blocks in their places in `extent`; the number of unchanged ones.

    The payload lies at the front of the buffer, sent blocks one after the other. Raises Damaged where the
    reply does not add up to the run.
    """
    count = extent.count
    if len(reply.checksums) != count:
        raise Damaged(f"{len(reply.checksums)} checksums for {count} blocks")
    if reply.sent == all_sent(count):
        if reply.size != extent.length:
            raise Damaged(f"{reply.size} bytes for {extent.length}")
        return 0
    sent = [index for index in range(count) if reply.sent >> index & 1]
    lengths = [block_length(extent, index) for index in sent]
    if sum(lengths) != reply.size:
        raise Damaged(f"{reply.size} bytes for {sum(lengths)}")
    data = extent.view()
    position = reply.size
    for index, length in zip(reversed(sent), reversed(lengths), strict=True):
        position -= length  # from the back: a block never lands on one that is still to be moved
        start = index * BLOCK_SIZE
        data[start : start + length] = data[position : position + length]
    for index in set(range(count)).difference(sent):
        if reply.checksums[index] != known.checksums[index]:
            raise Damaged("a block was left out although it changed")
        start = index * BLOCK_SIZE
        source = known.source(index)
        data[start : start + len(source)] = source
    return count - len(sent)
