"""`python -m bench.mounts --quick`: it runs, its bytes are right, what is missing is named; no figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import mounts
from bench.lab import data
from bench.lab.needs import reason_without_fuse, reason_without_namespaces
from bench.lab.side import Side
from bench.loads import Bound
from bench.mounts import tables
from bench.peers import catalogue
from bench.peers.base import Peer, Site, is_mounted
from bench.peers.ssh import Sshfs

REPOSITORY = Path(__file__).resolve().parents[1]
LOADS = "sequential,frames,opens"


def quick(peers: str, *more: str, scratch: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ | ({"TMPDIR": str(scratch)} if scratch else {})
    command = [sys.executable, "-m", "bench.mounts", "--quick", "--peers", peers, *more]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300, env=env)


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    reason = reason_without_namespaces() or reason_without_fuse()
    if reason:
        pytest.skip(reason)


def test_dadafs_and_the_local_limit_side_by_side(tmp_path: Path) -> None:
    done = quick("dict,dadafs", "--loads", LOADS, "--json", str(tmp_path / "figures.json"), scratch=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert not [row for row in rows if "problem" in row]
    seen = {(row["peer"], row["load"], row["state"]) for row in rows}
    assert {("dadafs", name, "cold") for name in LOADS.split(",")} <= seen
    assert ("dadafs", "sequential", "warm") in seen
    assert ("dict", "sequential", "cold") not in seen
    cold = next(row for row in rows if (row["peer"], row["load"]) == ("dadafs", "sequential"))
    assert cold["node MiB"] > 10
    assert cold["head MiB"] > 10
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_shaped_link() -> None:
    done = quick("local", "--loads", "metadata", "--rate", "1gbit")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_peer_that_is_not_installed_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.base.program", lambda name: None)
    reason = Sshfs.missing() or ""
    assert reason.startswith("not installed (sshfs")
    made = list(tables([{"peer": "sshfs", "problem": reason}]))
    assert made == [("not measured", ["peer", "why"], [["sshfs", reason]])]


class Slow(Peer):
    """A tree that is there already; how far each load is said to have got is `items`."""

    name = "slow"
    about = "a peer of this test"

    def __init__(self, site: Site, items: int, seconds: float) -> None:
        super().__init__(site)
        self.items = items
        self.seconds = seconds
        self.bounds: list[Bound] = []

    def mount(self) -> None:
        pass

    def unmount(self) -> None:
        pass

    def run(self, name: str, tree: data.Tree, bound: Bound, cut_off: float) -> dict[str, float]:
        self.bounds.append(bound)
        return {"files/s": 1.0, "seconds": self.seconds, "items": self.items, "planned": 10}


def slow(tmp_path: Path, items: int, seconds: float) -> Slow:
    side = Side(None, tmp_path)
    return Slow(Site(tmp_path, tmp_path, tmp_path, side, side), items, seconds)


def plan(repeat: int) -> mounts.Plan:
    return mounts.Plan(("slow",), ("small_files",), data.QUICK, None, repeat, None, enough=4.0)


def test_who_does_not_get_through_is_not_asked_again_and_its_row_says_how_far_it_got(tmp_path: Path) -> None:
    peer = slow(tmp_path, 3, 4.001)
    rows = mounts.repeated(peer, "small_files", plan(3))
    assert [row["repetitions"] for row in rows.values()] == [1, 1]
    assert [(bound.seconds, bound.items) for bound in peer.bounds] == [(4.0, None), (4.0, 3)]
    lines = [{"peer": "slow", "load": "small_files", "state": state, **row} for state, row in rows.items()]
    table = next(iter(tables(lines)))
    assert [line[1] for line in table[2]] == ["cold, 3 of 10", "warm"]


def test_who_gets_through_is_measured_as_often_as_wanted(tmp_path: Path) -> None:
    rows = mounts.repeated(slow(tmp_path, 10, 3.9), "small_files", plan(3))
    assert [row["repetitions"] for row in rows.values()] == [3, 3]


def test_a_load_that_is_cut_off_is_a_row_that_says_so(tmp_path: Path) -> None:
    done = quick("local", "--loads", "sequential", "--cut-off", "0", "--json", str(tmp_path / "figures.json"))
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert rows == [{"peer": "local", "load": "sequential", "state": "cold", "cut": "cut off after 0 s"}]
    assert "cut off after 0 s" in done.stdout


def test_an_unknown_peer_is_a_sentence() -> None:
    done = quick("nfs4")
    assert done.returncode == 2
    assert "there is no peer nfs4" in done.stderr
    assert all(name in done.stderr for name in catalogue.PEERS)


def test_is_mounted_does_not_touch_the_path(tmp_path: Path) -> None:
    assert is_mounted(Path("/proc"))
    assert not is_mounted(tmp_path)


@pytest.mark.parametrize("peer", ["bindfs", "pyfuse3", "nfs-ganesha", "samba", "smbnetfs", "xrootdfs"])
def test_peers_that_need_more_than_a_mount(tmp_path: Path, peer: str) -> None:
    missing = catalogue.PEERS[peer].missing()
    if missing:
        pytest.skip(missing)
    done = quick(peer, "--loads", "sequential", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert rows[0]["MB/s"] > 0
    assert rows[0]["node cpu s"] >= 0
    assert rows[0]["head cpu s"] >= 0
    assert rows[0]["node MiB"] > 0
    assert rows[0]["head MiB"] > 0 or not catalogue.PEERS[peer].remote
