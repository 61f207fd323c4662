"""Whole analyses through the command: simulated scans mapped, kept, resumed, recomputed, and compared with
their truth.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dada
from dada.errors import DataError, UsageError
from dada.grid import ScanGrid
from dada.simulate import Simulation, simulate
from tests.harness import scans
from tests.harness.processes import LoggedProcess, wait_until

ROWS, COLUMNS = 10, 12


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simulated")
    return simulate(directory, Simulation((ROWS, COLUMNS), counts=0.5, detector="345x361", frames_per_file=50))


def command(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dada", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(env or {})},
    )


def stxm(*arguments: str | Path, shape: str = f"{ROWS}x{COLUMNS}") -> dict[str, Any]:
    done = command("stxm", *arguments, "--shape", shape, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_maps_agree_with_the_truth_within_noise(simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.h5"
    account = stxm(simulated, "-o", out, "--png", tmp_path / "maps.png", "--store", tmp_path / "store")
    assert (account["frames"], account["computed"], account["from_store"], account["damaged"]) == (120, 120, 0, [])
    with h5py.File(out) as file, h5py.File(simulated.parent / "truth.h5") as truth:
        maps = {name: file[f"/entry/{name}/data"][()] for name in ("itot", "comh", "comv", "comh_error", "comv_error")}
        known = {name: truth[name][()] for name in ("itot", "comh", "comv")}
    z = {
        "itot": (maps["itot"] - known["itot"]) / np.sqrt(known["itot"]),
        "comh": (maps["comh"] - known["comh"]) / maps["comh_error"],
        "comv": (maps["comv"] - known["comv"]) / maps["comv_error"],
    }
    for name, values in z.items():
        assert abs(values).max() < 5, name
        assert 0.75 < values.std() < 1.25, name  # 120 values: 1 +- 0.065
        assert abs(values.mean()) < 0.4, name
    assert known["comh"].std() > 3 * maps["comh_error"].mean()  # there was something to see
    picture = (tmp_path / "maps.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_the_second_run_comes_from_the_store(simulated: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = stxm(simulated, "-o", tmp_path / "a.h5", "--store", store)
    second = stxm(simulated, "-o", tmp_path / "b.h5", "--store", store)
    assert (first["computed"], second["computed"], second["from_store"]) == (120, 0, 120)
    assert first["run"] == second["run"]
    assert _maps(tmp_path / "a.h5").keys() == _maps(tmp_path / "b.h5").keys()
    for name, values in _maps(tmp_path / "a.h5").items():
        np.testing.assert_array_equal(values, _maps(tmp_path / "b.h5")[name])


def _maps(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        groups = {name: item for name, item in file["entry"].items() if item.attrs.get("signal") == "data"}
        return {name: group["data"][()] for name, group in groups.items()}


def test_a_ring_is_the_sum_of_its_pixels(simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.h5"
    stxm(simulated, "--center", "180.5,170", "--roi", "near=10.5:40", "--roi", "far=40:90px", "-o", out, "--no-store")
    with h5py.File(simulated) as file:
        frames = np.concatenate([file["/entry/data"][name][()] for name in sorted(file["/entry/data"])])
        mask = file["/entry/instrument/detector/detectorSpecific/pixel_mask"][()] != 0
    radius = np.hypot(*np.meshgrid(np.arange(361) - 180.5, np.arange(345) - 170, indexing="ij"))
    maps = _maps(out)
    for name, low, high in (("near", 10.5, 40), ("far", 40, 90)):
        ring = (radius > low) & (radius <= high) & ~mask
        np.testing.assert_array_equal(maps[name].ravel(), frames[:, ring].sum(axis=1, dtype=np.int64))
    np.testing.assert_array_equal(maps["itot"].ravel(), frames[:, ~mask].sum(axis=1, dtype=np.int64))


def test_a_users_mask(simulated: Path, tmp_path: Path) -> None:
    mask = np.zeros((361, 345), np.uint8)
    mask[:200] = 1
    np.save(tmp_path / "mask.npy", mask)
    stxm(simulated, "--mask", tmp_path / "mask.npy", "-o", tmp_path / "maps.h5", "--no-store")
    assert (_maps(tmp_path / "maps.h5")["comv"] > 200).all()


def test_zigzag_columns_and_holes(tmp_path: Path) -> None:
    data = np.zeros((5, *scans.SHAPE), np.uint16)
    data[np.arange(5), 20, 20] = np.arange(1, 6)
    master = scans.legacy(tmp_path, data)
    out = tmp_path / "maps.h5"
    stxm(master, "--zigzag", "--columns-first", "--aborted", "-o", out, "--no-store", shape="2x3")
    np.testing.assert_array_equal(_maps(out)["itot"], [[1, 4, 5], [2, 3, np.nan]])
    with h5py.File(out) as file:
        assert file["/entry/dada/map_ptr"][()].tolist() == [[0, 3, 4], [1, 2, -1]]


def test_a_damaged_frame_is_nan_and_listed(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path, scans.frames(12))
    scans.damage_chunk(tmp_path / "scan_data_000001.h5", "/entry/data/data", 5)
    out = tmp_path / "maps.h5"
    done = command("stxm", master, "--shape", "3x4", "-o", out, "--no-store")
    assert done.returncode == 0
    assert "1 frame is damaged" in done.stderr
    assert "scan_data_000001.h5" in done.stderr
    maps = _maps(out)
    for name in ("itot", "comh", "comv"):
        assert np.argwhere(np.isnan(maps[name])).tolist() == [[1, 1]], name
    with h5py.File(out) as file:
        (row,) = file["/entry/dada/damaged"][()]
    assert (row["frame"], row["number"], row["dataset"]) == (5, 5, b"/entry/data/data")
    assert row["file"].endswith(b"scan_data_000001.h5")
    assert row["reason"] == b"the stored frame ends too early"


def test_a_result_is_computed_again_from_its_own_file(simulated: Path, tmp_path: Path) -> None:
    mask = np.zeros((361, 345), bool)
    mask[100:120] = True
    np.save(tmp_path / "mask.npy", mask)
    stxm(simulated, "--roi", "a=10:40", "--mask", tmp_path / "mask.npy", "-o", tmp_path / "a.h5", "--no-store")
    (tmp_path / "mask.npy").unlink()  # the mask is in the file
    done = command("recompute", tmp_path / "a.h5", "-o", tmp_path / "b.h5", "--no-store")
    assert done.returncode == 0, done.stderr
    first, second = _maps(tmp_path / "a.h5"), _maps(tmp_path / "b.h5")
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_computing_again_says_when_the_data_changed(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path / "scan", scans.frames(12), per_file=5)
    stxm(master, "-o", tmp_path / "a.h5", "--no-store", shape="3x4")
    again = ("recompute", tmp_path / "a.h5", "-o", tmp_path / "b.h5", "--no-store")
    assert "not in the state" not in command(*again).stderr
    with (tmp_path / "scan" / "scan_data_000002.h5").open("ab") as file:
        file.write(b"more")
    assert "1 data files are not in the state from which" in command(*again).stderr


def test_python_has_the_same_names(simulated: Path, tmp_path: Path) -> None:
    result = dada.stxm(
        simulated, shape=(ROWS, COLUMNS), center=(180, 170), roi={"near": (10, 40)}, store=tmp_path, jobs=1
    )
    assert result.maps["near"].values.shape == (ROWS, COLUMNS)
    assert result.maps["comh"].unit == "px"
    again = dada.stxm(simulated, shape=(ROWS, COLUMNS), center=(180, 170), roi={"near": (10, 40)}, store=tmp_path)
    assert again.progress.computed == 0


def test_python_says_how_a_scan_was_taken(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path / "scan", scans.frames(11))
    options = {
        "zigzag": True,
        "missing": [3],
        "step": (0.5, 0.25),
        "roi": {"a": (2, 9)},
        "threshold": 1,
        "store": False,
    }
    result = dada.stxm(master, (3, 4), **options)
    assert result.map_ptr[1].tolist() == [6, 5, 4, 3]
    assert (result.options.grid.step, result.options.grid.unit) == ((0.5, 0.25), "um")
    assert "a" in result.maps
    for wrong in ({"grid": ScanGrid((3, 4)), "zigzag": True}, {"zigzag": True}, {}):
        with pytest.raises(UsageError):
            dada.stxm(master, **wrong)


def test_python_asks_the_store(simulated: Path, tmp_path: Path) -> None:
    import dada.results

    store = tmp_path / "store"
    first = dada.stxm(simulated, (ROWS, COLUMNS), store=store)
    ((name, run),) = dada.results.list(store).items()
    assert (name, run["options"]["scan"]) == (first.run_id, str(simulated))
    assert dada.results.show(name[:6], store)["run"] == name
    again = dada.results.export(name, tmp_path / "out.h5", store=store)
    assert again.progress.computed == 0
    assert (tmp_path / "out.h5").exists()
    assert dada.results.prune(size="0", store=store)[0] > 0
    assert dada.results.export(name, store=store).progress.computed == ROWS * COLUMNS
    with pytest.raises(UsageError, match="no run begins"):
        dada.results.show("zzz", store)


def test_the_output_opens_as_nexus(simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "maps.h5"
    stxm(simulated, "--step", "0.5,0.25", "-o", out, "--no-store")
    with h5py.File(out) as file:
        entry = file[file.attrs["default"]]
        signal = entry[entry.attrs["default"]]
        assert signal.attrs["NX_class"] == "NXdata"
        assert signal[signal.attrs["signal"]].shape == (ROWS, COLUMNS)
        assert list(signal.attrs["axes"]) == ["slow", "fast"]
        assert signal["slow"][1] == 0.5
        assert signal["fast"].attrs["units"] == "um"
        assert signal["data"].attrs["units"] == "counts"
        provenance = json.loads(file["/entry/dada/configuration/data"][()])
        assert provenance["options"]["grid"]["shape"] == [ROWS, COLUMNS]
        assert [segment[2] for segment in provenance["files"]] == [50, 50, 20]
        assert file["/entry/measurement/images_0003"].shape == (20, 361, 345)  # a link that leads to the frames


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{text}", "--shape", "2x2"], 7, "is no HDF5 file"),
        (["{directory}/nowhere.h5", "--shape", "2x2"], 7, "is not there"),
        (["{scan}", "--shape", "3x5"], 7, "holds 12 frames but --shape 3x5 needs 15"),
        (["{broken}", "--shape", "3x4"], 7, "scan_data_000002.h5.*is missing.*frames 10..19"),
        (["{scan}", "--shape", "3by4"], 2, "rows x columns"),
        (["{scan}"], 2, "--shape"),
        (["{scan}", "--shape", "3x4", "--roi", "wrong"], 2, "NAME=R0:R1"),
        (["{scan}", "--shape", "3x4", "--roi", "a=9:5"], 2, "ring from 9 to 5 is empty"),
        (["{scan}", "--shape", "3x4", "--mask", "{text}"], 7, "mask"),
        (["{scan}", "--shape", "3x4", "--poni", "{text}"], 7, "PONI"),
        (["{scan}", "--shape", "3x4", "--store", "ftp://x"], 2, "is no results store"),
        (["{scan}", "--shape", "3x4", "--store", "{text}/x"], 1, "cannot be made"),
        (["{scan}", "--shape", "3x4", "-o", "{text}/out.h5"], 1, "cannot be written"),
        (["{scan}", "--shape", "3x4", "--cluster", "nonsense://x"], 2, "no Dask scheduler"),
    ],
)
def test_mistakes_get_one_sentence_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    scans.legacy(tmp_path / "scan", scans.frames(12))
    broken = scans.legacy(tmp_path / "broken", scans.frames(30))
    (tmp_path / "broken" / "scan_data_000002.h5").unlink()
    names = {
        "text": tmp_path / "text.h5",
        "directory": tmp_path,
        "scan": tmp_path / "scan" / "scan_master.h5",
        "broken": broken,
    }
    done = command("stxm", *(argument.format(**names) for argument in arguments))
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dada: ")
    assert re.search(words, lines[0]), lines[0]


def test_ctrl_c_and_going_on(tmp_path: Path) -> None:
    """A run is interrupted as a terminal would; the same command again computes only what is missing."""
    master = simulate(tmp_path / "scan", Simulation((20, 30), counts=0.02, detector="500x500", frames_per_file=100))
    store = tmp_path / "store"
    arguments = ["stxm", str(master), "--shape", "20x30", "--store", str(store), "--jobs", "1"]
    process = LoggedProcess([sys.executable, "-m", "dada", *arguments], tmp_path / "log")
    wait_until(lambda: list(store.rglob("*.rec")) or process.process.poll() is not None, "a first record")
    process.process.send_signal(signal.SIGINT)
    code = process.process.wait(60)
    if code == 0:
        pytest.skip("it was finished before it could be interrupted")
    assert code == 130, process.text()
    (line,) = process.text().strip().splitlines()
    assert "they are in the store: give the same command again to go on" in line
    done = command(*arguments, "--json")
    account = json.loads(done.stdout)
    assert account["from_store"] >= 64
    assert account["from_store"] + account["computed"] == 600


def test_a_scan_that_is_still_being_written(tmp_path: Path) -> None:
    """Maps of what is there, again and again, until all is there; at the end they are those of the finished scan."""
    arguments = ["simulate", str(tmp_path / "scan"), "--shape", "6x8", "--detector", "120x130", "--live", "40"]
    writer = LoggedProcess([sys.executable, "-m", "dada", *arguments, "--frames-per-file", "20"], tmp_path / "log")
    master = tmp_path / "scan" / "scan_master.h5"
    grid = ScanGrid((6, 8), aborted=True)
    filled: list[int] = []

    def complete() -> bool:
        try:
            result = dada.stxm(master, (6, 8), grid=grid, store=tmp_path / "store", radial_bins=0, jobs=1)
        except DataError:  # no master, no data file or no frame yet
            return False
        assert result.damaged == ()
        filled.append(int(np.isfinite(result.maps["itot"].values).sum()))
        assert np.isfinite(result.maps["itot"].values.ravel()[: filled[-1]]).all()
        return filled[-1] == 48

    wait_until(complete, "all points of the map")
    assert writer.process.wait(60) == 0
    assert filled == sorted(filled)
    kept = dada.stxm(master, (6, 8), store=tmp_path / "store", radial_bins=0)
    fresh = dada.stxm(master, (6, 8), store=False, radial_bins=0)
    for name, item in fresh.maps.items():
        np.testing.assert_array_equal(kept.maps[name].values, item.values)


def test_what_the_store_holds(simulated: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    run = stxm(simulated, "--store", store)["run"]
    listed = json.loads(command("results", "list", "--store", store, "--json").stdout)
    assert list(listed["runs"]) == [run]
    assert listed["records"] > 0
    assert run in command("results", "list", "--store", store).stdout
    shown = json.loads(command("results", "show", run[:6], "--store", store).stdout)
    assert shown["options"]["scan"] == str(simulated)
    done = command("results", "export", run, "-o", tmp_path / "out.h5", "--store", store)
    assert "0 computed" in done.stderr
    assert _maps(tmp_path / "out.h5")["itot"].shape == (ROWS, COLUMNS)
    assert command("results", "show", "ffffffff", "--store", store).returncode == 2
    assert command("results", "prune", "--store", store).returncode == 2
    assert "removed" in command("results", "prune", "--size", "0", "--store", store).stderr
    assert json.loads(command("results", "list", "--store", store, "--json").stdout)["records"] == 0


def test_a_run_whose_mask_is_not_kept_is_not_exported_with_another(simulated: Path, tmp_path: Path) -> None:
    mask = np.zeros((361, 345), bool)
    mask[100:120] = True
    store = tmp_path / "store"
    run = dada.stxm(simulated, shape=(ROWS, COLUMNS), mask=mask, store=store, radial_bins=0).run_id
    done = command("results", "export", run, "-o", tmp_path / "out.h5", "--store", store)
    assert done.returncode == 2
    assert "dada recompute" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_invalid_pixels_are_counted_by_reason_and_frame(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path, scans.frames(12))
    np.save(tmp_path / "mask.npy", np.arange(scans.SHAPE[0])[:, None] * np.ones(scans.SHAPE) < 2)
    stxm(master, "--mask", tmp_path / "mask.npy", "-o", tmp_path / "out.h5", "--no-store", shape="3x4")
    with h5py.File(tmp_path / "out.h5") as file:
        mask = json.loads(file["/entry/dada/configuration/data"][()])["mask"]
        saturated = file["/entry/n_saturated/data"][()]
    assert mask["by_reason"] == {"gap": 4 * 53, "dead": 1, "noisy": 1, "user's mask": 2 * 53}
    np.testing.assert_array_equal(saturated.ravel(), [1, 0, 0] * 4)


def test_simulate_and_thin_commands(tmp_path: Path) -> None:
    done = command("simulate", tmp_path / "a", "--shape", "2x3", "--detector", "100x120", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "6 frames" in done.stderr
    done = command(
        "thin", tmp_path / "a" / "scan_data_000001.h5", tmp_path / "b", "--shape", "2x2", "--crop", "0:100,0:90"
    )
    assert done.returncode == 0, done.stderr
    assert stxm(tmp_path / "b" / "scan_master.h5", "--no-store", shape="2x2")["frames"] == 4


def test_formats_that_go_through_hdf5(tmp_path: Path) -> None:
    data = scans.frames(12)
    usual = scans.stack(tmp_path / "usual.h5", data)
    gzip = scans.stack(tmp_path / "gzip.h5", data, chunks=(1, *scans.SHAPE), compression="gzip")
    for path in (usual, gzip):
        stxm(path, "-o", path.with_suffix(".out"), "--no-store", shape="3x4")
    first, second = _maps(usual.with_suffix(".out")), _maps(gzip.with_suffix(".out"))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_cbf_and_tiff_files(tmp_path: Path) -> None:
    fabio = pytest.importorskip("fabio")
    data = scans.frames(12, dtype="uint16").astype(np.int32)
    data[data > 60_000] = -1
    usual = scans.stack(tmp_path / "usual.h5", data.astype(np.uint32))
    stxm(usual, "-o", tmp_path / "usual.out", "--no-store", shape="3x4")
    for kind, image in (("cbf", fabio.cbfimage.CbfImage), ("tif", fabio.tifimage.TifImage)):
        directory = tmp_path / kind
        directory.mkdir()
        for number, frame in enumerate(data):
            image(data=frame).write(str(directory / f"frame_{number}.{kind}"))
        stxm(directory, "-o", tmp_path / f"{kind}.out", "--no-store", shape="3x4")
        for name in ("itot", "comh", "comv", "n_valid"):
            np.testing.assert_array_equal(_maps(tmp_path / f"{kind}.out")[name], _maps(tmp_path / "usual.out")[name])
