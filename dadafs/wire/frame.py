"""Framing without I/O: the 20-byte header before every message, its limits and its check.

    offset  size  field
    0       2     magic, b"dF"
    2       1     kind (`Kind`)
    3       1     flags, 0 in this version
    4       4     request id, 0 for pushes and the handshake
    8       4     length of the metadata in bytes
    12      4     length of the payload in bytes
    16      4     check: low half of XXH3-64 over the metadata, seeded with XXH3-64 over the 16 bytes before

All integers are little-endian. The check catches damage to the header and the metadata, which no block
checksum covers; the payload has its own checksums in the metadata. It is no protection against an attacker.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

MAGIC = b"dF"
_BARE = struct.Struct("<2sBBIII")
_CHECK = struct.Struct("<I")
_HEADER = struct.Struct("<2sBBIIII")
HEADER_SIZE = _HEADER.size
MAX_REQUEST_ID = 2**32 - 1


class FrameError(Exception):
    """The peer sent something that is no frame of this protocol; the connection cannot go on."""


class Kind(enum.IntEnum):
    """What a frame carries, and so who may send it when."""

    HANDSHAKE = 1
    REQUEST = 2
    REPLY = 3
    PUSH = 4


class Limits(NamedTuple):
    """The largest metadata and payload, in bytes, that are accepted."""

    metadata: int
    payload: int


#: What a stranger may send.
BEFORE_AUTHENTICATION = Limits(4 * 1024, 0)
#: What an authenticated head may send to a node.
FROM_HEAD = Limits(8 * 1024 * 1024, 16 * 1024 * 1024)
#: What an authenticated node may send to a head: requests carry no payload.
FROM_NODE = Limits(8 * 1024 * 1024, 0)


class Header(NamedTuple):
    """A header that was found acceptable; `check` and `seed` serve `verify` once the metadata is there."""

    kind: Kind
    request_id: int
    metadata_length: int
    payload_length: int
    check: int
    seed: int


_KINDS = {int(kind): kind for kind in Kind}


def pack(kind: Kind, request_id: int, metadata: bytes, payload_length: int) -> bytes:
    """Header and metadata of one frame; `payload_length` bytes of payload have to follow them."""
    bare = _BARE.pack(MAGIC, kind, 0, request_id, len(metadata), payload_length)
    check = xxh3_64_intdigest(metadata, xxh3_64_intdigest(bare)) & 0xFFFFFFFF
    return bare + _CHECK.pack(check) + metadata


def unpack(buffer: bytearray | bytes | memoryview, offset: int, limits: Limits) -> Header:
    """The header at `offset`. Raises FrameError where it is none, or announces more than `limits` allow."""
    magic, kind, flags, request_id, metadata_length, payload_length, check = _HEADER.unpack_from(buffer, offset)
    if magic != MAGIC:
        raise FrameError(f"not a dadafs peer: the frame begins with {magic!r}")
    known = _KINDS.get(kind)
    if known is None or flags:
        raise FrameError(f"unknown kind of frame: kind {kind}, flags {flags}")
    if metadata_length > limits.metadata or payload_length > limits.payload:
        raise FrameError(
            f"oversized frame: {metadata_length} bytes of metadata (limit {limits.metadata}), "
            f"{payload_length} of payload (limit {limits.payload})"
        )
    seed = xxh3_64_intdigest(memoryview(buffer)[offset : offset + _BARE.size])
    return Header(known, request_id, metadata_length, payload_length, check, seed)


def verify(header: Header, metadata: bytes | bytearray | memoryview) -> None:
    """Raises FrameError where header or metadata were damaged on the way."""
    if xxh3_64_intdigest(metadata, header.seed) & 0xFFFFFFFF != header.check:
        raise FrameError("damaged frame: its check does not match")
