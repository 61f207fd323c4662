"""XXH3-64 checksums of 16 KiB blocks: the unit in which data is verified on the wire and on disk."""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from dadafs.wire.messages import BLOCK_SIZE

Buffer = bytes | bytearray | memoryview


def checksum(data: Buffer) -> int:
    """XXH3-64 (seed 0) of `data`, an unsigned 64-bit integer."""
    return int(xxh3_64_intdigest(data))


def block_count(size: int, block_size: int = BLOCK_SIZE) -> int:
    """How many blocks `size` bytes are; the last may be shorter."""
    return -(-size // block_size)


def block_checksums(data: Buffer, block_size: int = BLOCK_SIZE) -> list[int]:
    """XXH3-64 of each block of `data`, the last one as long as it is; `[]` for no data."""
    digest = xxh3_64_intdigest
    if len(data) <= block_size:
        return [digest(data)] if len(data) else []
    view = memoryview(data)
    return [digest(view[start : start + block_size]) for start in range(0, len(view), block_size)]


def damaged_blocks(data: Buffer, checksums: Sequence[int], block_size: int = BLOCK_SIZE) -> list[int]:
    """Indices of the blocks of `data` whose checksum is not the one given; missing and surplus ones count."""
    found = block_checksums(data, block_size)
    if found == list(checksums):
        return []
    longest = max(len(found), len(checksums))
    shortest = min(len(found), len(checksums))
    return [i for i in range(longest) if i >= shortest or found[i] != checksums[i]]
