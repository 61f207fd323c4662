"""Arrays and their description as one checked run of bytes: what the store and the chunk index keep.

Layout: 8 bytes magic with the format's number, 16 bytes XXH3-128 of all that follows, then LZ4 (frame format) of a
MessagePack map {"meta": ..., "arrays": {name: [dtype, shape, bytes]}}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lz4.frame
import msgspec
import numpy as np
import xxhash

MAGIC = b"dadarec1"
_HEADER = len(MAGIC) + 16
_KINDS = frozenset("biuf")


class BadRecord(ValueError):
    """These bytes are no record, or not all of one."""


def pack(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """One record. `meta` holds plain JSON values; arrays are of bool, integer or float type."""
    packed = {
        name: [array.dtype.newbyteorder("<").str, list(array.shape), _little_endian(array)]
        for name, array in arrays.items()
    }
    body = lz4.frame.compress(msgspec.msgpack.encode({"meta": dict(meta), "arrays": packed}))
    return MAGIC + xxhash.xxh3_128_digest(body) + body


def check(record: bytes | memoryview) -> memoryview:
    """The body of an undamaged record. Raises BadRecord."""
    view = memoryview(record)
    if view[: len(MAGIC)] != MAGIC or view[len(MAGIC) : _HEADER] != xxhash.xxh3_128_digest(view[_HEADER:]):
        raise BadRecord("no record, or a damaged one")
    return view[_HEADER:]


def unpack(record: bytes | memoryview) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What was packed; the arrays are read-only. Raises BadRecord for anything damaged."""
    body = check(record)
    try:
        content = msgspec.msgpack.decode(lz4.frame.decompress(body))
        arrays = {name: _array(*parts) for name, parts in content["arrays"].items()}
        return dict(content["meta"]), arrays
    except (RuntimeError, msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadRecord(f"a record of another format: {error}") from error


def _little_endian(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _array(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind not in _KINDS or len(data) != kind.itemsize * math.prod(shape):
        raise BadRecord("an array of a record does not have the size it says")
    return np.frombuffer(data, dtype=kind).reshape(shape)
