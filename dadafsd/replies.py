"""Turning what was found into a `Blocks` reply: which blocks go on the wire, from memory or straight from disk."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dadafs.wire.messages import BLOCK_SIZE, MOST_NAMED, Blocks, Message, all_sent
from dadafsd.fragments import Found, Wanted
from dadafsd.hot_reads import told
from dadafsd.store.record import FragmentKey
from dadafsd.store_access import Record


class FilePart(msgspec.Struct, frozen=True):
    """Bytes `offset` .. `offset + length - 1` of a record's file, to be sent by sendfile."""

    record: Record
    offset: int
    length: int


class Reply(msgspec.Struct, frozen=True):
    """A message and what travels beside it: buffers, or parts of one record's file.

    `packed_as` names these bytes, if they can be known by a name.
    """

    message: Message
    buffers: list[memoryview] = []
    parts: list[FilePart] = []
    packed_as: tuple[FragmentKey, int, int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(map(len, self.buffers)) + sum(part.length for part in self.parts)


def blocks_reply(found: Found, want: Wanted, known: Sequence[int]) -> Reply:
    """The reply to a read: every wanted block but those whose checksum the node already knows."""
    skip = want.first - found.first
    checksums = found.checksums[skip : skip + want.count]
    sent, runs = _runs(checksums, known)
    end = want.length - found.first * BLOCK_SIZE  # where the data of `found` ends at the latest
    buffers, parts, size = [], [], 0
    for start, stop in runs:
        begin = (skip + start) * BLOCK_SIZE
        length = min((skip + stop) * BLOCK_SIZE, end) - begin
        size += length
        if found.piece is not None:
            buffers.append(memoryview(found.piece.data)[begin : begin + length])
        elif found.record is not None:
            parts.append(FilePart(found.record, found.record.offset + begin, length))
    message = Blocks(checksums, sent, size, settled=found.settled, tier=_kind(found))
    named = (want.key, want.first, want.count, sent) if found.settled else None
    return Reply(message, buffers, parts, named)


def _kind(found: Found) -> str:
    """Where the node is told that its blocks came from: `memory`, `ssd` or `origin`, whatever tiers are called."""
    if found.record is None:
        return found.tier
    return told(found.record.stored.kind)


def _runs(checksums: Sequence[int], known: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """The bit mask of blocks to send, and the same as half-open runs; a known checksum of 0 is unknown."""
    if not any(known) or len(checksums) > MOST_NAMED:
        return all_sent(len(checksums)), [(0, len(checksums))]
    sent = 0
    runs: list[tuple[int, int]] = []
    for i, checksum in enumerate(checksums):
        if i < len(known) and known[i] and known[i] == checksum:
            continue
        sent |= 1 << i
        if runs and runs[-1][1] == i:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return sent, runs
