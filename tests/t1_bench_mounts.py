"""`python -m bench.mounts --quick`: it runs, its bytes are right, what is missing is named; no figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.lab.needs import reason_without_fuse, reason_without_namespaces
from bench.mounts import tables
from bench.peers import catalogue
from bench.peers.base import is_mounted
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


def test_an_unknown_peer_is_a_sentence() -> None:
    done = quick("nfs4")
    assert done.returncode == 2
    assert "there is no peer nfs4" in done.stderr
    assert all(name in done.stderr for name in catalogue.PEERS)


def test_is_mounted_does_not_touch_the_path(tmp_path: Path) -> None:
    assert is_mounted(Path("/proc"))
    assert not is_mounted(tmp_path)


@pytest.mark.parametrize("peer", ["nfs-ganesha", "samba", "xrootdfs"])
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
