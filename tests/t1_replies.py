"""Fragments from the store leave the head as parts of their files, for sendfile; those in memory as buffers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs.checksum import block_checksums
from dadafs.wire.messages import BLOCK_SIZE, Blocks
from dadafsd.fragments import Found, Wanted
from dadafsd.origin_read import Piece
from dadafsd.replies import Reply, blocks_reply
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store_access import Record
from tests.harness.fragments import MIB, data_of, insert, key_of

KEY = key_of(1)
DATA = data_of(KEY)
CHECKSUMS = block_checksums(DATA)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    store = FragmentStore.open([TierSettings(tmp_path / "cache", 16 * MIB)], housekeeping=False)
    assert insert(store, KEY)
    stored = store.lookup(KEY)
    assert stored is not None
    yield Record(stored, 0.0)
    store.close()


def wanted(first: int, count: int) -> Wanted:
    return Wanted(KEY, 0, len(DATA), first, count, prefetch=False, verify=False)


def sent(reply: Reply) -> bytes:
    """What travels beside the message."""
    assert isinstance(reply.message, Blocks)
    assert reply.message.size == reply.size
    read = (os.pread(part.record.fd, part.length, part.offset) for part in reply.parts)
    return b"".join([*map(bytes, reply.buffers), *read])


def test_what_the_store_holds_is_sent_from_its_file(record: Record) -> None:
    reply = blocks_reply(Found("ssd", True, CHECKSUMS, 0, record=record), wanted(0, len(CHECKSUMS)), [])
    assert (len(reply.buffers), len(reply.parts)) == (0, 1)
    assert sent(reply) == DATA


def test_known_blocks_make_gaps(record: Record) -> None:
    known = [0 if number == 1 else checksum for number, checksum in enumerate(CHECKSUMS)]
    reply = blocks_reply(Found("ssd", True, CHECKSUMS, 0, record=record), wanted(0, len(CHECKSUMS)), known)
    assert reply.buffers == []
    assert sent(reply) == DATA[BLOCK_SIZE : 2 * BLOCK_SIZE]


def test_what_is_in_memory_is_not_copied() -> None:
    piece = Piece(DATA, CHECKSUMS, settled=True)
    reply = blocks_reply(Found("memory", True, CHECKSUMS, 0, piece=piece), wanted(0, len(CHECKSUMS)), [])
    assert reply.parts == []
    assert [buffer.obj is piece.data for buffer in reply.buffers] == [True]
    assert sent(reply) == DATA
