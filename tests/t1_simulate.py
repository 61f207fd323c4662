"""The simulated scan: written like a detector's, equal for equal seeds, and statistically what its truth says."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from dada.errors import UsageError, UserError
from dada.phantom import cell
from dada.photons import FrameModel, Scattering
from dada.scan import open_scan
from dada.simulate import Simulation, simulate
from dada.thin import Parent, Thinning, thin
from dada.virtual_detector import EIGER_4M, VirtualDetector, parse_detector
from tests.harness import scans

SMALL = Simulation((4, 5), counts=0.3, detector="230x240", frames_per_file=8)


def read_all(master: Path) -> np.ndarray:
    with h5py.File(master, "r") as file:
        return np.concatenate([file["/entry/data"][name][()] for name in sorted(file["/entry/data"])])


def test_the_files_are_those_of_an_eiger(tmp_path: Path) -> None:
    master = simulate(tmp_path, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scan_data_000001.h5",
        "scan_data_000002.h5",
        "scan_data_000003.h5",
        "scan_master.h5",
        "truth.h5",
    ]
    with h5py.File(master, "r") as file:
        link = file["/entry/data"].get("data_000003", getlink=True)
        assert (link.filename, link.path) == ("scan_data_000003.h5", "/entry/data/data")
        data = file["/entry/data/data_000003"]
        assert (data.shape, data.chunks, data.dtype) == ((4, 240, 230), (1, 240, 230), np.dtype("uint16"))
        number, _, options, _ = data.id.get_create_plist().get_filter(0)
        assert (number, options[3:]) == (32008, (0, 2))
        assert (data.attrs["image_nr_low"], data.attrs["image_nr_high"]) == (17, 20)
        specific = file["/entry/instrument/detector/detectorSpecific"]
        assert specific["nimages"][()] == 20
        assert specific["pixel_mask"].shape == (240, 230)
    scan = open_scan(master)
    assert scan.n_frames == 20
    assert scan.detector.saturation == parse_detector("230x240", "uint16", 1).saturation
    assert scan.detector.beam_centre == pytest.approx(parse_detector("230x240", "uint16", 1).beam_centre)


def test_invalid_pixels_hold_what_a_detector_writes(tmp_path: Path) -> None:
    frames = read_all(simulate(tmp_path, SMALL))
    with h5py.File(tmp_path / "scan_master.h5", "r") as file:
        mask = file["/entry/instrument/detector/detectorSpecific/pixel_mask"][()]
    assert {1, 2, 16} <= set(np.unique(mask))
    bad = (mask & 3) != 0
    assert (frames[:, bad] == 65535).all()
    assert (frames[:, ~bad] < 60_000).all()


def test_equal_seeds_give_equal_pixels(tmp_path: Path) -> None:
    first = read_all(simulate(tmp_path / "a", SMALL))
    np.testing.assert_array_equal(first, read_all(simulate(tmp_path / "b", SMALL)))
    other = Simulation((4, 5), counts=0.3, detector="230x240", frames_per_file=8, seed=2)
    assert (first != read_all(simulate(tmp_path / "c", other))).any()


def test_the_counts_are_poisson_about_the_truth(tmp_path: Path) -> None:
    simulation = Simulation((12, 12), counts=0.4, detector="230x240", dtype="uint32")
    frames = read_all(simulate(tmp_path, simulation)).astype(np.int64)
    with h5py.File(tmp_path / "scan_master.h5", "r") as file:
        valid = file["/entry/instrument/detector/detectorSpecific/pixel_mask"][()] == 0
    with h5py.File(tmp_path / "truth.h5", "r") as file:
        expected, itot = file["sums"][()].reshape(-1, 6), file["itot"][()].ravel()
    frames = np.where(valid, frames, 0)
    y, x = np.indices(valid.shape)
    np.testing.assert_allclose(expected[:, 0], itot)
    assert frames.sum() / frames[0].size / 144 == pytest.approx(0.4, rel=0.3)
    for column, weight in enumerate((np.ones_like(x), y, x, y * y, x * x, x * y)):
        found = (frames * weight).sum((1, 2))
        sigma = np.sqrt((frames * weight**2).sum((1, 2)))
        z = (found - expected[:, column]) / sigma
        assert 0.8 < z.std() < 1.2, column  # 144 values: 1 +- 0.06
        assert abs(z.mean()) < 0.35, column  # 0 +- 0.08, and the quadrature


def test_the_phantom_shows_what_it_should() -> None:
    phantom = cell((40, 50))
    assert phantom.strength.mean() == pytest.approx(1)
    assert phantom.strength.max() / phantom.strength.min() > 2
    assert np.hypot(phantom.shift_y, phantom.shift_x).max() == pytest.approx(6)
    assert 0 <= phantom.anisotropy.min() < 0.05
    assert 0.5 < phantom.anisotropy.max() <= 1


def test_the_streak_points_where_the_model_says() -> None:
    scattering = Scattering(VirtualDetector((400, 400), np.dtype("uint16")))
    rng = np.random.default_rng(1)
    frame = scattering.draw(FrameModel(400_000, 0, 0, np.deg2rad(30), 0.8), rng)
    centre_y, centre_x = scattering.detector.beam_centre
    y, x = np.indices(frame.shape)
    counts = np.where(scattering.detector.sensitive, frame, 0).astype(float)
    phi = np.arctan2(y - centre_y, x - centre_x)
    near = np.hypot(y - centre_y, x - centre_x) < 100
    vector = np.sum(counts * np.exp(2j * phi) * near)
    assert np.rad2deg(np.angle(vector)) / 2 == pytest.approx(30, abs=2)


def test_the_detector_of_an_eiger_4m() -> None:
    detector = parse_detector("eiger4m", "uint16", 1)
    assert detector.shape == EIGER_4M == (2167, 2070)
    gaps = (detector.pixel_mask & 1) != 0
    assert gaps.sum() == 3 * 37 * 2070 + 10 * 2167 - 3 * 37 * 10
    assert gaps[514:551].all()
    assert not gaps[513, :1030].any()
    assert gaps[0, 1030:1040].all()


def test_the_beamstop_and_its_holder_take_the_light(tmp_path: Path) -> None:
    """Pixels that nothing marks as bad, and that see nothing although the beam is there."""
    detector = parse_detector("230x240", "uint16", 1)
    frames = read_all(simulate(tmp_path, Simulation((3, 3), counts=3.0, detector="230x240")))
    row, column = (round(position) for position in detector.beam_centre)
    good = detector.pixel_mask == 0
    inside = np.zeros(good.shape, bool)
    inside[row - 2 : row + 3, column - 2 : column + 3] = True
    inside[row:, column] = True
    assert frames[:, inside & good].sum() == 0
    around = np.hypot(*np.ogrid[-row : 240 - row, -column : 230 - column]) < 3 * detector.beamstop_radius
    assert frames[:, around & detector.sensitive].mean() > 20 * frames[:, detector.sensitive].mean()


def test_what_is_simulated_unless_something_else_is_asked_for() -> None:
    default = Simulation((2, 2))
    assert (default.detector, default.dtype, default.counts, default.seed) == ("eiger4m", "uint16", 0.05, 1)


def test_a_live_scan_grows_while_it_is_written(tmp_path: Path) -> None:
    counts: list[int] = []

    def look(done: int, total: int) -> None:
        if done % 2 == 0:
            counts.append(open_scan(tmp_path / "scan_master.h5", missing_ok=True).n_frames)

    simulate(tmp_path, Simulation((2, 5), detector="100x100", frames_per_file=6, live=1000.0), look)
    assert counts == [2, 4, 6, 8, 10]


def test_what_cannot_be_simulated(tmp_path: Path) -> None:
    for detector in ("eiger", "10x10", "axb"):
        with pytest.raises(UsageError, match="is no detector"):
            simulate(tmp_path, Simulation((2, 2), detector=detector))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        simulate(tmp_path / "file" / "deep", Simulation((2, 2), detector="100x100"))


def test_thinning_is_binomial_in_each_pixel() -> None:
    frame = np.random.default_rng(1).poisson(20, (60, 70)).astype(np.uint32)
    invalid = np.zeros(frame.shape, bool)
    invalid[10:12] = True
    parent = Parent(frame, invalid)
    p, n = 0.2, 300
    rng = np.random.default_rng(2)
    thinned = np.array([parent.thinned(p, (0, 0), rng) for _ in range(n)])
    assert (thinned[:, invalid] == 2**32 - 1).all()
    counts = thinned[:, ~invalid].astype(float)
    mean, variance = frame[~invalid] * p, frame[~invalid] * p * (1 - p)
    z = (counts.mean(0) - mean) / np.sqrt(variance / n)
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1, abs=0.1)
    assert (counts.var(0) / variance).mean() == pytest.approx(1, abs=0.03)
    assert np.corrcoef(counts[:, 5], counts[:, 6])[0, 1] == pytest.approx(0, abs=0.2)


def test_thinned_frames_are_moved_in_whole_pixels() -> None:
    frame = np.zeros((20, 20), np.uint32)
    frame[10, 10] = 1000
    parent = Parent(frame, np.zeros(frame.shape, bool))
    moved = parent.thinned(1.0, (3, -2), np.random.default_rng(1))
    assert moved[13, 8] == 1000
    assert moved.sum() == 1000
    assert parent.thinned(1.0, (30, 0), np.random.default_rng(1)).sum() == 0


def test_a_scan_is_made_of_one_frame(tmp_path: Path) -> None:
    frame = scans.frames(1, dtype="uint32")[0]
    source = scans.stack(tmp_path / "one.h5", frame)
    master = thin(str(source), tmp_path / "scan", Thinning((2, 3), counts=0.1, crop=(0, 60, 3, 50)))
    scan = open_scan(master)
    assert (scan.n_frames, scan.shape) == (6, (60, 47))
    frames = read_all(master)
    assert (frames[:, 30:34] == 2**32 - 1).all()
    valid = frames < 2**32 - 2
    assert frames[valid].mean() == pytest.approx(0.1, rel=0.2)


def test_the_real_frame_is_thinned(tmp_path: Path, realdata: Path) -> None:
    source = realdata / "eiger2_9m_saxs_aps12idb.h5"
    thinning = Thinning((1, 2), counts=0.05, crop=(1100, 3262, 0, 2068))
    frames = read_all(thin(str(source), tmp_path, thinning))
    assert frames.shape == (2, 2162, 2068)
    valid = frames < 2**32 - 2
    assert valid[0].sum() == 4210490
    assert frames[valid].mean() == pytest.approx(0.05, rel=0.05)
