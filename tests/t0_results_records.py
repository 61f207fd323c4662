"""Records: what goes in comes out, and anything damaged is recognised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dada.results.keys import patch_key, run_id
from dada.results.records import BadRecord, check, pack, unpack
from dada.version import FileVersion

ARRAYS = {
    "sums": np.arange(12, dtype=np.int64).reshape(3, 4),
    "status": np.array([0, 5, 0], dtype=np.int32),
    "floats": np.array([1.5, np.nan]),
    "empty": np.zeros((3, 0), dtype=np.uint16),
    "big_endian": np.array([1, 2], dtype=">i4"),
}


def test_round_trip() -> None:
    meta, arrays = unpack(pack({"count": 3, "damages": [[1, "why"]]}, ARRAYS))
    assert meta == {"count": 3, "damages": [[1, "why"]]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype.newbyteorder("<")


RECORD = pack({"count": 3}, ARRAYS)


@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at: int, change: int) -> None:
    damaged = bytearray(RECORD)
    damaged[at] ^= change
    with pytest.raises(BadRecord):
        unpack(bytes(damaged))


@given(st.integers(0, len(RECORD) - 1))
def test_a_torn_record_is_noticed(length: int) -> None:
    with pytest.raises(BadRecord):
        check(RECORD[:length])


def test_nothing_but_numbers_is_unpacked() -> None:
    import lz4.frame
    import msgspec
    import xxhash

    for content in (b"", [1], {"meta": {}}, {"meta": {}, "arrays": {"a": ["O", [1], b"12345678"]}},
                    {"meta": {}, "arrays": {"a": ["<i8", [2], b"12345678"]}}):  # fmt: skip
        body = lz4.frame.compress(msgspec.msgpack.encode(content))
        with pytest.raises(BadRecord):
            unpack(b"dadarec1" + xxhash.xxh3_128_digest(body) + body)


def test_every_part_of_a_key_matters() -> None:
    version = FileVersion(100, 5, 7)
    usual = (version, "/entry/data/data", 0, 64, 64, "plan", "bins", "table")
    others = [
        (FileVersion(101, 5, 7), *usual[1:]),
        (FileVersion(100, 6, 7), *usual[1:]),
        (FileVersion(100, 5, 8), *usual[1:]),
        *((*usual[:i], other, *usual[i + 1 :]) for i, other in enumerate(("/d", 1, 0, 63, "p", "roi", "t"), 1)),
    ]
    keys = {patch_key(*key) for key in (usual, *others)}
    assert len(keys) == len(others) + 1
    assert all(set(key) <= set("0123456789abcdef") and len(key) == 40 for key in keys)


def test_a_key_does_not_depend_on_where_the_file_is() -> None:
    assert patch_key(FileVersion(1, 2, 3), "/d", 0, 0, 1, "p", "m", "") == patch_key(
        FileVersion(1, 2, 3), "/d", 0, 0, 1, "p", "m", ""
    )
    assert run_id({"b": 1, "a": 2}) == run_id({"a": 2, "b": 1})
