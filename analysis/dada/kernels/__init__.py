"""Frames to numbers at the speed of the decompressor: stored chunks go in, exact integer sums come out.

    reducer = FrameReducer((ny, nx), "uint16", mask=mask, bins=bins, n_bins=1500, rois=rois)
    sums = reducer.reduce([RawChunk(data, Codec.BITSHUFFLE_LZ4), ...])

A frame is never decoded as a whole: the compiled module `_dada_kernels` decodes one block (8 KiB as a rule)
into the first-level cache, adds it to every sum asked for, and goes on to the same block of the batch's next
frame.

**Validity, the one rule**: a pixel is invalid where `mask` is True or where its value is >= `cut`. `cut` is
2^N - 2 for pixels of N bits (DECTRIS detectors write 2^N - 1 into gaps and dead pixels and 2^N - 2 into
saturated ones) unless the scan names a lower saturation value. Signed pixels are read as unsigned of the same
width, so that the -1 and -2 of other detectors fall under the same rule.

All sums are exact integers, so the order of addition does not matter and `reference.reduce` gives the same
numbers bit for bit. A chunk that cannot be decoded costs its own frame only: `FrameSums.status` says why, its
sums are 0.

`PixelAccumulator` adds frames up pixel by pixel instead; `decode_frame` gives the pixels themselves. The environment
variable DADA_KERNEL (portable, avx2, avx512) forces one set of machine instructions.
"""

from dada.kernels.reducer import BadChunk, Codec, FrameReducer, PixelAccumulator, RawChunk, decode_frame, message
from dada.kernels.sums import FrameSums, Status

__all__ = [
    "BadChunk",
    "Codec",
    "FrameReducer",
    "FrameSums",
    "PixelAccumulator",
    "RawChunk",
    "Status",
    "decode_frame",
    "message",
]

#: Part of the key of every stored result: it changes whenever a number that the kernels give could change.
KERNEL_VERSION = 1
