"""How far ahead frames are read follows how late they come."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from dada import ahead, frames
from dada.ahead import CALM, FEWEST, MOST, Ahead, ahead_of
from tests.harness import scans
from tests.t1_scan_frames import pixels, stretch_of


def test_the_depth_grows_while_batches_are_late_and_shrinks_when_they_wait() -> None:
    depth = Ahead()
    for _ in range(20):
        depth.came(late=True)
    assert depth.depth == MOST
    for _ in range(CALM - 1):
        depth.came(late=False)
    assert depth.depth == MOST
    depth.came(late=False)
    assert depth.depth == MOST - 1
    for _ in range(20 * CALM):
        depth.came(late=False)
    assert depth.depth == FEWEST


def test_each_file_system_has_its_own_and_the_table_is_bounded() -> None:
    first = ahead_of(-1)
    assert ahead_of(-1) is first
    assert ahead_of(-2) is not first
    for device in range(-1000, -10):
        ahead_of(device)
    assert len(ahead._known) <= ahead._FILE_SYSTEMS


class Pretended(Future[Any]):
    """A read that is finished as soon as it is begun, or only when somebody waits for it."""

    def __init__(self, owner: Readers, task: Callable[[], Any]) -> None:
        super().__init__()
        self.owner, self.task = owner, task

    def done(self) -> bool:
        return self.owner.quick

    def result(self, timeout: float | None = None) -> Any:
        self.owner.under_way -= 1
        return self.task()


class Readers(Executor):
    """Counts the reads that were begun and not taken."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.under_way = self.most = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Pretended:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return Pretended(self, lambda: function(*arguments, **named))


@pytest.mark.parametrize(("quick", "most"), [(True, FEWEST + 1), (False, MOST + 1)])
def test_a_slow_mount_has_more_reads_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool, most: int
) -> None:
    monkeypatch.setattr(frames, "BATCH_FRAMES", 1)
    data = scans.frames(40)
    stretch = stretch_of(scans.stack(tmp_path / "scan.h5", data))
    readers = Readers(quick)
    found = [frame for batch in frames.read_batches(stretch, readers, Ahead()) for frame in batch]
    assert (pixels(found) == data).all()
    assert readers.most == most
