"""Fault: records on the SSD are damaged, cut short, or not what their name says. Each is a miss, and never served."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from dadafs.checksum import damaged_blocks
from dadafs.wire.messages import BLOCK_SIZE
from dadafsd.store import FragmentKey, FragmentStore, TierSettings
from dadafsd.store.record import FORMAT, check_header, decode_header, encode_header
from tests.checklogs import ExpectedLog
from tests.harness.fragments import FRAGMENT, MIB, data_of, insert, key_of, read, record_path

KEY = key_of(3)
Damage = Callable[[Path], None]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(directory: Path, expected_log: ExpectedLog) -> Iterator[FragmentStore]:
    expected_log.add(r"tier ssd: record [0-9a-f]{16} in .* is dropped: ")
    opened = FragmentStore.open([TierSettings(directory, 16 * MIB)], housekeeping=False)
    assert insert(opened, KEY)
    yield opened
    opened.close()


def flip(offset: int) -> Damage:
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            old = file.read(1)
            file.seek(offset)
            file.write(bytes([old[0] ^ 0x10]))

    return damage


def cut(length: int) -> Damage:
    return lambda path: os.truncate(path, length)


def reseal(header: bytearray) -> bytes:
    """A header with a valid checksum, whatever it says."""
    return bytes(header[:4088]) + xxh3_64_intdigest(bytes(header[:4088])).to_bytes(8, "little")


def overwrite(offset: int, content: bytes) -> Damage:
    """Change a header field and seal it again: a sound header that says something else."""

    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            header = bytearray(file.read(4096))
            header[offset : offset + len(content)] = content
            file.seek(0)
            file.write(reseal(header))

    return damage


def replace(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def another_key(path: Path) -> None:
    other = key_of(4)
    path.write_bytes(encode_header(other, [0] * (FRAGMENT // BLOCK_SIZE)) + data_of(other))


DAMAGES: dict[str, Damage] = {
    "magic": flip(0),
    "format": flip(8),
    "key": flip(40),
    "export name": flip(80),
    "length": flip(336),
    "block checksum": flip(352),
    "padding": flip(2000),
    "seal": flip(4095),
    "cut to nothing": cut(0),
    "cut in the header": cut(100),
    "cut before the seal": cut(4095),
    "cut to the header": cut(4096),
    "cut in the data": cut(4096 + 65536),
    "cut by one byte": cut(4096 + FRAGMENT - 1),
    "too long": cut(4096 + FRAGMENT + 1),
    "of another version of this program": overwrite(8, (FORMAT + 1).to_bytes(4, "little")),
    "length 0": overwrite(336, bytes(8)),
    "length far too large": overwrite(336, b"\xff" * 8),
    "length of another block count": overwrite(336, (1000).to_bytes(8, "little")),
    "block count far too large": overwrite(344, b"\xff" * 4),
    "another key under this name": another_key,
    "a directory": replace(lambda path: path.mkdir()),
    "a link": replace(lambda path: path.symlink_to("/etc/passwd")),
    "a pipe": replace(os.mkfifo),
    "zeros": lambda path: path.write_bytes(bytes(4096 + FRAGMENT)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_record_is_a_miss_and_can_be_cached_again(
    store: FragmentStore, directory: Path, damage: Damage
) -> None:
    damage(record_path(directory, KEY))
    assert store.lookup(KEY) is None
    assert store.status()[0].counts.damaged == 1
    if record_path(directory, KEY).is_dir():  # nothing that we made: it stays, and is never opened again
        assert store.lookup(KEY) is None
        return
    assert not os.path.lexists(record_path(directory, KEY))
    assert read(store, KEY) is None
    assert insert(store, KEY)
    assert read(store, KEY) == data_of(KEY)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_scan_drops_what_is_damaged(store: FragmentStore, directory: Path, damage: Damage) -> None:
    insert(store, key_of(5))
    store.close()
    (directory / "index").unlink()
    damage(record_path(directory, KEY))
    again = FragmentStore.open([TierSettings(directory, 16 * MIB)], housekeeping=False)
    try:
        again.housekeep()
        assert again.status()[0].fragments == 1
        assert read(again, KEY) is None
        assert read(again, key_of(5)) == data_of(key_of(5))
    finally:
        again.close()


def test_damaged_data_are_known_by_their_checksum_and_dropped_when_told(store: FragmentStore, directory: Path) -> None:
    flip(4096 + 70_000)(record_path(directory, KEY))
    stored = store.lookup(KEY)
    assert stored is not None
    with stored:
        assert damaged_blocks(stored.read(), stored.checksums) == [70_000 // BLOCK_SIZE]
    store.damaged(KEY)
    assert store.lookup(KEY) is None
    assert insert(store, KEY)
    assert read(store, KEY) == data_of(KEY)


def test_strangers_in_the_directory_are_left_alone(store: FragmentStore, directory: Path) -> None:
    strangers = [directory / "notes.txt", directory / "fragments" / "readme", record_path(directory, KEY).parent / "x"]
    for path in strangers:
        path.write_text("mine")
    shutil.copy(record_path(directory, KEY), record_path(directory, KEY).parent / "0000000000000000")
    store.housekeep()
    store.evict()
    assert [path.read_text() for path in strangers] == ["mine"] * 3


def test_no_header_is_accepted_that_was_not_written_for_the_key() -> None:
    """Every byte of a header counts: flipping any of them is noticed."""
    key: FragmentKey = key_of(3)
    sums = list(range(1, 1 + FRAGMENT // BLOCK_SIZE))
    header = encode_header(key, sums)
    assert check_header(header, key) == sums
    assert decode_header(header) == (key, sums)
    for offset in range(0, 4096, 7):
        bad = bytearray(header)
        bad[offset] ^= 0x40
        with pytest.raises(Exception, match=r"header|format"):
            check_header(bytes(bad), key)
