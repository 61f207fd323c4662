"""Reading a piece of a file in exactly one version, or finding that the version is gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

import msgspec

from dadafs.checksum import block_checksums
from dadafs.wire.messages import INLINE_LIMIT, Attr, Version
from dadafsd.confine import Descriptor, read_small
from dadafsd.export import Small, fstat
from dadafsd.long_writes import change_time
from dadafsd.residency import read_resident
from dadafsd.sites import Failure, Site


class Clock(Protocol):
    """Decides whether timestamps prove a version (`dadafsd.policy.settle`)."""

    def now_ns(self) -> int: ...

    def settled(self, mtime_ns: int, ctime_ns: int, now_ns: int) -> bool: ...


class Piece(msgspec.Struct, frozen=True):
    """Bytes of one version of a file, with one checksum a block."""

    data: bytes
    checksums: list[int]
    settled: bool


def read_piece(
    held: Descriptor, version: Version, offset: int, length: int, clock: Clock, *, wait: bool = True
) -> Piece | Attr:
    """`length` bytes at `offset` of the file in state `version`; its attributes where that state is gone.

    Blocking, or without `wait` from the page cache alone (`BlockingIOError` where that does not have it). Raises
    `OSError` of the origin, `Failure(EIO)` where it gives too few bytes although nothing changed.
    """
    before = fstat(held)
    if before.version != version:
        return before
    now_ns = clock.now_ns()
    data = _read_fully(held.fd, offset, length) if wait else _read_resident(held.fd, offset, length)
    after = fstat(held)
    if after.version != version:
        return after
    if len(data) != length:
        raise Failure(errno.EIO, Site.ORIGIN_SHORT, f"{len(data)} bytes instead of {length} at {offset}")
    settled = clock.settled(version.mtime_ns, version.ctime_ns, now_ns)
    return Piece(data, block_checksums(data), settled)


def read_all(files: Sequence[Small], clock: Clock) -> list[Piece | None]:
    """The whole of each file that `Export.open_small` opened; None where it is in another state now, or unreadable.

    Blocking. As `read_piece`, which looked at each before it was read: they were, when they were opened.
    """
    if not files:
        return []
    now_ns = clock.now_ns()
    states = [(held.fd, dev, attr.ino, attr.size, attr.mtime_ns, ctime_ns) for held, attr, dev, ctime_ns in files]
    pieces: list[Piece | None] = []
    for (_, attr, _, ctime_ns), data in zip(files, read_small(states, INLINE_LIMIT), strict=True):
        # Its change time may be told in another way since, see `long_writes`.
        if data is None or change_time(attr.dev, attr.ino, ctime_ns) != attr.ctime_ns:
            pieces.append(None)
        else:
            settled = clock.settled(attr.mtime_ns, attr.ctime_ns, now_ns)
            pieces.append(Piece(data, block_checksums(data), settled))
    return pieces


def _read_resident(fd: int, offset: int, length: int) -> bytes:
    data = bytearray(length)
    if read_resident(fd, data, offset) != length:
        raise BlockingIOError
    return bytes(data)


def _read_fully(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    pieces = [data]
    have = len(data)
    while have < length:
        data = os.pread(fd, length - have, offset + have)
        if not data:
            break
        pieces.append(data)
        have += len(data)
    return b"".join(pieces)
