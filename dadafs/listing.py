"""A directory's listing in packed form: about a hundred bytes a name, no Python object per name.

A directory with 200,000 names has to fit into the node's memory budget beside the data, and to be built without
stalling the loop: the head sends it in pages, and each page is packed, with its own hash table, when it arrives.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence

import msgspec

from dadafs.wire.messages import Attr, Item

#: One packed `Attr`, its fields in their order of declaration.
_RECORD = struct.Struct("<QQIIIIQqqIqqq")
#: Device and inode number of one.
_IDENTITY = struct.Struct("<QQ68x")
#: Items of one page at most: an index into it has to fit into the 16 bits of the table, and of a `Place`.
PAGE_LIMIT = 32768
_OBJECT_OVERHEAD = 600

_astuple = msgspec.structs.astuple
#: The packed fields of one object: dev, ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime.
Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]


class Page:
    """Some consecutive names of a directory, immutable."""

    __slots__ = ("_mask", "_names", "_records", "_starts", "_table", "_targets", "count", "refs", "size")

    def __init__(self, items: Sequence[Item]) -> None:
        """Pack `items` (at most PAGE_LIMIT). Raises ValueError for more, struct.error for values out of range."""
        count = len(items)
        if count > PAGE_LIMIT:
            raise ValueError(f"a page of {count} names")
        self.count = count
        #: How many listings and places hold it; memory is charged once.
        self.refs = 0
        self._names = b"".join([item.name for item in items])
        starts = array("I", bytes(4 * (count + 1)))
        position = 0
        for index, item in enumerate(items):
            starts[index] = position
            position += len(item.name)
        starts[count] = position
        self._starts = starts
        pack = _RECORD.pack
        self._records = b"".join([pack(*_astuple(item.attr)) for item in items])
        self._targets = {index: item.target for index, item in enumerate(items) if item.target is not None}
        self._index(items)
        self.size = (
            len(self._names)
            + len(self._records)
            + 4 * len(starts)
            + 2 * len(self._table)
            + sum(150 + len(target) for target in self._targets.values())
            + _OBJECT_OVERHEAD
        )

    def _index(self, items: Sequence[Item]) -> None:
        """An open-addressing table from the hash of a name to its index + 1, at most two thirds full."""
        slots = 4
        while slots * 2 < self.count * 3:
            slots *= 2
        table = array("H", bytes(2 * slots))
        mask = slots - 1
        for index, item in enumerate(items):
            slot = hash(item.name) & mask
            while table[slot]:
                slot = (slot + 1) & mask
            table[slot] = index + 1
        self._table = table
        self._mask = mask

    def find(self, name: bytes) -> int:
        """The index of `name`, or -1."""
        table, mask, starts = self._table, self._mask, self._starts
        slot = hash(name) & mask
        while True:
            entry = table[slot]
            if not entry:
                return -1
            if self._names[starts[entry - 1] : starts[entry]] == name:
                return entry - 1
            slot = (slot + 1) & mask

    def name(self, index: int) -> bytes:
        """The name at `index`."""
        return self._names[self._starts[index] : self._starts[index + 1]]

    def fields(self, index: int) -> Fields:
        """The attributes at `index`, as a plain tuple: the cheapest form."""
        return _RECORD.unpack_from(self._records, index * _RECORD.size)

    def identities(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Device and inode number of the objects `start` .. `stop - 1`."""
        size = _RECORD.size
        return _IDENTITY.iter_unpack(memoryview(self._records)[start * size : stop * size])

    def packed(self) -> tuple[bytes, array[int], bytes]:
        """All names in a row, where each begins (and the last one ends), and the records: for the compiled part."""
        return self._names, self._starts, self._records

    def attr(self, index: int) -> Attr:
        """The attributes at `index`."""
        return Attr(*_RECORD.unpack_from(self._records, index * _RECORD.size))

    def target(self, index: int) -> bytes | None:
        """The text of the symbolic link at `index`."""
        return self._targets.get(index)


class Listing:
    """A complete directory: one snapshot, and what it takes to know whether it may be believed.

    `wanted`: a program asked for it. One that the node took to save look-ups is never leased, and answers only for the
    names in it: whoever has just made a file and asks for it is not told that there is none.
    """

    __slots__ = ("asked_at", "attr", "count", "generation", "leased", "pages", "wanted")

    def __init__(
        self,
        attr: Attr,
        pages: Sequence[Page],
        *,
        asked_at: float,
        generation: int,
        leased: bool,
        wanted: bool = True,
    ) -> None:
        self.attr = attr
        self.pages = tuple(pages)
        self.asked_at = asked_at
        self.generation = generation
        self.leased = leased
        self.wanted = wanted
        self.count = sum(page.count for page in self.pages)

    def find(self, name: bytes) -> tuple[Page, int] | None:
        """Where `name` is, or None."""
        for page in self.pages:
            index = page.find(name)
            if index >= 0:
                return page, index
        return None

    def position(self, name: bytes) -> int | None:
        """How many names come before `name`, or None where it is not here."""
        before = 0
        for page in self.pages:
            index = page.find(name)
            if index >= 0:
                return before + index
            before += page.count
        return None

    def slice(self, start: int, stop: int) -> Iterator[tuple[bytes, Fields]]:
        """The names at the positions `start` .. `stop - 1`, as far as there are any, with their attributes."""
        before = 0
        for page in self.pages:
            for index in range(max(0, start - before), min(page.count, stop - before)):
                yield page.name(index), page.fields(index)
            before += page.count

    def __iter__(self) -> Iterator[tuple[Page, int]]:
        for page in self.pages:
            for index in range(page.count):
                yield page, index


class ListingBuilder:
    """Collects the pages of a listing as they arrive; page 0 begins anew (the snapshot had expired)."""

    def __init__(self) -> None:
        self.pages: list[Page] = []

    def take(self, page: int, items: Sequence[Item]) -> None:
        """Pack the items of page number `page`."""
        if page == 0:
            self.pages.clear()
        for start in range(0, len(items), PAGE_LIMIT):
            self.pages.append(Page(items[start : start + PAGE_LIMIT]))
