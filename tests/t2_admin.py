"""The admin socket of a running head: every command of docs/admin-socket.md."""

from __future__ import annotations

import os
import re
import socket
import stat
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import trio

from dadafs.checksum import block_checksums
from dadafs.wire.messages import Read
from dadafsd.store.record import decode_header, encode_header
from tests.checklogs import ExpectedLog
from tests.harness.admin import Socket
from tests.harness.node import WHOLE, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20
#: What a whole fragment takes on disk.
RECORD = MIB + 4096


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "scan").mkdir(parents=True)
    for number in range(3):
        (tree / "scan" / f"file{number}").write_bytes(os.urandom(2 * MIB))
    with h5py.File(tree / "scan" / "master.h5", "w") as master:
        master["entry/data/data_000001"] = h5py.ExternalLink("../raw/data.h5", "/data")
        master["entry/data/outside"] = h5py.ExternalLink("../../../outside.h5", "/data")
    (tree / "raw").mkdir()
    with h5py.File(tree / "raw" / "data.h5", "w") as data:
        data["data"] = list(range(10_000))
    return tree


@pytest.fixture
def head(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> Iterator[HeadProcess]:
    newest = max(path.stat().st_ctime for path in tree.rglob("*"))
    wait_until(lambda: time.time() > newest + 0.1, "the files are older than the margin of timestamps")
    head = HeadProcess(tmp_path / "head", {"data": tree}, options=("--memory", "4MiB"))
    yield head
    head.stop()
    head.check_log(expected_log)


@pytest.fixture
def admin(head: HeadProcess) -> Socket:
    return Socket(head.admin_socket)


def test_only_the_owner_may_connect(head: HeadProcess) -> None:
    assert stat.S_IMODE(head.admin_socket.stat().st_mode) == 0o600


def test_status_counters_and_sessions(head: HeadProcess, admin: Socket) -> None:
    async def main() -> None:
        async with connected(head.port, name="node17") as node:
            opened = await node.open(b"scan/file1")
            await node.read(Read(opened.handle, opened.attr.version, 0, 0, WHOLE))
            status = admin.ask("status")
            assert status["address"] == head.address
            assert status["sessions"] == 1
            assert status["exports"][0]["open_files"] == 1
            assert status["tiers"][0]["state"] == "normal"
            counters = admin.ask("counters")
            served = {(row["node"], row["tier"]): row["bytes"] for row in counters["served"]}
            assert served == {("node17", "origin"): MIB}
            assert {"export": "data", "what": "reads", "count": 1} in counters["origin"]
            (session,) = admin.ask("sessions")["sessions"]
            assert session["node"] == "node17"
            assert session["handles"] == 1
            (read,) = admin.ask("recent", path="scan/file1")["reads"]
            assert read["tier"] == "origin"
            assert admin.ask("recent", path="scan/file2")["reads"] == []

    trio.run(main)
    wait_until(lambda: admin.ask("status")["sessions"] == 0, "the session is over")


def test_warm_cached_and_evict(admin: Socket) -> None:
    job = admin.finished(admin.ask("warm", path="/scan/")["job"])
    assert job["state"] == "done"
    assert job["bytes"] > 6 * MIB
    assert job["problems"] == ["../../../outside.h5 lies outside the export"]
    wait_until(lambda: admin.ask("status")["write_queue"]["used"] == 0, "all is on disk")
    cached = admin.ask("cached", path="scan/file0")
    assert cached["size"] == 2 * MIB
    assert cached["tiers"]["ssd"] == 2 * RECORD
    assert admin.ask("cached", path="raw/data.h5")["tiers"]["ssd"] > 0, "what the master file links to"
    assert admin.ask("evict", path="scan/file0")["evicted"] == 2
    assert admin.ask("cached", path="scan/file0") == {
        "ok": True,
        "files": 1,
        "size": 2 * MIB,
        "memory": 0,
        "tiers": {"ssd": 0},
        "complete": True,
    }
    assert admin.ask("cached", path="scan/file1")["tiers"]["ssd"] == 2 * RECORD
    assert admin.ask("evict")["evicted"] > 0
    assert admin.ask("cached", path="")["tiers"]["ssd"] == 0


def test_warming_follows_a_scan_that_is_written(admin: Socket, tree: Path) -> None:
    """Data files that the master file links to later, and frames that are added, are cached while the job runs."""
    scan = tree / "scan"

    def add(number: int) -> None:
        with h5py.File(scan / f"data_{number}.h5", "w") as data:
            data["data"] = np.frombuffer(os.urandom(300_000), np.uint8)
        with h5py.File(scan / "new.h5", "a") as master:
            master[f"entry/{number}"] = h5py.ExternalLink(f"data_{number}.h5", "/data")

    add(1)
    job = admin.ask("warm", path="scan/new.h5", follow=3600)["job"]
    cached = "scan/data_1.h5"
    wait_until(lambda: admin.ask("cached", path=cached)["tiers"]["ssd"] > 300_000, "the first file is cached")
    add(2)
    cached = "scan/data_2.h5"
    wait_until(lambda: admin.ask("cached", path=cached)["tiers"]["ssd"] > 300_000, "so is the second")
    with (scan / "data_2.h5").open("ab") as data:
        data.write(os.urandom(2 * MIB))
    wait_until(lambda: admin.ask("cached", path=cached)["tiers"]["ssd"] > 2 * MIB, "and what was added to it")
    assert admin.ask("jobs", job=job["id"])["job"]["state"] == "running"
    admin.ask("cancel", job=job["id"])
    assert admin.finished(job)["state"] == "cancelled"


def test_pins(admin: Socket) -> None:
    reply = admin.ask("pin", path="scan", seconds=3600)
    assert reply["files"] == 4
    assert admin.finished(reply["job"])["state"] == "done"
    (pin,) = admin.ask("pins")["pins"]
    assert pin["path"] == "scan"
    assert pin["files"] == 5, "with the data file that the master file links to"
    admin.ask("unpin", path="scan")
    assert admin.ask("pins")["pins"] == []
    assert "not pinned" in admin.try_to("unpin", path="scan")["error"]


def test_verify_finds_damage(head: HeadProcess, admin: Socket, expected_log: ExpectedLog) -> None:
    expected_log.add("1 damaged block")
    admin.finished(admin.ask("warm", path="scan/file0")["job"])
    wait_until(lambda: admin.ask("status")["write_queue"]["used"] == 0, "all is on disk")
    victim = next(path for path in head.cache_dir.rglob("*") if path.is_file() and path.stat().st_size > MIB)
    with victim.open("r+b") as file:
        file.seek(victim.stat().st_size - 1000)
        file.write(b"damage")
    job = admin.finished(admin.ask("verify")["job"])
    assert job["done"] == 2
    assert len(job["problems"]) == 1
    assert admin.ask("cached", path="scan/file0")["tiers"]["ssd"] == RECORD


def cache(admin: Socket, path: str) -> None:
    """Have all of it on disk."""
    admin.finished(admin.ask("warm", path=path)["job"])
    wait_until(lambda: admin.ask("status")["write_queue"]["used"] == 0, "all is written")
    wait_until(lambda: admin.ask("cached", path=path)["complete"], "the tiers are looked through")


def forge(head: HeadProcess, data: bytes) -> None:
    """Exchange a cached fragment of `data` for other bytes, with checksums that fit: only the origin can tell."""
    for path in head.cache_dir.glob("fragments/*/*"):
        record = path.read_bytes()
        if record[4096:] == data[:MIB]:
            key, _ = decode_header(record[:4096])
            other = bytes(len(record) - 4096)
            path.write_bytes(encode_header(key, block_checksums(other)) + other)
            return
    raise AssertionError("no such fragment is cached")


def test_verify_against_the_origin(head: HeadProcess, admin: Socket, tree: Path, expected_log: ExpectedLog) -> None:
    """One fragment is not what the origin has, one file has only an earlier version cached, the others are right."""
    expected_log.add("is dropped: data damaged")
    cache(admin, "")
    forge(head, (tree / "scan" / "file0").read_bytes())
    (tree / "scan" / "file1").write_bytes(os.urandom(2 * MIB))
    wait_until(lambda: time.time() > (tree / "scan" / "file1").stat().st_mtime + 0.1, "it was written a while ago")
    assert admin.finished(admin.ask("verify")["job"])["problems"] == [], "its checksums are in order"
    job = admin.finished(admin.ask("verify", against_origin=True)["job"])
    assert job["state"] == "done"
    assert job["problems"] == ["data:/scan/file0: fragment 0 in ssd is not what is there"]
    assert re.match(r"5 fragments are .* has, 1 are not .*; 0 files changed .*, of 1 only earlier", job["message"]), job
    again = admin.finished(admin.ask("verify", path="scan/file0", against_origin=True)["job"])
    assert (again["done"], again["problems"]) == (1, []), "it was deleted"
    assert "a path goes with" in admin.try_to("verify", path="scan")["error"]


def test_what_is_opened_below_a_pinned_path_is_pinned(head: HeadProcess, admin: Socket, tree: Path) -> None:
    admin.ask("pin", path="scan", seconds=3600, warm=False)
    (tree / "scan" / "later").write_bytes(b"x" * MIB)

    async def main() -> None:
        async with connected(head.port) as node:
            await node.open(b"raw/data.h5")
            await node.open(b"scan/later")

    before = admin.ask("pins")["pins"][0]["files"]
    trio.run(main)
    wait_until(lambda: admin.ask("pins")["pins"][0]["files"] == before + 1, "the new file is pinned, the other not")


def test_settings_live(admin: Socket) -> None:
    def value(name: str) -> str:
        return str(admin.ask("get", name=name)["settings"][0]["value"])

    assert admin.ask("set", name="memory", value="1MiB")["setting"]["value"] == "1MiB"
    assert admin.ask("status")["memory"]["limit"] == MIB
    admin.ask("reset", name="memory")
    assert admin.ask("status")["memory"]["limit"] == 4 * MIB
    admin.ask("set", name="tier.ssd.size", value="64MiB", seconds=3600)
    assert value("tier.ssd.size") == str(64 * MIB)
    admin.ask("set", name="tier.ssd.size", value="32MiB", seconds=0.2)
    wait_until(lambda: value("tier.ssd.size") == str(256 * MIB), "it falls back by itself")
    assert "cannot be changed" in admin.try_to("set", name="listen", value="x")["error"]
    assert "Unknown setting" in admin.try_to("set", name="memroy", value="1MiB")["error"]
    assert "Unknown setting" in admin.try_to("set", name="tier.hdd.size", value="1GiB")["error"]
    assert not admin.try_to("set", name="memory", value="lots")["ok"]


def test_a_setting_has_one_name_however_it_is_written(admin: Socket) -> None:
    admin.ask("set", name="write-queue", value="32MiB", seconds=3600)
    assert admin.ask("reset", name="write-queue")["setting"]["source"] == "default"
    assert admin.ask("status")["write_queue"]["limit"] == 64 * MIB
    admin.ask("set", name="write-queue", value="32MiB", seconds=0.2)
    admin.ask("set", name="write_queue", value="16MiB")
    admin.ask("set", name="touches", value="3", seconds=0.3)
    wait_until(lambda: admin.ask("get", name="touches")["settings"][0]["source"] == "default", "that fell back")
    assert admin.ask("status")["write_queue"]["limit"] == 16 * MIB, "the earlier one is off"


def test_mistakes_are_answered(admin: Socket) -> None:
    assert "not JSON" in admin.send(b"{")["error"]
    assert "JSON object" in admin.send(b"[1]")["error"]
    assert "no command" in admin.try_to("explode")["error"]
    assert "no export 'other'" in admin.try_to("cached", export="other", path="x")["error"]
    assert "data:/missing does not exist" in admin.try_to("cached", path="missing")["error"]
    assert "Not a path" in admin.try_to("cached", path="../etc")["error"]
    assert "no job 99" in admin.try_to("jobs", job=99)["error"]


def test_bundle_and_drain(head: HeadProcess, admin: Socket) -> None:
    bundle = admin.ask("bundle")
    assert "task" in bundle["tasks"]
    assert "MainThread" in bundle["threads"]
    admin.ask("drain")
    assert head.process.wait(60) == 0
    assert re.search("draining", head.text())
    assert not head.admin_socket.exists()


def test_metrics_have_what_the_counters_have(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = HeadProcess(tmp_path / "metered", {"data": tree}, options=("--metrics", f"127.0.0.1:{port}"))

    async def main() -> None:
        async with connected(head.port, name="node17") as node:
            opened = await node.open(b"scan/file1")
            await node.read(Read(opened.handle, opened.attr.version, 0, 0, WHOLE))

    trio.run(main)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    assert f'dadafsd_read_bytes_total{{export="data",node="node17",tier="origin"}} {MIB}.0' in lines or (
        'dadafsd_read_bytes_total{export="data",node="node17",tier="origin"} 1.048576e+06' in lines
    )
    assert 'dadafsd_origin_reads_total{export="data"} 1.0' in lines
    assert 'dadafsd_tier_state{state="normal",tier="ssd"} 1.0' in lines
    assert 'dadafsd_read_seconds_count{tier="origin"} 1.0' in lines
    assert head.stop() == 0
    head.check_log(expected_log)
