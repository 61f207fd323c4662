"""`dada average` and `dada composite` through the command and through Python: numbers, files, resuming, recomputing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dada
from dada import frame_jobs, pixel_units
from dada.errors import DataError, Interrupted, UsageError
from dada.frame_options import AverageOptions, CompositeOptions
from dada.grid import ScanGrid
from dada.pixel_units import PixelPlan, units_of
from dada.results.embedded import EmbeddedStore
from dada.scan import open_scan
from dada.workers import LocalProcesses, LocalThreads
from tests.checklogs import ExpectedLog
from tests.harness import scans

DATA = scans.frames(48)
SHAPE = (6, 8)
CUT = 60_001  # one above the saturation value that the master states


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return scans.legacy(tmp_path / "scan", DATA, per_file=20)


def run(*arguments: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "dada", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def valid(frames: np.ndarray, cut: int = CUT, threshold: int = 0) -> np.ndarray:
    """Counts of these frames, NaN where invalid."""
    counts = np.where(frames >= threshold, frames, 0).astype(float)
    return np.where((scans.pixel_mask() != 0) | (frames >= cut), np.nan, counts)


def check(found: dict[str, np.ndarray], counts: np.ndarray) -> None:
    n = np.isfinite(counts).sum(0)
    seen = n > 0
    np.testing.assert_array_equal(found["n"], n)
    for name, function in (("sum", np.nansum), ("average", np.nanmean), ("maximum", np.nanmax)):
        np.testing.assert_allclose(found[name][seen], function(counts[:, seen], axis=0), rtol=1e-12, err_msg=name)
        assert np.isnan(found[name][~seen]).all()
    several = n > 1
    np.testing.assert_allclose(
        found["variance"][several], np.nanvar(counts[:, several], axis=0, ddof=1), rtol=1e-9, atol=1e-12
    )


def images(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        groups = {name: item for name, item in file["entry"].items() if item.attrs.get("signal") == "data"}
        return {name: group["data"][()] for name, group in groups.items()}


def test_statistics_of_a_whole_scan(master: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    account = run("average", master, "-o", out, "--png", tmp_path / "out.png", "--no-store")
    assert (account["frames"], account["computed"], account["frames_used"]) == (48, 48, 48)
    check(images(out), valid(DATA))
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_region_of_the_map(master: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    run("average", master, "--shape", "6x8", "--zigzag", "--region", "1:4,2:7", "-o", out, "--no-store")
    frames = [row * 8 + (7 - column if row % 2 else column) for row in range(1, 4) for column in range(2, 7)]
    check(images(out), valid(DATA[frames]))
    with h5py.File(out) as file:
        assert file["/entry/dada/frames"][()].tolist() == sorted(frames)


def test_a_list_of_frames_with_mask_cut_threshold_and_binning(master: Path, tmp_path: Path) -> None:
    mask = np.zeros(scans.SHAPE, np.uint8)
    mask[60:] = 1
    np.save(tmp_path / "mask.npy", mask)
    out = tmp_path / "out.h5"
    options = ("--mask", tmp_path / "mask.npy", "--cut", "3", "--threshold", "1")
    run("average", master, "--frames", "3,17,40:43", *options, "-o", out, "--no-store")
    counts = np.where(mask != 0, np.nan, valid(DATA[[3, 17, 40, 41, 42]], cut=3, threshold=1))
    check(images(out), counts)
    run("average", master, "--frames", "3,17,40:43", *options, "--binning", "10", "-o", out, "--no-store")
    found = images(out)
    assert found["sum"].shape == (7, 6)
    assert found["sum"][1, 2] == np.nansum(counts[:, 10:20, 20:30])
    with h5py.File(out) as file:
        assert file["/entry/average/y"][:2].tolist() == [4.5, 14.5]
        assert file["/entry/average/y"].attrs["units"] == "px"


def test_python_has_the_same_names(master: Path, tmp_path: Path) -> None:
    result = dada.average(master, SHAPE, region=(0, 2, 0, 8), store=tmp_path / "store", png=tmp_path / "a.png")
    check({name: item.values for name, item in result.images.items()}, valid(DATA[:16]))
    assert result.images["variance"].unit == "counts^2"
    again = dada.average(master, SHAPE, region=(0, 2, 0, 8), store=tmp_path / "store")
    assert (again.progress.computed, again.progress.from_store) == (0, 16)
    tiles = dada.composite(master, SHAPE, binning=9, skip=(2, 2), store=False)
    assert tiles.images["thumbnail"].values.shape == (3, 4, 8, 6)


def test_it_is_computed_again_from_its_own_file(master: Path, tmp_path: Path) -> None:
    mask = np.zeros(scans.SHAPE, bool)
    mask[:5] = True
    for number, make in enumerate((dada.average, dada.composite)):
        first, second = tmp_path / f"a{number}.h5", tmp_path / f"b{number}.h5"
        make(master, SHAPE, region=(1, 4, 2, 7), binning=5, mask=mask, threshold=1, store=False, output=first)
        run("recompute", first, "-o", second, "--no-store")
        kept, fresh = images(first), images(second)
        assert kept.keys() == fresh.keys()
        for name, values in kept.items():
            np.testing.assert_array_equal(values, fresh[name], err_msg=name)


def test_options_describe_themselves() -> None:
    grid = ScanGrid((3, 4), zigzag=True)
    for options in (
        AverageOptions("scan.h5", grid, region=(0, 2, 1, 3), masks=("a",), cut=5, threshold=2, binning=3),
        AverageOptions("scan.h5", frames=(1, 2)),
        CompositeOptions("scan.h5", grid, crop=(0, 9, 1, 8), skip=(2, 3), border=0),
    ):
        described = json.loads(json.dumps(options.describe()))
        assert type(options).from_description(described) == options
    with pytest.raises(UsageError, match="another version"):
        AverageOptions.from_description({"scan": "x", "grid": None, "magic": 1})


def plan_of(path: Path) -> tuple[Any, PixelPlan, np.ndarray]:
    scan = open_scan(path)
    return scan, PixelPlan(scan.shape, scan.dtype, scans.pixel_mask() != 0, CUT), np.ones(scan.n_frames, bool)


def statistics(path: Path, store: EmbeddedStore | None, workers: Any = None, unit_frames: int = 16) -> Any:
    scan, plan, wanted = plan_of(path)
    team = workers or (lambda plan: LocalThreads(plan, 2))
    return frame_jobs.run(scan, plan, wanted, store=store, workers=lambda: team(plan), unit_frames=unit_frames)


class Interrupting(LocalThreads):
    """Presses Ctrl-C with the second unit, as a terminal would."""

    results = 0

    def result(self, future: Any) -> Any:
        self.results += 1
        if self.results == 2:
            signal.raise_signal(signal.SIGINT)
        return super().result(future)


def test_an_interrupted_average_goes_on_and_a_finished_one_reads_nothing(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedStore(tmp_path / "store")
    with pytest.raises(Interrupted):
        statistics(master, store, lambda plan: Interrupting(plan, 1), 4)
    found, _, progress = statistics(master, store, unit_frames=4)
    assert 0 < progress.from_store < 48
    assert progress.from_store + progress.computed == 48
    check(found.finish(scans.pixel_mask() != 0), valid(DATA))
    monkeypatch.setattr("os.preadv", lambda *_: pytest.fail("a frame was read"))
    again, _, progress = statistics(master, store, lambda plan: pytest.fail("workers were started"), 4)
    assert (progress.computed, progress.from_store) == (0, 48)
    check(again.finish(scans.pixel_mask() != 0), valid(DATA))


def test_what_is_kept_of_a_long_average_is_bounded(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit's sums are as large as some frames; one record takes the place of those that are added up."""
    monkeypatch.setattr(frame_jobs, "KEPT_UNITS", 5)
    store = EmbeddedStore(tmp_path / "store")
    most = 0

    class Watching(LocalThreads):
        def result(self, future: Any) -> Any:
            nonlocal most
            most = max(most, store.size()[0])
            return super().result(future)

    found, _, _ = statistics(master, store, lambda plan: Watching(plan, 1), 1)
    check(found.finish(scans.pixel_mask() != 0), valid(DATA))
    assert store.size()[0] == 1 + 48 % 5 + 1  # of the first 45, of those after it, and of all
    assert most <= 1 + 5


def test_an_average_goes_on_from_what_was_added_up(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_jobs, "KEPT_UNITS", 5)
    store = EmbeddedStore(tmp_path / "store")
    scans.damage_chunk(master.parent / "scan_data_000001.h5", "/entry/data/data", 5)
    scan, plan, wanted = plan_of(master)
    wanted[23:] = False

    def go() -> Any:
        return frame_jobs.run(scan, plan, wanted, store=store, workers=lambda: LocalThreads(plan, 2), unit_frames=1)

    go()
    wanted[23:] = True  # as if these had come since
    found, damaged, progress = go()
    assert (progress.from_store, progress.computed) == (23, 25)
    assert [d.frame for d in damaged] == [5]
    assert found.n_frames == 47
    again, damaged, progress = go()
    assert (progress.from_store, progress.computed) == (48, 0)
    assert [d.frame for d in damaged] == [5]
    check(again.finish(scans.pixel_mask() != 0), valid(np.delete(DATA, 5, 0)))


def test_a_changed_file_costs_its_own_units(master: Path, tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")
    statistics(master, store)
    with (master.parent / "scan_data_000003.h5").open("ab") as file:
        file.write(b"more")
    _, _, progress = statistics(master, store)  # the last file's frames, 40 to 47, are in the last unit
    assert (progress.from_store, progress.computed) == (32, 16)


def test_processes_give_the_same(master: Path) -> None:
    found, _, _ = statistics(master, None, lambda plan: LocalProcesses(plan, 2))
    check(found.finish(scans.pixel_mask() != 0), valid(DATA))


def test_damaged_and_missing_frames_are_left_out_and_named(master: Path, tmp_path: Path) -> None:
    scans.damage_chunk(master.parent / "scan_data_000001.h5", "/entry/data/data", 5)
    (master.parent / "scan_data_000002.h5").unlink()
    store = tmp_path / "store"
    for computed in (28, 0):
        result = dada.average(master, grid=ScanGrid(SHAPE, aborted=True), store=store, output=tmp_path / "out.h5")
        assert result.progress.computed == computed
        assert [damaged.frame for damaged in result.damaged] == [5, *range(20, 40)]
        good = [frame for frame in range(48) if frame != 5 and not 20 <= frame < 40]
        check(images(tmp_path / "out.h5"), valid(DATA[good]))
    with pytest.raises(DataError, match="missing"):
        dada.average(master, store=False)


def test_a_unit_that_cannot_be_opened_is_not_remembered(master: Path, tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")
    scan, plan, wanted = plan_of(master)
    file = master.parent / "scan_data_000002.h5"
    file.rename(tmp_path / "aside")

    def go() -> Any:
        return frame_jobs.run(
            scan, plan, wanted, store=store, workers=lambda: LocalThreads(plan, 2), unit_frames=10
        )  # fmt: skip

    found, damaged, _ = go()
    assert [d.frame for d in damaged] == list(range(20, 40))
    assert found.n_frames == 28
    (tmp_path / "aside").rename(file)
    found, damaged, progress = go()
    assert (found.n_frames, damaged, progress.computed) == (48, (), 20)


def test_units_are_cut_where_the_scan_says(master: Path) -> None:
    scan, _, wanted = plan_of(master)
    wanted[5:8] = False
    units = list(units_of(scan, wanted, 32))
    assert [(unit.first, unit.count) for unit in units] == [(0, 29), (32, 16)]
    assert [stretch.count for stretch in units[0].stretches] == [5, 12, 12]
    assert next(size for limit, size in pixel_units._UNIT_FRAMES if limit >= 62_500) == 256


def test_a_composite_shows_each_frame_at_its_point(master: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    arguments = ("--shape", "6x8", "--region", "1:6,0:8", "--skip", "2,3", "--crop", "10:30,5:45", "--binning", "5")
    run("composite", master, *arguments, "-o", out, "--png", tmp_path / "out.png", "--store", tmp_path / "store")
    found = images(out)
    assert found["composite"].shape == (3 * 5, 3 * 9)  # 4 x 8 pixels a frame, and a border
    frame = valid(DATA[3 * 8 + 6])[10:30, 5:45]
    expected = np.nanmean(frame.reshape(4, 5, 8, 5), axis=(1, 3))
    np.testing.assert_allclose(found["composite"][5:9, 18:26], expected, rtol=1e-6)
    np.testing.assert_allclose(found["thumbnail"][1, 2], expected)
    assert np.isnan(found["composite"][4]).all()
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert run("composite", master, *arguments, "--store", tmp_path / "store")["computed"] == 0


def frames_of_points(grid: ScanGrid, n_frames: int) -> dict[tuple[int, int], int]:
    """Which frame each point shows, by walking along the scan as its description says."""
    ny, nx = grid.shape
    lines = [[(y, x) for y in range(ny)] for x in range(nx)] if grid.columns_first else []
    lines = lines or [[(y, x) for x in range(nx)] for y in range(ny)]
    walk = [point for i, line in enumerate(lines) for point in (line[::-1] if grid.zigzag and i % 2 else line)]
    visited = [point for i, point in enumerate(walk) if i not in grid.missing and i >= -grid.offset]
    shown: dict[tuple[int, int], int] = {}
    step = -1
    for frame in range(max(grid.offset, 0), n_frames):
        if step < 0 or frame not in grid.repeated:
            step += 1
        shown[visited[step]] = frame
    return shown


@pytest.mark.parametrize(
    "grid",
    [
        ScanGrid(SHAPE, columns_first=True, zigzag=True),
        ScanGrid(SHAPE, zigzag=True, offset=3, missing=(0, 17, 47)),
        ScanGrid((7, 7), zigzag=True, offset=-2, repeated=(4,)),
        ScanGrid((7, 8), repeated=(7, 20, 21), columns_first=True, aborted=True),
        ScanGrid((7, 8), zigzag=True, offset=2, missing=(5,), aborted=True),
    ],
)
def test_every_kind_of_result_goes_by_one_table(master: Path, grid: ScanGrid) -> None:
    shown = frames_of_points(grid, 48)
    table = np.full(grid.shape, -1)
    for point, frame in shown.items():
        table[point] = frame
    box = (1, 5, 2, 6)
    inside = sorted(table[1:5, 2:6][table[1:5, 2:6] >= 0].tolist())
    averaged = dada.average(master, grid=grid, region=box, store=False)
    tiles = dada.composite(master, grid=grid, region=box, binning=9, skip=(2, 1), store=False)
    maps = dada.stxm(master, grid.shape, grid=grid, radial_bins=0, store=False)
    for result in (averaged, tiles, maps):
        assert result.map_ptr is not None
        np.testing.assert_array_equal(result.map_ptr, table)
    assert averaged.frames.tolist() == inside
    check({name: item.values for name, item in averaged.images.items()}, valid(DATA[inside]))
    small = tiles.images["thumbnail"].values
    for y, x in np.ndindex(grid.shape):
        frame = int(table[y, x])
        counts = np.nansum(valid(DATA[frame])) if frame >= 0 else np.nan
        assert np.array_equal(maps.maps["itot"].values[y, x], counts, equal_nan=True), (y, x)
        if 1 <= y < 5 and 2 <= x < 6 and y % 2:
            found = small[(y - 1) // 2, x - 2]
            expected = np.nanmean(valid(DATA[frame])[9:18, 9:18]) if frame >= 0 else np.nan
            np.testing.assert_allclose(found[1, 1], expected, err_msg=str((y, x)))


def test_a_composite_of_some_points_reads_only_their_frames(master: Path, tmp_path: Path) -> None:
    few = dada.composite(master, SHAPE, binning=9, skip=(3, 4), store=False)
    assert few.frames.tolist() == [0, 4, 24, 28]
    assert few.progress.computed == 4
    store = tmp_path / "store"
    full = dada.composite(master, SHAPE, binning=9, store=store)
    kept = dada.composite(master, SHAPE, binning=9, skip=(3, 4), store=store)
    assert kept.progress.computed == 0
    for some in (few, kept):
        np.testing.assert_array_equal(
            some.images["thumbnail"].values, full.images["thumbnail"].values[::3, ::4]
        )  # fmt: skip


def test_the_output_opens_as_nexus(master: Path, tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("pyOpenCl")  # silx says that it could be faster
    nxdata = pytest.importorskip("silx.io.nxdata")
    dada.average(master, store=False, output=tmp_path / "a.h5")
    dada.composite(master, SHAPE, binning=10, store=False, output=tmp_path / "c.h5")
    for name, default in (("a.h5", "average"), ("c.h5", "composite")):
        with h5py.File(tmp_path / name) as file:
            assert nxdata.get_default(file).signal.name == f"/entry/{default}/data"
            for group in file["/entry"].values():
                if group.attrs.get("NX_class") == "NXdata":
                    assert nxdata.NXdata(group).is_valid, (group.name, nxdata.NXdata(group).issues)
            provenance = json.loads(file["/entry/dada/configuration/data"][()])
            assert provenance["options"]["kind"] == default
            assert file["/entry/measurement/images_0003"].shape == (8, *scans.SHAPE)


def test_the_store_lists_and_exports_them(master: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    name = run("average", master, "--store", store)["run"]
    command = [sys.executable, "-m", "dada", "results"]
    listed = subprocess.run([*command, "list", "--store", store], capture_output=True, text=True, check=True).stdout
    assert f"{name}  " in listed
    assert "average" in listed
    export = [*command, "export", name, "-o", str(tmp_path / "out.h5"), "--store", store]
    assert "0 computed" in subprocess.run(export, capture_output=True, text=True, check=True).stderr
    check(images(tmp_path / "out.h5"), valid(DATA))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["average", "--region", "0:2,0:2"], "give --shape"),
        (["average", "--shape", "6x8", "--region", "0:9,0:2"], "does not lie in a map of 6x8"),
        (["average", "--shape", "6x8", "--region", "2:1,0:2"], "is empty"),
        (["average", "--shape", "6x8", "--region", "0:2,0:2", "--frames", "1"], "exclude each other"),
        (["average", "--frames", "48"], "frames 0..47"),
        (["average", "--threshold", "60001"], "valid counts lie from 0 to 60000"),
        (["composite", "--shape", "6x8", "--crop", "0:90,0:10"], "does not lie in frames"),
        (["composite", "--shape", "6x8", "--skip", "0,1"], "from 1"),
        (["composite", "--shape", "6x8", "--skip", "a"], "how many points"),
    ],
)
def test_mistakes_get_one_sentence(master: Path, arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "dada", arguments[0], str(master), *arguments[1:], "--no-store"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert words in line
