"""Frames and messages without I/O: round trips, limits, damage, garbage."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.wire import frame, messages
from dadafs.wire.frame import BEFORE_AUTHENTICATION, FROM_HEAD, FROM_NODE, HEADER_SIZE, FrameError, Kind, Limits

ATTR = messages.Attr(1, 2, 0o100644, 1, 1000, 1000, 0, 5, 8, 4096, 1, 2, 3)


def test_a_frame_reads_back() -> None:
    packed = frame.pack(Kind.REPLY, 77, b"metadata", 12345)
    header = frame.unpack(packed, 0, FROM_HEAD)
    assert len(packed) == HEADER_SIZE + len(b"metadata")
    assert (header.kind, header.request_id, header.metadata_length, header.payload_length) == (Kind.REPLY, 77, 8, 12345)
    frame.verify(header, packed[HEADER_SIZE:])


def test_the_layout_on_the_wire_is_fixed() -> None:
    """Bytes as documented; a change here is a change of the protocol."""
    packed = frame.pack(Kind.REQUEST, 1, b"abc", 4)
    assert packed[:16].hex() == "64460200" + "01000000" + "03000000" + "04000000"
    assert packed[16:].hex() == "90847d31" + b"abc".hex()


@pytest.mark.parametrize("limits", [BEFORE_AUTHENTICATION, FROM_HEAD, FROM_NODE])
def test_limits_are_exact(limits: Limits) -> None:
    def unpack(metadata: int, payload: int) -> None:
        bare = frame._BARE.pack(frame.MAGIC, Kind.REQUEST, 0, 1, metadata, payload) + bytes(4)
        frame.unpack(bare, 0, limits)

    unpack(*limits)
    with pytest.raises(FrameError, match="oversized"):
        unpack(limits.metadata + 1, limits.payload)
    with pytest.raises(FrameError, match="oversized"):
        unpack(limits.metadata, limits.payload + 1)


def test_strangers_may_say_little() -> None:
    assert BEFORE_AUTHENTICATION == (4096, 0)
    assert FROM_NODE.payload == 0


def read(packed: bytes) -> None:
    header = frame.unpack(packed, 0, Limits(2**32, 2**32))
    frame.verify(header, packed[HEADER_SIZE:])


@given(st.data(), st.binary(max_size=64))
def test_every_flipped_bit_is_noticed(data: st.DataObject, metadata: bytes) -> None:
    packed = bytearray(frame.pack(Kind.REPLY, 7, metadata, 100))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        read(bytes(packed))


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_garbage_is_no_header(garbage: bytes) -> None:
    if not garbage.startswith(frame.MAGIC):
        with pytest.raises(FrameError, match="not a dadafs peer"):
            frame.unpack(garbage, 0, FROM_HEAD)


@pytest.mark.parametrize(("kind", "flags"), [(0, 0), (5, 0), (255, 0), (1, 1), (4, 128)])
def test_unknown_kinds_and_flags_are_refused(kind: int, flags: int) -> None:
    with pytest.raises(FrameError, match="unknown kind"):
        frame.unpack(frame._BARE.pack(frame.MAGIC, kind, flags, 1, 0, 0) + bytes(4), 0, FROM_HEAD)


# --- messages -----------------------------------------------------------------------------------------------------

EXAMPLES: list[messages.Message] = [
    messages.Hello(1, 1, "control", "node", b"n" * 32, ["psk"]),
    messages.Challenge(1, "psk", b"n" * 32, ["a"]),
    messages.Proof("a", b"m"),
    messages.Confirm(b"m"),
    messages.Attach("data", 0, 10**9, 30 * 10**9),
    messages.Welcome(1, 2, 2**20, 2**16, ATTR, "head"),
    messages.Refused("busy", "later"),
    messages.Stat(b"a/\xff\n"),
    messages.List(b""),
    messages.Open(b"a", (1, 2)),
    messages.Read(1, ATTR.version, 2, 3, 4, [5, 2**64 - 1]),
    messages.Entry(None),
    messages.Entry(ATTR, b"target", True),
    messages.Listing(ATTR, [messages.Item(b"\xff", ATTR)], 1, False),
    messages.Blocks([2**64 - 1], 1, 65536),
    messages.Changes([messages.Change(b"a", None)]),
    messages.Failed(5, "no"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_messages_read_back(message: messages.Message) -> None:
    assert messages.decode(messages.encode(message)) == message


def test_no_two_messages_share_a_tag() -> None:
    kinds = typing.get_args(messages.AnyMessage)
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds)


def test_only_the_handshake_is_understood_before_authentication() -> None:
    for message in EXAMPLES:
        data = messages.encode(message)
        if isinstance(message, messages.Handshake):
            assert messages.decode(data, handshake=True) == message
        else:
            with pytest.raises(msgspec.ValidationError):
                messages.decode(data, handshake=True)


@given(st.binary(max_size=200))
def test_garbage_is_no_message(garbage: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        raise_unless_message(garbage)


def raise_unless_message(data: bytes) -> None:
    """Decode; a lucky hit counts as refused, anything but the documented errors does not."""
    messages.decode(data)
    raise msgspec.DecodeError("a lucky hit")


@given(st.sampled_from(EXAMPLES), st.data())
def test_mutilated_messages_raise_only_what_is_documented(message: messages.Message, data: st.DataObject) -> None:
    raw = bytearray(messages.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with pytest.raises(msgspec.DecodeError):
        raise_unless_message(bytes(raw))


def test_a_deeply_nested_message_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        messages.decode(b"\x92\x0a\xc4\x01a"[:1] + b"\x91" * 4000)
