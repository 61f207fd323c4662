"""dadafsctl against a real mount: who reads, why it was slow, settings, and a bundle of a mount that hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dadafs.activity import HELPER
from tests.conftest import Mounted
from tests.harness.processes import wait_until

MIB = 1 << 20


@pytest.fixture
def served(mounted: Mounted) -> Mounted:
    (mounted.tree / "scan").mkdir()
    (mounted.tree / "scan" / "file").write_bytes(os.urandom(3 * MIB))
    return mounted


def ctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dadafs.ctl", *words], capture_output=True, text=True, timeout=120, check=False
    )


def answer(*words: str) -> Any:
    done = ctl(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_is_known_with_what_it_read_and_waited_for(served: Mounted) -> None:
    file = served.mnt / "scan" / "file"
    subprocess.run(["/bin/cat", str(file)], check=True, capture_output=True)
    for words in (("explain", str(file)), ("explain", str(served.mnt / "scan"))):
        reads = answer(*words)["reads"]
        commands = {read["command"] for read in reads}
        assert commands - {HELPER} == {"cat"}
        assert {read["path"] for read in reads} == {"scan/file"}
        assert {read["tier"] for read in reads} <= {"origin", "memory", "ssd"}
    assert "cat" in ctl("explain", str(file)).stdout
    assert answer("explain", str(served.mnt / "other"))["reads"] == []
    after = answer("top", str(served.mnt), "--count", "1", "--interval", "50ms")["after"]
    (cat,) = (one for one in after["processes"] if one["command"] == "cat")
    whole = sum(one["bytes"] for one in after["processes"])
    assert whole >= 3 * MIB, "some of it read ahead, where the kernel may not be told to"
    assert 0 < cat["waits"] <= cat["reads"]
    assert sum(cat["tiers"].values()) == cat["waits"]
    assert cat["tiers"].keys() <= {"origin", "memory", "ssd"}
    assert "who reads" in ctl("top", str(served.mnt), "--count", "1", "--interval", "50ms").stdout


def test_the_head_hears_which_process_reads(served: Mounted) -> None:
    file = served.mnt / "scan" / "file"

    def told() -> bool:
        subprocess.run(["/bin/cat", str(file)], check=True, capture_output=True)
        subprocess.run(["/usr/bin/touch", str(served.tree / "scan" / "file")], check=True)  # it is read anew
        done = ctl("--socket", str(served.head.admin_socket), "--json", "status")
        return "process cat[" in done.stdout and "tiers of cat[" in done.stdout

    wait_until(told, "the node has reported its processes")


def test_settings_of_a_mount_change_while_it_is_used(served: Mounted) -> None:
    mount = ("--mount", str(served.mnt))
    assert "ram_cache is 64MiB" in ctl("set", "ram_cache=64MiB", *mount).stdout
    report = answer("status", str(served.mnt))
    assert report["ram_cache"]["budget_bytes"] == 64 * MIB
    assert (report["session"]["freshness_s"], report["session"]["retry_s"]) == (1.0, 30.0)
    (row,) = answer("get", "ram_cache", *mount)["settings"]
    assert row["source"] == "set while running"
    assert "128MiB again" in ctl("reset", "ram_cache", *mount).stdout
    assert {row["name"] for row in answer("get", *mount)["settings"]} == {"ram_cache", "read_ahead", "log_level"}
    assert "ram_cache is 32MiB for 50ms" in ctl("set", "ram_cache=32MiB", "--for", "50ms", *mount).stdout
    wait_until(lambda: answer("get", "ram_cache", *mount)["settings"][0]["value"] == "128MiB", "it fell back by itself")
    assert "retry" in {row["name"] for row in answer("get", "--show-config", *mount)["settings"]}
    for words, said in (
        (("set", "retry=1s", *mount), "cannot be changed"),
        (("set", "ram_cache=64MiB", "--for", "0s", *mount), "more than 0"),
        (("get", "--mount", str(served.tree)), "not a dadafs mount"),
    ):
        done = ctl(*words)
        assert done.returncode != 0
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_what_the_node_holds_of_a_path(served: Mounted, tmp_path: Path) -> None:
    """Without a head on this machine the node tells of itself; with one, of both."""
    folder, file = served.mnt / "scan", served.mnt / "scan" / "file"
    assert answer("cached", str(folder)) == {"node": {"files": 0, "size": 0, "memory": 0}}
    file.read_bytes()
    for path in (file, folder, served.mnt):
        assert answer("cached", str(path)) == {"node": {"files": 1, "size": 3 * MIB, "memory": 3 * MIB}}
    assert answer("cached", str(served.mnt / "sca"))["node"]["files"] == 0
    text = ctl("cached", str(file)).stdout
    assert "3 MiB" in text
    assert served.head.address in " ".join(text.split()), "where to ask for the rest"
    socket = ("--socket", str(served.head.admin_socket))
    both = answer(*socket, "cached", str(file))
    assert (both["node"]["memory"], both["size"]) == (3 * MIB, 3 * MIB)
    assert both["tiers"].keys() == {"ssd"}
    assert "this node" in ctl(*socket, "cached", str(file)).stdout
    assert ctl("--socket", str(tmp_path / "none"), "cached", str(file)).returncode == 3, "this one was asked for"
    assert ctl("warm", str(file)).stderr.count(served.head.address) == 1, "where it can be done"


def test_a_bundle_of_a_mount_that_hangs(served: Mounted, tmp_path: Path) -> None:
    """The mount process is stopped: nothing that touches the mount would return."""
    output = tmp_path / "bundle.json"
    assert ctl("bundle", str(served.mnt), "-o", str(output)).returncode == 0
    healthy = json.loads(output.read_text())
    assert output.stat().st_mode & 0o777 == 0o600
    assert healthy["status"]["mountpoint"] == str(served.mnt)
    assert healthy["mount"]["fstype"] == "fuse.dadafs"
    assert healthy["process"]["threads"]
    assert healthy["version"] == healthy["status"]["version"]
    assert {finding["state"] for finding in healthy["doctor"]} >= {"ok"}
    assert any("is mounted on" in line for line in healthy["log"]["lines"])
    os.kill(served.mount.pid, signal.SIGSTOP)
    try:
        assert ctl("bundle", str(served.mnt), "-o", str(output)).returncode == 0
    finally:
        os.kill(served.mount.pid, signal.SIGCONT)
    hanging = json.loads(output.read_text())
    assert "does not answer" in hanging["status"]["error"]
    assert hanging["mount"]["mountpoint"] == str(served.mnt)
    assert "fuse" in hanging
    assert any("does not answer" in finding["what"] for finding in hanging["doctor"])
