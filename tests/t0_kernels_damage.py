"""Chunks that lie about themselves: an error for their frame, never a crash, nothing for other frames."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from dada.kernels import BadChunk, Codec, FrameReducer, RawChunk, Status, decode_frame, reference
from tests.harness.chunks import pack

SHAPE = (40, 300)
FRAME = np.random.default_rng(0).poisson(0.5, SHAPE).astype(np.uint16)
GOOD = {codec: pack(FRAME, codec).data for codec in (Codec.NONE, Codec.LZ4, Codec.BITSHUFFLE_LZ4)}
PACKED = [Codec.LZ4, Codec.BITSHUFFLE_LZ4]


def status_of(data: bytes, codec: Codec) -> int:
    """Status of a damaged frame between two good ones, which must not notice."""
    reducer = FrameReducer(SHAPE, "uint16")
    good = RawChunk(GOOD[Codec.BITSHUFFLE_LZ4], Codec.BITSHUFFLE_LZ4)
    sums = reducer.reduce([good, RawChunk(data, codec), good])
    expected = reference.reduce(FRAME[None]).total[0]
    assert sums.status[[0, 2]].tolist() == [0, 0]
    assert sums.total[[0, 2]].tolist() == [expected] * 2
    if sums.status[1]:
        assert (sums.total[1], sums.n_valid[1], sums.n_masked[1], sums.maximum[1]) == (0, 0, 0, -1)
        with pytest.raises(BadChunk):
            decode_frame(RawChunk(data, codec), SHAPE, "uint16")
    return int(sums.status[1])


@pytest.mark.parametrize("codec", GOOD)
def test_nothing_there(codec: Codec) -> None:
    assert status_of(b"", codec) == Status.EMPTY


@pytest.mark.parametrize("codec", GOOD)
def test_cut_off_anywhere(codec: Codec) -> None:
    data = GOOD[codec]
    for length in {*range(1, 40), *range(40, len(data), 97), len(data) - 1}:
        assert status_of(data[:length], codec) in {Status.TRUNCATED, Status.BLOCK}


@pytest.mark.parametrize("codec", PACKED)
def test_another_frame_size(codec: Codec) -> None:
    for size in (0, 1, FRAME.nbytes - 2, FRAME.nbytes + 2, 2**63, 2**64 - 1):
        assert status_of(struct.pack(">Q", size) + GOOD[codec][8:], codec) == Status.SIZE


def test_another_unfiltered_size() -> None:
    assert status_of(GOOD[Codec.NONE] + b"x", Codec.NONE) == Status.SIZE


@pytest.mark.parametrize("codec", PACKED)
def test_impossible_block_sizes(codec: Codec) -> None:
    sizes = (1, 3, 8191) + ((2, 8, 8194) if codec is Codec.BITSHUFFLE_LZ4 else (0,))
    for size in sizes:
        data = GOOD[codec][:8] + struct.pack(">I", size) + GOOD[codec][12:]
        assert status_of(data, codec) == Status.BLOCK_SIZE


@pytest.mark.parametrize("codec", PACKED)
def test_wrong_block_sizes_are_noticed(codec: Codec) -> None:
    for size in (16, 4096, 16384, 2**32 - 16):
        data = GOOD[codec][:8] + struct.pack(">I", size) + GOOD[codec][12:]
        assert status_of(data, codec) in {Status.BLOCK, Status.TRUNCATED}


def test_bitshuffle_block_size_zero_is_the_default() -> None:
    data = GOOD[Codec.BITSHUFFLE_LZ4]
    assert status_of(data[:8] + bytes(4) + data[12:], Codec.BITSHUFFLE_LZ4) == Status.OK


@pytest.mark.parametrize("codec", PACKED)
def test_block_lengths_that_lie(codec: Codec) -> None:
    for length in (0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1):
        data = GOOD[codec][:12] + struct.pack(">I", length) + GOOD[codec][16:]
        assert status_of(data, codec) in {Status.BLOCK, Status.TRUNCATED}


@pytest.mark.parametrize("codec", PACKED)
def test_garbage_in_blocks_never_crashes(codec: Codec) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(GOOD[codec])
        for place in rng.integers(12, len(data), rng.integers(1, 8)):
            data[place] = rng.integers(0, 256)
        status_of(bytes(data), codec)


def test_a_codec_that_is_not_ours() -> None:
    assert status_of(b"anything", Codec.OTHER) == Status.CODEC


def test_bytes_behind_the_frame_are_ignored() -> None:
    for codec in PACKED:
        assert status_of(GOOD[codec] + b"padding", codec) == Status.OK
