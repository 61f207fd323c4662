"""Frames per second of the kernels beside their peers, in one run: `./run python bench/kernels.py [--quick]`.

The full set {Itot, centre of mass, second moments, 1500-bin azimuthal sums, 8 q-ROIs} is computed from the same stored
frames (bitshuffle+LZ4, 8 KiB blocks) by dada's kernels, by h5py with NumPy, and (where installed) by pyFAI, LiberTEM
and bslz4_to_sparse, each with the part of the set that it has. The yardstick is LZ4 alone: LZ4_decompress_safe over the
same blocks. All run on one core; times are medians over rounds in which each takes its turn, so that the ratios compare
like with like on a busy machine; with --cpu-time they are CPU times, for a machine that others use meanwhile. With
--real FILE a detector's own frame is used too (EIGER2 9M, cut to 4M).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _dada_kernels
import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from bench.lab import report
from dada.bins import equal_bins
from dada.kernels import Codec, FrameReducer, PixelAccumulator, RawChunk, decode_frame
from dada.mask import annuli

SHAPE = (2167, 2070)
CENTRE = (1080.3, 1030.7)
#: How often each of two threads goes through the frames, so that starting them counts for little.
TURNS = 10
N_BINS = 1500
RINGS = [(low, low + 60.0) for low in range(60, 540, 60)]


@dataclass
class Case:
    """Frames of one kind, stored in an HDF5 file, with the tables of the full set."""

    name: str
    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    mask: NDArray[np.bool_]
    bins: NDArray[np.uint16]
    rois: NDArray[np.bool_]
    chunks: list[RawChunk]


def detector_mask() -> NDArray[np.bool_]:
    """An EIGER X 4M: gaps between modules of 514 x 1030 pixels, and a few dead pixels."""
    mask = np.zeros(SHAPE, bool)
    for k in (1, 2, 3):
        mask[551 * k - 37 : 551 * k] = True
    mask[:, 1030:1040] = True
    return mask | (np.random.default_rng(1).random(SHAPE) < 2e-4)


def radius_of(shape: tuple[int, int], centre: tuple[float, float]) -> NDArray[np.floating]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(y - centre[0], x - centre[1])


def simulated(mean: float, n: int, dtype: str) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
    """Small-angle scattering with `mean` counts a pixel, invalid pixels set to all ones."""
    mask, rng = detector_mask(), np.random.default_rng(0)
    profile = 1 / (1 + (radius_of(SHAPE, CENTRE) / 150) ** 2) + 0.02
    frames = rng.poisson(profile * (mean / profile[~mask].mean()), (n, *SHAPE)).astype(dtype)
    frames[:, mask] = np.iinfo(dtype).max
    return frames, mask


def thinned(path: Path, n: int, keep: float) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
    """The 4M part of a real EIGER2 9M frame, thinned binomially: exact Poisson statistics at lower counts."""
    with h5py.File(path) as file:
        frame = file["/entry/data/data"][1100:, :2068]
    mask = frame == 2**32 - 1
    frames = np.random.default_rng(0).binomial(np.where(mask, 0, frame), keep, (n, *frame.shape)).astype(np.uint32)
    frames[:, mask] = 2**32 - 1
    return frames, mask


def case(name: str, folder: Path, frames: NDArray[Any], mask: NDArray[np.bool_], centre: tuple[float, float]) -> Case:
    path = folder / f"{name.replace(' ', '_')}.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", data=frames, chunks=(1, *mask.shape), **hdf5plugin.Bitshuffle())
        file.flush()
        stored = [dataset.id.read_direct_chunk((i, 0, 0))[1] for i in range(len(frames))]
    radius = radius_of(mask.shape, centre)
    chunks = [RawChunk(data, Codec.BITSHUFFLE_LZ4) for data in stored]
    bins = equal_bins(radius, N_BINS).bins
    return Case(name, path, mask.shape, frames.dtype, mask, bins, annuli(radius, RINGS), chunks)


def lz4_alone(case: Case) -> Callable[[], object]:
    chunks, pixels = [(chunk.data, int(chunk.codec)) for chunk in case.chunks], case.mask.size
    return lambda: _dada_kernels.decompress_only(chunks, pixels, case.dtype.itemsize)


def dada(case: Case, kernel: str) -> Callable[[], object]:
    reducer = FrameReducer(
        case.shape, case.dtype, mask=case.mask, bins=case.bins, n_bins=N_BINS, rois=case.rois, kernel=kernel
    )
    return lambda: reducer.reduce(case.chunks)


def two_threads(run: Callable[[], object]) -> Callable[[], object]:
    """Both threads do all frames, `TURNS` times: half the time a frame where two cores are free."""
    pool = ThreadPoolExecutor(2)
    return lambda: list(pool.map(lambda _: [run() for _ in range(TURNS)], range(2)))


def dada_pixels(case: Case) -> Callable[[], object]:
    """Sum, maximum and sum of squares of every pixel over the frames."""
    sums = PixelAccumulator(case.shape, case.dtype, mask=case.mask)
    return lambda: sums.add(case.chunks)


def numpy_full(case: Case) -> Callable[[], object]:
    """Read with h5py, then the full set in NumPy as one would write it with some care."""
    valid = ~case.mask
    bins = np.where(valid, np.minimum(case.bins, N_BINS), N_BINS).ravel()
    y, x = (np.arange(n, dtype=float) for n in case.shape)
    rings = [np.flatnonzero(roi & valid) for roi in case.rois]

    def run() -> None:
        with h5py.File(case.path) as file:
            for frame in file["data"]:
                counts = np.where(valid, frame, 0).astype(float)
                rows, columns = counts.sum(axis=1), counts.sum(axis=0)
                _ = rows.sum(), rows @ y, columns @ x, rows @ y**2, columns @ x**2, (counts @ x) @ y
                np.bincount(bins, counts.ravel(), N_BINS + 1)
                _ = [counts.ravel()[ring].sum() for ring in rings]

    return run


def h5py_only(case: Case) -> Callable[[], object]:
    def run() -> None:
        out = np.empty(case.shape, case.dtype)
        with h5py.File(case.path) as file:
            for i in range(len(case.chunks)):
                file["data"].read_direct(out, np.s_[i])

    return run


def pyfai_profile(case: Case) -> Callable[[], object]:
    """I(q) of decoded frames with pyFAI's fastest method for one core."""
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    detector = Detector(75e-6, 75e-6, max_shape=case.shape)
    integrator = AzimuthalIntegrator(2.0, CENTRE[0] * 75e-6, CENTRE[1] * 75e-6, detector=detector, wavelength=1e-10)
    frames = [decode_frame(chunk, case.shape, case.dtype) for chunk in case.chunks]
    method = ("no", "csc", "cython")

    def run() -> None:
        for frame in frames:
            integrator.integrate1d(frame, N_BINS, unit="q_nm^-1", mask=case.mask, method=method)

    return run


def libertem_sum(case: Case) -> Callable[[], object]:
    """The sum of each frame with LiberTEM's own UDF."""
    from libertem.udf.sumsigudf import SumSigUDF

    return libertem(case, SumSigUDF())


def libertem_com(case: Case) -> Callable[[], object]:
    """Centre of mass with LiberTEM's own UDF."""
    from libertem.udf.com import CoMUDF

    return libertem(case, CoMUDF.with_params())


def libertem(case: Case, udf: object) -> Callable[[], object]:
    """A UDF over the frames, inline in this process; it wants a map of two dimensions."""
    from libertem.api import Context

    context = Context.make_with("inline")
    n = len(case.chunks)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # it knows that compressed HDF5 is slow
        dataset = context.load("hdf5", path=str(case.path), ds_path="data", nav_shape=(2, n // 2))
    return lambda: context.run_udf(dataset, udf=udf)


def bslz4_sparse(case: Case) -> Callable[[], object]:
    """bslz4_to_sparse: the pixels with counts, nothing computed from them."""
    from bslz4_to_sparse import chunk2sparse

    extract = chunk2sparse((~case.mask).astype(np.uint8), dtype=case.dtype)
    return lambda: [extract(chunk.data, 0) for chunk in case.chunks]


def competitors(case: Case, quick: bool) -> Iterator[tuple[str, Callable[[], object], int]]:
    """(name, a round over all frames, how often it does the frames)."""
    yield "LZ4 alone", lz4_alone(case), 1
    for kernel in reversed(_dada_kernels.kernels()):
        yield f"dada, full set, {kernel}", dada(case, kernel), 1
    best = dada(case, _dada_kernels.kernels()[-1])
    yield "LZ4 alone, two threads", two_threads(lz4_alone(case)), 2 * TURNS
    yield "dada, full set, two threads", two_threads(best), 2 * TURNS
    yield "dada, statistics of each pixel", dada_pixels(case), 1
    yield "h5py, decoding only", h5py_only(case), 1
    yield "h5py + NumPy, full set", numpy_full(case), 1
    if quick:
        return
    peers = {
        "pyFAI, I(q) of decoded frames": pyfai_profile,
        "LiberTEM, sum of each frame": libertem_sum,
        "LiberTEM, centre of mass": libertem_com,
        "bslz4_to_sparse, extraction only": bslz4_sparse,
    }
    for name, make in peers.items():
        try:
            yield name, make(case), 1
        except ImportError:
            print(f"{name}: not installed", file=sys.stderr)


def measure(case: Case, rounds: int, quick: bool, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Median milliseconds a frame, and the median over rounds of the ratio to LZ4 alone."""
    runs = list(competitors(case, quick))
    times: dict[str, list[float]] = {name: [] for name, _, _ in runs}
    for number in range(rounds + 1):
        for name, run, times_over in runs:
            start = clock()
            run()
            if number:  # the first round warms up
                times[name].append((clock() - start) * 1e3 / (len(case.chunks) * times_over))
    yardstick = times["LZ4 alone"]
    return {
        name: {
            "ms_per_frame": statistics.median(found),
            "times_lz4": statistics.median(a / b for a, b in zip(found, yardstick, strict=True)),
            "frames_per_second": 1e3 / statistics.median(found),
        }
        for name, found in times.items()
    }


def cases(folder: Path, quick: bool, real: Path | None) -> Iterator[Case]:
    n = 4 if quick else 8
    for dtype in ("uint16",) if quick else ("uint16", "uint32"):
        for mean in (0.06, 5.0):
            yield case(f"{mean:g} counts {dtype}", folder, *simulated(mean, n, dtype), CENTRE)
    for keep in (0.01, 1.0) if real else ():
        frames, mask = thinned(real or Path(), n, keep)
        yield case(f"real EIGER2, {keep:g} of its counts", folder, frames, mask, (1952.852, 1436.47))


def show(case: Case, results: dict[str, dict[str, float]]) -> None:
    size = sum(len(chunk.data) for chunk in case.chunks) / len(case.chunks) / 1e3
    print(f"\n{case.name}: {case.shape[0]} x {case.shape[1]}, {size:.0f} kB stored a frame")
    print(f"  {'':36s} {'ms/frame':>9s} {'x LZ4':>7s} {'frames/s':>9s}")
    for name, row in results.items():
        print(f"  {name:36s} {row['ms_per_frame']:9.2f} {row['times_lz4']:7.2f} {row['frames_per_second']:9.0f}")


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: times LZ4 alone and frames/s of each competitor (rows) for each kind of frames (columns)."""
    names = list(dict.fromkeys(name for results in found.values() for name in results))
    lines = []
    for name in names:
        rows = [results.get(name) for results in found.values()]
        cells = [
            row and f"{report.number(row['times_lz4'])} ({report.number(row['frames_per_second'])})" for row in rows
        ]
        lines.append([name, *cells])
    return report.markdown(["x LZ4 alone (frames/s)", *found], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few frames and rounds, no peers that must be imported")
    parser.add_argument("--rounds", type=int, default=None, help="rounds to take the median of")
    parser.add_argument("--real", type=Path, help="the real EIGER2 9M frame (S2p5min_00070_00001.h5 of punx 0.3.5)")
    parser.add_argument("--cpu-time", action="store_true", help="CPU instead of elapsed time; says nothing of threads")
    parser.add_argument("--markdown", action="store_true", help="at the end, one table of everything in Markdown")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 15)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for each in cases(Path(folder), options.quick, options.real):
            found[each.name] = measure(
                each, rounds, options.quick, time.process_time if options.cpu_time else time.perf_counter
            )
            show(each, found[each.name])
            each.path.unlink()
    if options.markdown:
        print("\n" + table(found))
    if options.json:
        rows = [{"frames": case, "what": what, **row} for case, rows in found.items() for what, row in rows.items()]
        clock = "CPU" if options.cpu_time else "elapsed"
        report.write_json(options.json, report.document("kernels", rows, clock=clock, rounds=rounds))


if __name__ == "__main__":
    main()
