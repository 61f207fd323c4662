"""Writes frames the way detectors store them: bitshuffle+LZ4, LZ4 in blocks of any size, unfiltered."""

from __future__ import annotations

import struct

import lz4.block
import numpy as np
from numpy.typing import NDArray

from dada.kernels import Codec, RawChunk

Frame = NDArray[np.integer]


def pack(frame: Frame, codec: Codec, block_bytes: int = 8192) -> RawChunk:
    """The stored bytes of `frame` with the filter's own header; `block_bytes` of decoded data a block."""
    if codec is Codec.BITSHUFFLE_LZ4:
        return RawChunk(_bitshuffle_lz4(frame, block_bytes), codec)
    if codec is Codec.LZ4:
        return RawChunk(_lz4(frame, block_bytes), codec)
    return RawChunk(np.ascontiguousarray(frame).tobytes(), codec)


def bit_planes(pixels: Frame) -> bytes:
    """The bit planes of `pixels` (a multiple of 8 of them), lowest first."""
    bits = np.unpackbits(pixels.view(np.uint8).reshape(len(pixels), -1), axis=1, bitorder="little")
    return np.packbits(bits.T.copy(), axis=None, bitorder="little").tobytes()


def _header(frame: Frame, block_bytes: int) -> bytes:
    return struct.pack(">QI", frame.nbytes, block_bytes)


def _bitshuffle_lz4(frame: Frame, block_bytes: int) -> bytes:
    pixels = np.ascontiguousarray(frame).ravel()
    step = block_bytes // pixels.itemsize
    end = len(pixels) - len(pixels) % 8
    parts = [_header(frame, block_bytes)]
    for start in range(0, end, step):
        packed = lz4.block.compress(bit_planes(pixels[start : min(start + step, end)]), store_size=False)
        parts += [struct.pack(">I", len(packed)), packed]
    return b"".join([*parts, pixels[end:].tobytes()])


def _lz4(frame: Frame, block_bytes: int) -> bytes:
    data = np.ascontiguousarray(frame).tobytes()
    parts = [_header(frame, block_bytes)]
    for start in range(0, len(data), block_bytes):
        block = data[start : start + block_bytes]
        packed = lz4.block.compress(block, store_size=False)
        packed = block if len(packed) >= len(block) else packed
        parts += [struct.pack(">I", len(packed)), packed]
    return b"".join(parts)
