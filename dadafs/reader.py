"""Reads of open files: RAM cache, single flight, prefetch, checksums, revalidation, version changes.

reader = Reader(session, cache, counters)
async with trio.open_nursery() as nursery:
    reader.start(nursery)                      # prefetches run in this nursery
    streams = reader.open_streams(file)        # one per kernel file handle
    data = await reader.read(file, streams, offset, length)
    reader.close_streams(streams)
"""

from __future__ import annotations

import trio

from dadafs.counters import Counters
from dadafs.policy.prefetch import Streams
from dadafs.ram_cache import RamCache
from dadafs.remote_file import RemoteFile
from dadafs.session import Session


class Reader:
    """Answers reads with bytes of exactly one version of the file."""

    def __init__(self, session: Session, cache: RamCache, counters: Counters) -> None:
        raise NotImplementedError

    def start(self, nursery: trio.Nursery) -> None:
        """Prefetches run as tasks of `nursery` from now on; without it there is no prefetch."""
        raise NotImplementedError

    def open_streams(self, file: RemoteFile) -> Streams:
        """The prefetch state of one kernel handle; an HDF5 file's first and last fragment are asked for at once."""
        raise NotImplementedError

    def close_streams(self, streams: Streams) -> None:
        """The kernel handle is gone: its windows are given back."""
        raise NotImplementedError

    async def read(self, file: RemoteFile, streams: Streams, offset: int, length: int) -> bytes | memoryview:
        """Exactly `min(length, file.size - offset)` bytes (empty at and beyond the end), verified, of one version.

        The view stays valid as long as it is referenced. Raises `OSError`: EIO (deadline, damaged data, a file that
        never stands still), ESTALE (the file is gone), or what the head answered.
        """
        raise NotImplementedError
