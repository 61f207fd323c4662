"""The snapshot of a tier's index: what lets a restart know sizes, files and recency without a scan.

A file of a header (magic, format, number of entries in the small and the main queue), the arrays of both queues (keys
u64, file marks u32, infos u32, oldest first, little-endian) and the XXH3-64 of everything before. It may be old or
missing: the scan finds what it does not know, and an entry without a record costs nothing.
"""

from __future__ import annotations

import struct

import numpy as np
from xxhash import xxh3_64

from dadafsd.store.ring import Entries

_HEAD = struct.Struct("<8sIIQQ")
_MAGIC = b"DADAINDX"
_FORMAT = 1
_SEAL = struct.Struct("<Q")
_ENTRY_SIZE = 16


def encode(small: Entries, main: Entries) -> list[bytes | memoryview]:
    """The parts of a snapshot file."""
    head = _HEAD.pack(_MAGIC, _FORMAT, _ENTRY_SIZE, len(small[0]), len(main[0]))
    parts: list[bytes | memoryview] = [head]
    parts += [values.data.cast("B") for values in (*small, *main) if len(values)]
    seal = xxh3_64()
    for part in parts:
        seal.update(part)
    return [*parts, _SEAL.pack(seal.intdigest())]


def decode(data: bytes) -> tuple[Entries, Entries] | None:
    """Both queues, or None for anything that is not exactly a sound snapshot."""
    if len(data) < _HEAD.size + _SEAL.size:
        return None
    magic, form, entry_size, in_small, in_main = _HEAD.unpack_from(data)
    if (magic, form, entry_size) != (_MAGIC, _FORMAT, _ENTRY_SIZE):
        return None
    if len(data) != _HEAD.size + (in_small + in_main) * _ENTRY_SIZE + _SEAL.size:
        return None
    end = len(data) - _SEAL.size
    seal = xxh3_64(memoryview(data)[:end]).intdigest()
    if seal != _SEAL.unpack_from(data, end)[0]:
        return None
    small = _entries(data, _HEAD.size, in_small)
    return small, _entries(data, _HEAD.size + in_small * _ENTRY_SIZE, in_main)


def _entries(data: bytes, offset: int, count: int) -> Entries:
    keys = np.frombuffer(data, np.uint64, count, offset)
    files = np.frombuffer(data, np.uint32, count, offset + 8 * count)
    return keys, files, np.frombuffer(data, np.uint32, count, offset + 12 * count)
