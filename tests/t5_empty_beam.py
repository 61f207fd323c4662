"""The empty-beam correction through the command: from frames of the scan or another one, kept, and computed again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import dada
from tests.harness import scans

DATA = scans.frames(20)
EMPTY = scans.frames(6, seed=9)
SHAPE = (4, 5)


def dada_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dada", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def stxm(*arguments: str | Path) -> dict[str, object]:
    done = dada_command("stxm", *arguments, "--shape", "4x5", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def maps(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        groups = {name: item for name, item in file["entry"].items() if item.attrs.get("signal") == "data"}
        return {name: group["data"][()] for name, group in groups.items()}


def expected_itot(transmission: np.ndarray | float, scale: float = 1.0) -> np.ndarray:
    """Sum over the valid pixels; one that is saturated in a frame takes the frame's mean of the empty beam along."""
    good = scans.pixel_mask() == 0

    def total(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        valid = good & (frames <= 60_000)
        return np.where(valid, frames, 0).sum((1, 2), dtype=np.int64), valid.sum((1, 2))

    (counts, n), (stray, n_stray) = total(DATA), total(EMPTY)
    per_frame = counts / np.broadcast_to(transmission, SHAPE).ravel()
    return (per_frame - scale * n * stray.sum() / n_stray.sum()).reshape(SHAPE)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return scans.legacy(tmp_path / "scan", DATA)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return scans.legacy(tmp_path / "empty", EMPTY)


def test_a_scan_without_sample(scan: Path, empty: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "out.h5", tmp_path / "store"
    ring = ("--empty", empty, "--orientation", "--roi", "a=5:20", "--store", store)
    options = (*ring, "--transmission", "0.8", "--empty-scale", "0.5")
    assert stxm(scan, *options, "-o", out)["computed"] == 20
    found = maps(out)
    np.testing.assert_allclose(found["itot"], expected_itot(0.8, 0.5))
    assert np.isfinite(found["iq"]).any()
    with h5py.File(out) as file:
        provenance = json.loads(file["/entry/dada/configuration/data"][()])
    assert provenance["empty"]["frames"] == 6
    assert provenance["empty"]["files"][0][0] == str(empty.parent / "scan_data_000001.h5")
    assert (provenance["options"]["transmission"], provenance["options"]["empty"]) == (0.8, str(empty))
    assert stxm(scan, *options)["computed"] == 0
    assert stxm(scan, *ring)["computed"] == 0  # sums are kept: another transmission reads no frame


def test_frames_of_the_scan_and_a_map_of_transmissions(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path / "scan", np.concatenate([EMPTY, DATA]))
    transmission = np.random.default_rng(1).uniform(0.3, 1, SHAPE)
    np.save(tmp_path / "t.npy", transmission)
    out, again = tmp_path / "out.h5", tmp_path / "again.h5"
    stxm(
        master, "--offset", "6", "--empty-frames", "0:6", "--transmission", tmp_path / "t.npy", "-o", out, "--no-store"
    )
    np.testing.assert_allclose(maps(out)["itot"], expected_itot(transmission))
    (tmp_path / "t.npy").unlink()  # the numbers are in the file
    done = dada_command("recompute", out, "-o", again, "--no-store")
    assert done.returncode == 0, done.stderr
    found = maps(again)
    for name, values in maps(out).items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)


def test_python_has_the_same_names(scan: Path, empty: Path) -> None:
    result = dada.stxm(
        scan, SHAPE, empty=str(empty), transmission=np.full(SHAPE, 0.8), empty_scale=0.5, store=False, radial_bins=0
    )
    np.testing.assert_allclose(result.maps["itot"].values, expected_itot(0.8, 0.5))


def test_deflections_stay_as_measured(scan: Path, empty: Path) -> None:
    plain, corrected = (
        dada.stxm(scan, SHAPE, store=False, radial_bins=0, **more) for more in ({}, {"empty": str(empty)})
    )
    for name in ("comh", "comv", "comh_error", "alphah", "imax"):
        np.testing.assert_array_equal(plain.maps[name].values, corrected.maps[name].values)


def test_another_pixel_type(scan: Path, tmp_path: Path) -> None:
    wide = EMPTY.astype(np.uint32)
    wide[EMPTY >= 65534] = 2**32 - 1
    other = scans.legacy(tmp_path / "wide", wide)
    result = dada.stxm(scan, SHAPE, empty=str(other), store=False, radial_bins=0)
    np.testing.assert_allclose(result.maps["itot"].values, expected_itot(1.0))


def test_a_damaged_frame_without_sample_is_left_out(scan: Path, empty: Path) -> None:
    scans.damage_chunk(empty.parent / "scan_data_000001.h5", "/entry/data/data", 2)
    result = dada.stxm(scan, SHAPE, empty=str(empty), store=False, radial_bins=0)
    assert result.provenance["empty"]["frames"] == 5
    assert np.isfinite(result.maps["itot"].values).all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--transmission", "0.8"], 2, "needs frames without sample"),
        (["--empty-frames", "3", "--empty", "{scan}"], 2, "give one of them"),
        (["--empty-frames", "30"], 2, "frames 0..19"),
        (["--empty-frames", "0", "--transmission", "1.2"], 2, "between 0"),
        (["--empty-frames", "0", "--transmission", "{folder}/none.npy"], 2, "is no transmission"),
        (["--empty-frames", "0", "--transmission", "{folder}/wrong.npy"], 2, "map of the scan"),
        (["--empty", "{folder}/nowhere.h5"], 7, "is not there"),
        (["--empty", "{folder}/small/scan_master.h5"], 7, "do not fit frames"),
    ],
)
def test_mistakes_get_one_sentence(scan: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    np.save(tmp_path / "wrong.npy", np.full((2, 2), 0.5))
    scans.legacy(tmp_path / "small", scans.frames(2, shape=(60, 53)))
    names = {"scan": scan, "folder": tmp_path}
    given = [argument.format(**names) for argument in arguments]
    done = dada_command("stxm", scan, "--shape", "4x5", "--no-store", *given)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert words in line
