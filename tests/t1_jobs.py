"""Runs over scans: what is taken from the store, what is computed, who computes it, and what happens when
it goes wrong.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dada import frames, jobs, patches
from dada.errors import DataChanged, DataError, Interrupted, UserError
from dada.kernels import FrameSums, reference
from dada.patches import Part, Patch, PatchSums
from dada.plan import SumsPlan
from dada.reductions.protocol import Setup, Tables
from dada.results.embedded import EmbeddedStore
from dada.scan import Scan, open_scan
from dada.workers import LocalProcesses, LocalThreads, WorkerDied, Workers, _compute_in_process
from tests.checklogs import ExpectedLog
from tests.harness import scans

DATA = scans.frames(50)
GZIP = {"chunks": (1, *scans.SHAPE), "compression": "gzip"}


@pytest.fixture(autouse=True)
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches.patches_of, "__defaults__", (8,))


def bins(n: int = 12) -> np.ndarray:
    y, x = np.indices(scans.SHAPE)
    return np.minimum(np.hypot(y - 33, x - 26) / 45 * n, n - 1).astype(np.uint16)


def rois() -> dict[str, np.ndarray]:
    y, x = np.indices(scans.SHAPE)
    return {"left": x < 20, "ring": np.abs(np.hypot(y - 33, x - 26) - 15) < 4}


def tables(which: str = "all") -> list[Tables]:
    return {
        "all": [Tables(moments=True, rois=rois(), bins=bins(), n_bins=12), Tables(bins=bins(5), n_bins=5)],
        "one ROI": [Tables(rois={"left": rois()["left"]})],
    }[which]


def plan_of(scan: Scan, which: str = "all") -> SumsPlan:
    setup = Setup(scan.shape, scan.dtype, scans.pixel_mask() != 0, cut=60_001)
    return SumsPlan.of(setup, tables(which))


def threads(plan: SumsPlan) -> Callable[[], Workers]:
    return lambda: LocalThreads(plan, 2)


def nobody() -> Workers:
    pytest.fail("something was computed that the store has")


def run(scan: Scan, plan: SumsPlan, **options: Any) -> jobs.ScanSums:
    options = {"store": None, "workers": threads(plan), **options}
    wanted = options.pop("wanted", np.ones(scan.n_frames, dtype=bool))
    return jobs.run(scan, plan, wanted, **options)


def check(found: jobs.ScanSums, plan: SumsPlan, frames: Collection[int] = range(50)) -> None:
    """The sums of these frames are those of the NumPy definition."""
    rows = list(frames)
    expected = reference.reduce(
        DATA[rows], mask=plan.mask, bins=plan.bins[0][0] if plan.bins else None,
        n_bins=plan.bins[0][1] if plan.bins else 0, rois=np.array(plan.rois), cut=plan.cut,
    )  # fmt: skip
    for name in patches.SCALARS:
        np.testing.assert_array_equal(getattr(found.sums, name)[rows], getattr(expected, name), err_msg=name)
    for i, part in enumerate(plan.roi_parts):
        np.testing.assert_array_equal(found.tables[part][0][rows, 0], expected.rois[:, i])
        np.testing.assert_array_equal(found.tables[part][1][rows, 0], expected.roi_counts[:, i])
    if plan.bins:
        np.testing.assert_array_equal(found.tables[plan.bin_parts[0]][0][rows], expected.bins)
        second = reference.reduce(DATA[rows], mask=plan.mask, bins=plan.bins[1][0], n_bins=5, cut=plan.cut)
        np.testing.assert_array_equal(found.tables[plan.bin_parts[1]][0][rows], second.bins)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return open_scan(scans.legacy(tmp_path / "scan", DATA, per_file=20))


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "store")


def test_threads_give_the_numbers_of_the_definition(scan: Scan) -> None:
    plan = plan_of(scan)
    found = run(scan, plan)
    check(found, plan)
    assert (found.progress.computed, found.progress.from_store, found.progress.patches) == (50, 0, 8)
    assert found.damaged == ()


@pytest.mark.parametrize("options", [{}, GZIP])
def test_processes_give_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    scan = open_scan(scans.stack(tmp_path / "scan.h5", DATA, **options))
    plan = plan_of(scan)
    check(run(scan, plan, workers=lambda: LocalProcesses(plan, 2)), plan)


def test_a_second_run_touches_no_frame(scan: Scan, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(scan)
    run(scan, plan, store=store)
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("a frame was read"))
    found = run(scan, plan_of(scan), store=store, workers=nobody)
    check(found, plan)
    assert (found.progress.computed, found.progress.from_store) == (0, 50)


def test_only_what_is_missing_is_computed(scan: Scan, store: EmbeddedStore) -> None:
    wanted = np.zeros(50, dtype=bool)
    wanted[10:20] = True
    plan = plan_of(scan)
    first = run(scan, plan, store=store, wanted=wanted)
    assert first.progress.computed == 12  # the patches 8..16 and 16..20: files have 20 frames
    check(first, plan, range(8, 20))
    assert not first.sums.ok[20:].any()
    second = run(scan, plan, store=store)
    assert (second.progress.from_store, second.progress.computed) == (12, 38)
    check(second, plan)


def test_few_frames_are_read_without_their_neighbours(
    scan: Scan, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [3, 22, 27, 45]
    wanted = np.zeros(50, dtype=bool)
    wanted[chosen] = True
    plan, read = plan_of(scan), []
    pread = frames._pread
    monkeypatch.setattr(frames, "_pread", lambda fd, offset, n: read.append(n) or pread(fd, offset, n))
    monkeypatch.setattr(frames, "GAP_BYTES", 0)
    found = run(scan, plan, store=store, wanted=wanted)
    check(found, plan, chosen)
    assert (found.progress.frames, found.progress.computed) == (4, 4)
    whole = found.progress.stored_bytes
    assert sum(read) == whole
    again = run(scan, plan, store=store, wanted=wanted, workers=nobody)
    check(again, plan, chosen)
    everything = run(scan, plan, store=store)
    check(everything, plan)
    assert everything.progress.stored_bytes > 10 * whole
    wanted[[3, 45]] = False
    wanted[[5, 41]] = True  # what was kept of whole patches is what these need
    other = run(scan, plan, store=store, wanted=wanted, workers=nobody)
    assert other.sums.ok[[5, 41]].all()


def test_damages_among_few_frames(tmp_path: Path, scan: Scan) -> None:
    scans.damage_chunk(tmp_path / "scan" / "scan_data_000002.h5", "/entry/data/data", 7)
    scan = open_scan(scan.path)
    wanted = np.zeros(50, dtype=bool)
    wanted[[25, 27, 49]] = True
    found = run(scan, plan_of(scan), wanted=wanted)
    assert [damaged.frame for damaged in found.damaged] == [27]
    check(found, plan_of(scan), [25, 49])
    os.rename(tmp_path / "scan" / "scan_data_000002.h5", tmp_path / "aside")
    found = run(scan, plan_of(scan), wanted=wanted)
    assert [damaged.frame for damaged in found.damaged] == [25, 27]


def test_one_more_roi_computes_only_that(scan: Scan, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run(scan, plan_of(scan, "one ROI"), store=store)
    asked: list[tuple[str, ...]] = []
    compute = patches.compute

    def noted(patch: Patch, plan: SumsPlan, parts: tuple[Part, ...], readers: Any) -> PatchSums:
        asked.append(tuple(part.family for part in parts))
        return compute(patch, plan, parts, readers)

    monkeypatch.setattr("dada.workers.compute", noted)
    plan = plan_of(scan)
    found = run(scan, plan, store=store)
    check(found, plan)
    assert set(asked) == {("bins", "bins", "roi")}  # the moments and the other ROI were there


def test_another_mask_is_another_result(scan: Scan, store: EmbeddedStore) -> None:
    run(scan, plan_of(scan), store=store)
    mask = scans.pixel_mask() != 0
    mask[40] = True
    plan = SumsPlan.of(Setup(scan.shape, scan.dtype, mask, cut=60_001), tables())
    found = run(scan, plan, store=store)
    assert found.progress.computed == 50
    check(found, plan)


def test_a_changed_data_file_is_noticed(tmp_path: Path, scan: Scan, store: EmbeddedStore) -> None:
    run(scan, plan_of(scan), store=store)
    with (tmp_path / "scan" / "scan_data_000002.h5").open("ab") as file:
        file.write(b"more")
    again = open_scan(scan.path)
    found = run(again, plan_of(again), store=store)
    assert (found.progress.from_store, found.progress.computed) == (30, 20)
    os.utime(tmp_path / "scan" / "scan_data_000002.h5")
    with pytest.raises(DataChanged):  # the scan as it was opened before
        run(again, plan_of(again))


def test_what_was_read_of_a_growing_file_is_not_kept(tmp_path: Path, scan: Scan, store: EmbeddedStore) -> None:
    with (tmp_path / "scan" / "scan_data_000002.h5").open("ab") as file:
        file.write(b"more")
    plan = plan_of(scan)
    check(run(scan, plan, store=store), plan)
    found = run(scan, plan, store=store)
    assert (found.progress.from_store, found.progress.computed) == (30, 20)


def test_a_damaged_frame_costs_itself_and_is_remembered(tmp_path: Path, scan: Scan, store: EmbeddedStore) -> None:
    scans.damage_chunk(tmp_path / "scan" / "scan_data_000002.h5", "/entry/data/data", 7)
    scan = open_scan(scan.path)
    plan = plan_of(scan)
    for computed in (50, 0):
        found = run(scan, plan, store=store)
        assert found.progress.computed == computed
        check(found, plan, [frame for frame in range(50) if frame != 27])
        (damaged,) = found.damaged
        assert (damaged.frame, damaged.path.name, damaged.number) == (27, "scan_data_000002.h5", 7)
        assert "ends too early" in damaged.reason
        assert not found.sums.ok[27]


def test_a_missing_file_costs_its_frames(tmp_path: Path, scan: Scan, store: EmbeddedStore) -> None:
    (tmp_path / "scan" / "scan_data_000002.h5").unlink()
    scan = open_scan(scan.path, missing_ok=True)
    plan = plan_of(scan)
    found = run(scan, plan, store=store)
    assert [damaged.frame for damaged in found.damaged] == list(range(20, 40))
    assert "scan_data_000002.h5 is missing" in found.damaged[0].reason
    check(found, plan, [*range(20), *range(40, 50)])


def test_a_file_that_vanishes_after_opening_is_not_remembered(tmp_path: Path, scan: Scan, store: EmbeddedStore) -> None:
    file = tmp_path / "scan" / "scan_data_000002.h5"
    file.rename(tmp_path / "aside")
    plan = plan_of(scan)
    found = run(scan, plan, store=store)
    assert [damaged.frame for damaged in found.damaged] == list(range(20, 40))
    assert "cannot be read" in found.damaged[0].reason
    (tmp_path / "aside").rename(file)
    found = run(scan, plan, store=store)
    assert found.damaged == ()
    assert found.progress.computed == 20
    check(found, plan)


def test_an_error_of_the_disk_is_not_remembered(
    scan: Scan, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(scan)
    with monkeypatch.context() as patched:

        def broken(*_: object) -> int:
            raise OSError(5, "Input/output error")

        patched.setattr(os, "preadv", broken)
        found = run(scan, plan, store=store)
        assert len(found.damaged) == 50
        assert "Input/output error" in found.damaged[0].reason
    check(run(scan, plan, store=store), plan)


def test_a_store_that_fails_stops_nothing(scan: Scan, tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dada.results.embedded.write_atomically", full)
        plan = plan_of(scan)
        check(run(scan, plan, store=store), plan)
    assert store.counters.refused > 0


class Interrupting(LocalThreads):
    """Presses Ctrl-C after some patches, as a terminal would."""

    def __init__(self, plan: SumsPlan, after: int) -> None:
        super().__init__(plan, 1)
        self.after = after

    def result(self, future: Any) -> PatchSums:
        self.after -= 1
        if self.after == 0:
            signal.raise_signal(signal.SIGINT)
        return super(type(self), self).result(future)


class InterruptingProcesses(LocalProcesses):
    """The same over processes."""

    def __init__(self, plan: SumsPlan, after: int) -> None:
        super().__init__(plan, 1)
        self.after = after

    result = Interrupting.result


def test_ctrl_c_over_processes(scan: Scan, store: EmbeddedStore) -> None:
    plan = plan_of(scan)
    with pytest.raises(Interrupted, match="they are in the store"):
        run(scan, plan, store=store, workers=lambda: InterruptingProcesses(plan, 3))
    found = run(scan, plan, store=store)
    assert 0 < found.progress.from_store < 50
    check(found, plan)


def test_ctrl_c_keeps_what_is_finished_and_a_second_run_goes_on(scan: Scan, store: EmbeddedStore) -> None:
    plan = plan_of(scan)
    with pytest.raises(Interrupted, match="of 50 frames; they are in the store") as raised:
        run(scan, plan, store=store, workers=lambda: Interrupting(plan, 3))
    assert 0 < raised.value.done < 50
    assert raised.value.exit_code == 130
    found = run(scan, plan, store=store)
    assert found.progress.from_store == raised.value.done
    assert found.progress.from_store + found.progress.computed == 50
    check(found, plan)


class Dying(LocalThreads):
    """Workers that die with a patch, some times."""

    def __init__(self, plan: SumsPlan, times: int) -> None:
        super().__init__(plan, 2)
        self.times = times

    def result(self, future: Any) -> PatchSums:
        if self.times:
            self.times -= 1
            raise WorkerDied("out of memory")
        return super().result(future)


def test_a_worker_that_dies_costs_a_retry(scan: Scan) -> None:
    plan = plan_of(scan)
    found = run(scan, plan, workers=lambda: Dying(plan, 3))
    assert found.progress.retries == 3
    check(found, plan)


def test_workers_that_keep_dying_end_the_run(scan: Scan) -> None:
    plan = plan_of(scan)
    with pytest.raises(DataError, match=r"ended their worker 3 times"):
        run(scan, plan, workers=lambda: Dying(plan, 100))


def _killed_once(patch: Patch, parts: tuple[Part, ...]) -> PatchSums:
    """Computes a patch in a worker process; the first time at frame 8 it is killed instead."""
    mark = Path(os.environ["DADA_TEST_MARK"])
    if patch.first == 8 and not mark.exists():
        mark.write_text("dead")
        os.kill(os.getpid(), signal.SIGKILL)
    return _compute_in_process(patch, parts)


def test_a_killed_process_costs_its_patches_a_retry(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DADA_TEST_MARK", str(tmp_path / "mark"))
    plan = plan_of(scan)
    found = run(scan, plan, workers=lambda: LocalProcesses(plan, 2, _killed_once))
    assert (tmp_path / "mark").exists()
    assert found.progress.retries >= 1
    check(found, plan)


def test_progress_grows_to_all_frames(scan: Scan, store: EmbeddedStore) -> None:
    seen: list[tuple[int, int]] = []
    plan = plan_of(scan)
    run(scan, plan, store=store, notify=lambda progress: seen.append((progress.done, progress.frames)))
    assert seen == sorted(seen)
    assert seen[0] == (0, 50), "how much there is to do is known at once"
    assert seen[-1] == (50, 50)
    again: list[tuple[int, int]] = []
    run(scan, plan, store=store, notify=lambda progress: again.append((progress.from_store, progress.frames)))
    assert again[-1] == (50, 50)


def test_no_thread_is_left_behind(scan: Scan) -> None:
    before = threading.active_count()
    run(scan, plan_of(scan))
    assert threading.active_count() <= before, "fewer where one of an earlier test ended meanwhile"


def test_sums_of_a_whole_scan_are_of_frames_in_order(scan: Scan) -> None:
    found = run(scan, plan_of(scan, "one ROI"))
    assert isinstance(found.sums, FrameSums)
    np.testing.assert_array_equal(found.sums.status, 0)


@pytest.fixture
def dask() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        yield cluster.scheduler_address


def test_dask_gives_the_same(scan: Scan, store: EmbeddedStore, dask: str) -> None:
    from dada.cluster import DaskWorkers

    plan = plan_of(scan)
    check(run(scan, plan, store=store, workers=lambda: DaskWorkers(dask, plan)), plan)
    check(run(scan, plan, store=store, workers=nobody), plan)


def test_progress_and_ctrl_c_on_dask(scan: Scan, store: EmbeddedStore, dask: str) -> None:
    from dada.cluster import DaskWorkers

    class InterruptingDask(DaskWorkers):
        after = 3
        slots = 2

        def __init__(self, plan: SumsPlan) -> None:
            super().__init__(dask, plan)
            self.slots = 2

        result = Interrupting.result

    plan = plan_of(scan)
    seen: list[int] = []
    with pytest.raises(Interrupted, match="they are in the store"):
        run(
            scan,
            plan,
            store=store,
            workers=lambda: InterruptingDask(plan),
            notify=lambda progress: seen.append(progress.done),
        )
    assert seen == sorted(seen)
    assert 0 < seen[-1] < 50
    found = run(scan, plan, store=store, workers=lambda: DaskWorkers(dask, plan))
    assert 0 < found.progress.from_store < 50
    assert found.progress.done == 50
    check(found, plan)


def _killed_once_on_dask(patch: Patch, plan: SumsPlan, parts: tuple[Part, ...]) -> PatchSums:
    """As `_killed_once`, in a worker process of a Dask cluster."""
    from dada.cluster import _compute_on_worker

    mark = Path(os.environ["DADA_TEST_MARK"])
    if patch.first == 8 and not mark.exists():
        mark.write_text("dead")
        os.kill(os.getpid(), signal.SIGKILL)
    return _compute_on_worker(patch, plan, parts)


def test_a_killed_dask_worker_costs_its_patches_a_retry(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_log: ExpectedLog
) -> None:
    """Worker processes of a real cluster; the scheduler gives up a task at once, so that the retry is ours."""
    distributed = pytest.importorskip("distributed")
    import dask as dask_settings

    from dada import cluster

    expected_log.add("distributed|tornado|asyncio")  # they say that a worker went away
    monkeypatch.setenv("DADA_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(cluster, "_TASK", _killed_once_on_dask)
    plan = plan_of(scan)
    with (
        dask_settings.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp", local_directory=str(tmp_path)
        ) as local,
    ):
        found = run(scan, plan, workers=lambda: cluster.DaskWorkers(local.scheduler_address, plan))
    assert (tmp_path / "mark").exists()
    assert found.progress.retries >= 1
    check(found, plan)


def test_no_scheduler_at_that_address(monkeypatch: pytest.MonkeyPatch, scan: Scan) -> None:
    pytest.importorskip("distributed")
    from dada import cluster

    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        cluster.DaskWorkers("tcp://127.0.0.1:1", plan_of(scan))
