"""Fragments for tests of the store: keys, and data that belong to one key and to no other."""

from __future__ import annotations

import random
from pathlib import Path

from dadafs.checksum import block_checksums
from dadafs.wire.messages import Version
from dadafsd.store import FragmentKey, FragmentStore

MIB = 1024 * 1024
FRAGMENT = 256 * 1024


def key_of(number: int, *, ino: int = 7, size: int | None = None, export: str = "data", mtime: int = 1) -> FragmentKey:
    """Fragment `number` of a file of `size` bytes (so long that the fragment is whole, unless told)."""
    version = Version(2049, ino, size if size is not None else (number + 1) * FRAGMENT, mtime, mtime)
    return FragmentKey(export, version, number, FRAGMENT)


def data_of(key: FragmentKey) -> bytes:
    """Bytes that belong to this key and to no other."""
    return random.Random(key.packed).randbytes(key.length)


def insert(store: FragmentStore, key: FragmentKey) -> bool:
    """Insert the data that belong to `key`."""
    data = data_of(key)
    return store.insert(key, data, block_checksums(data))


def read(store: FragmentStore, key: FragmentKey) -> bytes | None:
    """The data stored for `key`, None for a miss; fails where the store's checksums are not those of the data."""
    stored = store.lookup(key)
    if stored is None:
        return None
    with stored:
        data = stored.read()
        assert stored.checksums == block_checksums(data)
        return data


def record_path(directory: Path, key: FragmentKey) -> Path:
    """Where the record of `key` lies in a tier's directory."""
    name = f"{key.digest:016x}"
    return directory / "fragments" / name[:3] / name
