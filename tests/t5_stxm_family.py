"""I(q), orientation, fits, phase and composites through the command: against the truth, and readable by
other programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import dada
from dada.errors import UsageError
from dada.simulate import Simulation, simulate
from dada.virtual_detector import parse_detector
from tests.checklogs import ExpectedLog
from tests.harness import scans

SHAPE = (9, 11)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simulated")
    return simulate(directory, Simulation(SHAPE, counts=2.0, detector="300x310", frames_per_file=40))


@pytest.fixture(scope="module")
def result(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("result") / "maps.h5"
    run(
        *("stxm", scan, "--shape", "9x11", "--roi", "peak=26:42", "--roi", "low=0.3:0.9/nm", "--orientation"),
        *("--fit", "powerlaw=0.4:1.5", "--step", "0.5,0.5", "--composite", "20", "--radial-bins", "64"),
        *("-o", out, "--png", out.with_suffix(".png"), "--no-store"),
    )
    return out


def run(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dada", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file[f"/entry/{name}/data"][()])


def test_orientation_is_the_phantoms_where_it_scatters_along_one_direction(scan: Path, result: Path) -> None:
    with h5py.File(scan.parent / "truth.h5") as truth:
        angle, anisotropy = truth["angle"][()], truth["anisotropy"][()]
    error = values(result, "orient2_peak_error")
    strong = anisotropy > 0.5
    assert strong.sum() > 10
    difference = (values(result, "orient2_peak") - angle + 90) % 180 - 90
    assert abs(difference[strong]).max() < 8
    assert np.median(abs(difference[strong]) / error[strong]) < 3
    degree = values(result, "degree_peak")
    assert degree[strong].min() > degree[anisotropy < 0.05].max()


def test_profiles_are_the_frames_sums_over_bins(scan: Path, result: Path) -> None:
    with h5py.File(scan) as file:
        frames = np.concatenate([file["/entry/data"][name][()] for name in sorted(file["/entry/data"])])
        mask = file["/entry/instrument/detector/detectorSpecific/pixel_mask"][()] != 0
    sums, counts = values(result, "iq_sum"), values(result, "iq_n")
    total = np.where(mask, 0, frames).sum((1, 2), dtype=np.int64).reshape(SHAPE)
    np.testing.assert_array_equal(sums.sum(-1), total)
    np.testing.assert_array_equal(counts.sum(-1), (~mask).sum())
    with h5py.File(result) as file:
        group = file["/entry/iq"]
        assert list(group.attrs["axes"]) == ["slow", "fast", "q"]
        assert group["q"].attrs["units"] == "1/nm"
        assert (np.diff(group["q"][()]) > 0).all()


def test_the_ring_of_the_phantom_is_seen_in_the_profile(result: Path) -> None:
    with h5py.File(result) as file:
        q, profile = file["/entry/iq/q"][()], file["/entry/iq/data"][()].mean((0, 1))
    near = (q > 0.15) & (q < 0.4)
    peak = q[near][np.argmax(profile[near])]
    detector = parse_detector("300x310", "uint16", 1)
    angle = 0.11 * 300 * detector.pixel_size_m / detector.distance_m
    assert peak == pytest.approx(2 * np.pi / detector.wavelength_nm * angle, abs=q[1] - q[0])
    assert profile[near].max() > 1.5 * profile[near][0]


def test_the_phase_has_the_slopes_that_were_measured(result: Path) -> None:
    phase, slope = values(result, "phase"), values(result, "alphah")
    across = np.gradient(phase, axis=1)[1:-1, 1:-1].ravel()
    assert np.corrcoef(across, slope[1:-1, 1:-1].ravel())[0, 1] > 0.8
    assert abs(phase.mean()) < 1e-6 * np.ptp(phase)


def test_fits_and_composites_are_there(result: Path) -> None:
    exponent = values(result, "power_p")
    assert np.isfinite(exponent).all()
    assert ((exponent > 0) & (exponent < 5)).all()
    assert values(result, "thumbnail").shape == (*SHAPE, 16, 15)
    assert (result.with_suffix(".png")).stat().st_size > 50_000


def test_the_layout_is_that_of_pyfai_diffmap(result: Path) -> None:
    with h5py.File(result) as file:
        process = file["/entry_0000/pyFAI"]
        data = process["result"]
        assert data.attrs["NX_class"] == "NXdata"
        assert data.attrs["signal"] == "map"
        assert list(data.attrs["axes"]) == ["q", "slow", "fast"]
        assert data["intensity"].shape == (*SHAPE, 64)
        assert data["intensity"].dtype == np.float32
        np.testing.assert_array_equal(data["map"][()], np.moveaxis(data["intensity"][()], 2, 0))
        np.testing.assert_allclose(data["intensity"][()], file["/entry/iq/data"][()], rtol=1e-6)
        assert data["map"].attrs["interpretation"] == "image"
        np.testing.assert_array_equal(data["map_ptr"][()].ravel(), np.arange(99))
        configuration = json.loads(process["configuration/data"][()])
        assert configuration["nbpt_rad"] == 64
        assert process["offset"][()] == 0


def test_pyfai_understands_the_configuration(result: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("pyOpenCl")  # silx says that it could be faster
    utilities = pytest.importorskip("pyFAI.io.integration_config")
    azimuthal = pytest.importorskip("pyFAI.integrator.azimuthal")
    with h5py.File(result) as file:
        configuration = json.loads(file["/entry_0000/pyFAI/configuration/data"][()])
        radial = file["/entry_0000/pyFAI/result/q"][()]
    worker = utilities.WorkerConfig.from_dict(configuration, inplace=True)
    integrator = azimuthal.AzimuthalIntegrator.sload(worker.poni)
    q = integrator.center_array(worker.shape, worker.unit)
    assert q.shape == (310, 300)
    assert q.min() < radial[0]
    assert q.max() == pytest.approx(radial[-1], rel=0.02)


def test_silx_opens_every_map(result: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("pyOpenCl")
    nxdata = pytest.importorskip("silx.io.nxdata")
    with h5py.File(result) as file:
        groups = [item for item in file["/entry"].values() if item.attrs.get("NX_class") == "NXdata"]
        assert len(groups) > 20
        for group in [*groups, file["/entry_0000/pyFAI/result"]]:
            assert nxdata.NXdata(group).is_valid, (group.name, nxdata.NXdata(group).issues)
        assert nxdata.get_default(file).signal.name == "/entry/itot/data"


def test_without_geometry_there_are_maps_but_no_profile(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "bare.h5", scans.frames(4))
    account = json.loads(run("stxm", path, "--shape", "2x2", "--no-store", "--json", "-o", tmp_path / "o.h5"))
    assert "itot" in account["maps"]
    assert "iq" not in account["maps"]


def test_an_unknown_fit_is_refused(scan: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dada", "stxm", str(scan), "--shape", "9x11", "--fit", "magic=1:2", "--no-store"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no fit 'magic'; choose from powerlaw, guinier" in done.stderr


def test_more_memory_than_there_is_is_refused(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dada.analysis.MOST_MEMORY", 16 * 99 * 100)
    with pytest.raises(UsageError, match="fewer radial bins"):
        dada.stxm(scan, SHAPE, radial_bins=100, store=False)
    assert dada.stxm(scan, SHAPE, radial_bins=10, store=False).progress.computed == 99
