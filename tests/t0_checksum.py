"""Block checksums: which blocks are damaged, and that the value is XXH3-64 as others compute it."""

from __future__ import annotations

import pytest

from dadafs.checksum import block_checksums, block_count, checksum, damaged_blocks
from dadafs.wire.messages import BLOCK_SIZE

DATA = bytes(range(256)) * (BLOCK_SIZE // 64)  # four blocks


def test_the_value_is_xxh3_64() -> None:
    """Published test vector of XXH3-64 with seed 0 for no data."""
    assert checksum(b"") == 0x2D06800538D394C2


@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 4 * BLOCK_SIZE])
def test_one_checksum_a_block(size: int) -> None:
    found = block_checksums(DATA[:size])
    assert len(found) == block_count(size)
    assert found == [checksum(DATA[i : min(i + BLOCK_SIZE, size)]) for i in range(0, size, BLOCK_SIZE)]
    assert damaged_blocks(memoryview(DATA)[:size], found) == []


@pytest.mark.parametrize("position", [0, BLOCK_SIZE - 1, BLOCK_SIZE, 4 * BLOCK_SIZE - 1])
def test_a_flipped_bit_damages_its_block_only(position: int) -> None:
    damaged = bytearray(DATA)
    damaged[position] ^= 1
    assert damaged_blocks(damaged, block_checksums(DATA)) == [position // BLOCK_SIZE]


def test_missing_and_surplus_blocks_are_damaged() -> None:
    good = block_checksums(DATA)
    last = len(good) - 1
    assert damaged_blocks(DATA[: 2 * BLOCK_SIZE], good) == list(range(2, last + 1))
    assert damaged_blocks(DATA, good[:-1]) == [last]
    assert damaged_blocks(DATA[:-1], good) == [last]
