"""`dada simulate`: a scan of a known phantom, written exactly as an EIGER X writes it, and the truth beside it.

DIR/scan_master.h5, DIR/scan_data_000001.h5, ... and DIR/truth.h5. Equal parameters give equal pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dada.eiger_file import DEFAULT_FRAMES_PER_FILE, EigerWriter
from dada.errors import UserError
from dada.phantom import Phantom, cell
from dada.photons import FrameModel, Scattering
from dada.virtual_detector import VirtualDetector, parse_detector
from dada.workers import usable_cores

Callback = Callable[[int, int], None]
#: Names and units of the maps in truth.h5.
TRUTH = {
    "itot": "counts",
    "comv": "pixel",
    "comh": "pixel",
    "shift_y": "pixel",
    "shift_x": "pixel",
    "angle": "deg",
    "anisotropy": "",
    "strength": "",
}


@dataclass(frozen=True)
class Simulation:
    """Parameters of a simulated scan. counts: expected per pixel, mean over map and detector. live: frames
    per second, for a detector that is still writing; None as fast as possible."""

    shape: tuple[int, int]
    counts: float = 0.05
    seed: int = 1
    detector: str = "eiger4m"
    dtype: str = "uint16"
    frames_per_file: int = DEFAULT_FRAMES_PER_FILE
    live: float | None = None
    step_um: float = 0.5


def simulate(directory: Path, simulation: Simulation, notify: Callback = lambda done, total: None) -> Path:
    """Write the scan; returns the path of its master file. Raises UserError when the directory cannot be written."""
    detector = parse_detector(simulation.detector, simulation.dtype, simulation.seed)
    phantom = cell(simulation.shape)
    models = _models(simulation, detector, phantom)
    scattering = Scattering(detector)
    try:
        return _write(directory, simulation, scattering, phantom, models, notify)
    except OSError as error:
        raise UserError(f"the simulated scan cannot be written to {directory}: {error.strerror or error}") from error


def _models(simulation: Simulation, detector: VirtualDetector, phantom: Phantom) -> list[FrameModel]:
    photons = simulation.counts * detector.shape[0] * detector.shape[1]
    columns = (phantom.strength * photons, phantom.shift_y, phantom.shift_x, phantom.angle, phantom.anisotropy)
    return [FrameModel(*(float(value) for value in row)) for row in zip(*(c.ravel() for c in columns), strict=True)]


def _write(
    directory: Path,
    simulation: Simulation,
    scattering: Scattering,
    phantom: Phantom,
    models: list[FrameModel],
    notify: Callback,
) -> Path:
    detector = scattering.detector
    metadata = _metadata(detector, simulation)
    writer = EigerWriter(
        directory,
        "scan",
        len(models),
        detector.shape,
        detector.dtype,
        metadata,
        frames_per_file=simulation.frames_per_file,
        growing=simulation.live is not None,
    )
    expected = np.zeros((len(models), 6))
    pace = _Pace(simulation.live)
    with writer:
        for number, (frame, sums) in enumerate(_frames(scattering, models, simulation.seed)):
            pace.wait(number)
            writer.write(frame)
            expected[number] = sums
            notify(number + 1, len(models))
    _write_truth(directory / "truth.h5", simulation, phantom, expected)
    return writer.path


def _frames(scattering: Scattering, models: list[FrameModel], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and their expected sums, in order, drawn by all cores some frames ahead."""

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, number])
        return scattering.draw(models[number], rng), scattering.expected(models[number])

    draw(0)  # fills the tables that all frames share
    ahead = usable_cores() + 1
    with ThreadPoolExecutor(usable_cores()) as pool:
        pending: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
        try:
            for number in range(len(models)):
                pending.append(pool.submit(draw, number))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _Pace:
    """Holds frames back to a rate."""

    def __init__(self, rate: float | None) -> None:
        self._period = 1 / rate if rate else 0.0
        self._start = time.monotonic()

    def wait(self, number: int) -> None:
        """Return when frame `number` is due."""
        due = self._start + number * self._period - time.monotonic()
        if self._period and due > 0:
            time.sleep(due)


def _metadata(detector: VirtualDetector, simulation: Simulation) -> dict[str, object]:
    row, column = detector.beam_centre
    return {
        "description": "simulated EIGER X 4M" if simulation.detector == "eiger4m" else "simulated EIGER X",
        "pixel_mask": detector.pixel_mask,
        "saturation_value": detector.saturation,
        "wavelength_nm": detector.wavelength_nm,
        "detector_distance": detector.distance_m,
        "beam_center_x": column + 0.5,
        "beam_center_y": row + 0.5,
        "x_pixel_size": detector.pixel_size_m,
        "y_pixel_size": detector.pixel_size_m,
        "sensor_thickness": 4.5e-4,
        "count_time": 0.005,
        "frame_time": 0.00501,
    }


def _write_truth(path: Path, simulation: Simulation, phantom: Phantom, expected: np.ndarray) -> None:
    """The maps that a perfect analysis of noiseless frames would give, and what they were made from."""
    total = expected[:, 0]
    sums = expected.reshape(*simulation.shape, 6)
    maps = {
        "itot": total,
        "comv": expected[:, 1] / total,
        "comh": expected[:, 2] / total,
        "shift_y": phantom.shift_y,
        "shift_x": phantom.shift_x,
        "angle": np.rad2deg(-phantom.angle) % 180,
        "anisotropy": phantom.anisotropy,
        "strength": phantom.strength,
    }
    with h5py.File(path, "w") as file:
        for name, values in maps.items():
            file[name] = values.reshape(simulation.shape)
            file[name].attrs["units"] = TRUTH[name]
        file["sums"] = sums
        file["sums"].attrs["columns"] = ["I", "I y", "I x", "I y^2", "I x^2", "I x y"]
        for name in ("counts", "seed", "detector", "dtype"):
            file.attrs[name] = getattr(simulation, name)
        file["angle"].attrs["meaning"] = (
            "direction of the scattered streak, counter-clockwise from horizontal, row 0 on top"
        )
