"""The on-disk form of one fragment: a header of 4096 bytes that says what it is, then the data.

A record is a file of its own. Its name is the XXH3-64 of its key in hexadecimal; the header carries the whole key, so
that two keys with one name cost a miss and never a wrong byte. All integers are little-endian.

    0     magic `DADAFRAG`, format number (u32), header size (u32)
    16    key: fragment size, fragment number, device, inode, file size (u64), mtime, ctime (i64), export length (u16)
    80    export name, UTF-8, zero padded to 256 bytes
    336   data length (u64), number of blocks (u32), 0 (u32)
    352   XXH3-64 of each 16 KiB block (u64 each), zeros
    4088  XXH3-64 of bytes 0 .. 4087
    4096  data
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from dadafs.wire.messages import BLOCK_SIZE, MAX_FRAGMENT_SIZE, Version

MAGIC = b"DADAFRAG"
FORMAT = 2
HEADER_SIZE = 4096
DATA_OFFSET = HEADER_SIZE
MAX_EXPORT_LENGTH = 255
#: Space on disk is counted in units of this many bytes.
UNIT = 4096

_PREAMBLE = struct.Struct("<8sII")
_KEY = struct.Struct("<QQQQQqqH6x256s")
_BODY = struct.Struct("<QII")
_CHECKSUM = struct.Struct("<Q")
_KEY_OFFSET = _PREAMBLE.size
_BODY_OFFSET = _KEY_OFFSET + _KEY.size
_BLOCKS_OFFSET = _BODY_OFFSET + _BODY.size
_SEAL_OFFSET = HEADER_SIZE - _CHECKSUM.size
_STARTS = _PREAMBLE.pack(MAGIC, FORMAT, HEADER_SIZE)


class DamagedRecord(Exception):
    """A file under a record's name is not that record; the text says why."""


class FragmentKey(msgspec.Struct, frozen=True, dict=True):
    """One fragment of one state of one file. `fragment_size` in bytes, at most MAX_FRAGMENT_SIZE."""

    export: str
    version: Version
    fragment: int
    fragment_size: int

    @cached_property
    def packed(self) -> bytes:
        """The key as it stands in the header; raises `ValueError` for one that cannot be stored."""
        name = self.export.encode()
        v = self.version
        if len(name) > MAX_EXPORT_LENGTH or not 0 < self.fragment_size <= MAX_FRAGMENT_SIZE:
            raise ValueError(f"no storable key: {self}")
        try:
            return _KEY.pack(
                self.fragment_size, self.fragment, v.dev, v.ino, v.size, v.mtime_ns, v.ctime_ns, len(name), name
            )
        except struct.error as error:
            raise ValueError(f"no storable key: {self}") from error

    @cached_property
    def digest(self) -> int:
        """XXH3-64 of the key: the record's name and its place in the index."""
        return int(xxh3_64_intdigest(self.packed))

    @cached_property
    def length(self) -> int:
        """Bytes that this fragment has in a file of that size; 0 beyond its end."""
        return max(0, min(self.fragment_size, self.version.size - self.fragment * self.fragment_size))


class _Closer(Protocol):
    def __call__(self, digest: int) -> None: ...


@dataclass(slots=True)
class Stored:
    """A record found: its data are bytes `offset` .. `offset + length - 1` of `fd`. Close it when they were sent."""

    fd: int
    offset: int
    length: int
    checksums: list[int]
    tier: str = ""
    kind: str = ""  # of the tier
    _digest: int = field(default=0, repr=False)
    _closed: _Closer | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """All data, not verified; raises `OSError`, and `EOFError` where the file is too short."""
        data = os.pread(self.fd, self.length, self.offset)
        if len(data) != self.length:
            raise EOFError(f"record ends after {len(data)} of {self.length} bytes")
        return data

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        os.close(fd)
        if self._closed is not None:
            self._closed(self._digest)

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def file_mark(export: str, identity: tuple[int, int]) -> int:
    """32 bits that stand for the file `(device, inode)` of an export in the index."""
    packed = struct.pack("<QQ", *identity) + export.encode()
    return int(xxh3_64_intdigest(packed)) >> 32


def units(length: int) -> int:
    """Units of space that a record with `length` bytes of data takes."""
    return (HEADER_SIZE + length + UNIT - 1) // UNIT


def block_count(length: int) -> int:
    """Blocks in `length` bytes of data."""
    return -(-length // BLOCK_SIZE)


def encode_header(key: FragmentKey, checksums: Sequence[int]) -> bytes:
    """The 4096 bytes before the data of `key`; raises `ValueError` where the checksums do not fit the key."""
    length = key.length
    if length == 0 or len(checksums) != block_count(length):
        raise ValueError(f"{len(checksums)} checksums for {length} bytes of {key}")
    blocks = struct.pack(f"<{len(checksums)}Q", *checksums)
    head = b"".join((_STARTS, key.packed, _BODY.pack(length, len(checksums), 0), blocks))
    head = head.ljust(_SEAL_OFFSET, b"\0")
    return head + _CHECKSUM.pack(xxh3_64_intdigest(head))


def _check_seal(header: bytes | bytearray) -> None:
    if len(header) != HEADER_SIZE:
        raise DamagedRecord("header cut short")
    if header[:16] != _STARTS:
        raise DamagedRecord("not a record of this format")
    if xxh3_64_intdigest(memoryview(header)[:_SEAL_OFFSET]) != _CHECKSUM.unpack_from(header, _SEAL_OFFSET)[0]:
        raise DamagedRecord("header damaged")


def _checksums(header: bytes | bytearray) -> tuple[int, list[int]]:
    length, count, _ = _BODY.unpack_from(header, _BODY_OFFSET)
    if not 0 < length <= MAX_FRAGMENT_SIZE or count != block_count(length):
        raise DamagedRecord("header contradicts itself")
    return length, list(struct.unpack_from(f"<{count}Q", header, _BLOCKS_OFFSET))


def check_header(header: bytes | bytearray, key: FragmentKey) -> list[int]:
    """The block checksums in `header`; raises `DamagedRecord` unless it is a sound header of exactly `key`."""
    _check_seal(header)
    if header[_KEY_OFFSET:_BODY_OFFSET] != key.packed:
        raise DamagedRecord("another key under this name")
    length, checksums = _checksums(header)
    if length != key.length:
        raise DamagedRecord("length does not fit the key")
    return checksums


def decode_header(header: bytes) -> tuple[FragmentKey, list[int]]:
    """Key and block checksums of a header met in a scan; raises `DamagedRecord`."""
    _check_seal(header)
    size, number, dev, ino, file_size, mtime, ctime, name_length, name = _KEY.unpack_from(header, _KEY_OFFSET)
    try:
        export = name[:name_length].decode()
        key = FragmentKey(export, Version(dev, ino, file_size, mtime, ctime), number, size)
        return key, check_header(header, key)
    except ValueError as error:
        raise DamagedRecord("header contradicts itself") from error
