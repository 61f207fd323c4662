"""Who reads on a node: processes from /proc as they are found there, bounded, and told to the head as rates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dadafs import activity
from dadafs.activity import Activity
from dadafs.ctl.screens import PROCESS, TIERS


def status(proc: Path, thread: int, pid: int, uid: int = 1000, parent: int | None = None) -> None:
    (proc / str(thread)).mkdir()
    parent = os.getpid() + 1 if parent is None else parent  # somebody else; in a container we may be process 1
    text = f"Name:\tpython3\nTgid:\t{pid}\nPPid:\t{parent}\nUid:\t{uid}\t0\t0\t0\n"
    (proc / str(thread) / "status").write_text(text)


def test_threads_belong_to_their_process(tmp_path: Path) -> None:
    status(tmp_path, 10, 10)
    status(tmp_path, 11, 10)
    processes = Activity(tmp_path)
    assert processes.process(11) is processes.process(10)
    found = processes.process(10)
    assert (found.pid, found.uid, found.command) == (10, 1000, "python3")


def test_the_helper_of_the_mount_goes_by_its_own_name(tmp_path: Path) -> None:
    status(tmp_path, 10, 10, parent=os.getpid())
    assert Activity(tmp_path).process(10).command == activity.HELPER


@pytest.mark.parametrize("text", ["", "Name\n", "Tgid:\tx\n", "Tgid:\t1\nUid:\t\n"])
def test_a_process_that_is_gone_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "status").write_text(text)
    for thread in (12, 13):
        found = Activity(tmp_path).process(thread)
        assert (found.pid, found.uid, found.command) == (thread, -1, "?")


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    processes = Activity(tmp_path)
    for thread in range(5000):
        process = processes.process(thread)
        processes.waited(process, b"file", 0, 1, 0.1, "ssd")
    assert len(processes.processes()) == activity.PROCESSES
    assert len(processes.reads(None, None, 10**6)) == activity.READS


def test_the_head_is_told_rates_of_those_that_read_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(activity.time, "monotonic", lambda: now)
    processes = Activity(tmp_path)
    for thread in range(20):
        processes.process(thread).bytes = 1000 * thread
    assert processes.report() == {}
    now += 4.0
    report = processes.report()
    assert len(report) == activity.REPORTED
    assert report["process ?[19]"] == "4750 0.0000"
    assert all(name.startswith(PROCESS) for name in report)
    now += 4.0
    assert processes.report() == {}, "nobody has read since"


def test_the_head_is_told_which_tiers_answered_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(activity.time, "monotonic", lambda: now)
    processes = Activity(tmp_path)
    process = processes.process(1)
    for tier in ("ssd", "ssd", "origin"):
        process.bytes += 1000
        processes.waited(process, b"file", 0, 1000, 0.1, tier)
    now += 4.0
    assert processes.report()["tiers of ?[1]"] == "ssd=2 origin=1"
    assert (activity.PROCESS, activity.TIERS) == (PROCESS, TIERS), "what the head's screens look for"
    process.bytes += 1000
    processes.waited(process, b"file", 0, 1000, 0.1, "memory")
    now += 4.0
    assert processes.report()["tiers of ?[1]"] == "memory=1", "since the last report"
    process.bytes += 1000
    now += 4.0
    assert "tiers of ?[1]" not in processes.report(), "its reads did not wait"
