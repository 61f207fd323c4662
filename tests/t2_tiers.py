"""Tiers, admission and freshness as the configuration says them for each export, on a running head."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from dadafs.wire.messages import Blocks, Read
from tests.checklogs import ExpectedLog
from tests.harness.admin import Socket
from tests.harness.node import WHOLE, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on a tmpfs."""
    directory = Path(tempfile.mkdtemp(prefix="dadafs-test-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def head(tmp_path: Path, memory: Path, expected_log: ExpectedLog) -> Iterator[HeadProcess]:
    """Export `both` uses all tiers, `disk` one of them; `never.log` is not kept, `twice.h5` at its second reading."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("file", "never.log", "twice.h5"):
        (tree / name).write_bytes(os.urandom(2 * MIB))
    config = tmp_path / "dadafsd.toml"
    config.write_text(f"""
        memory = "0"
        [[export]]
        name = "both"
        directory = "{tree}"
        [[export]]
        name = "disk"
        directory = "{tree}"
        tiers = ["nvme"]
        admission = ["*.log=never", "twice*=2"]
        freshness_min = "2s"
        freshness_max = "10s"
        [[tier]]
        name = "nvme"
        directory = "{tmp_path}/nvme"
        size = "64MiB"
        [[tier]]
        name = "shm"
        kind = "ram"
        directory = "{memory}/cache"
        size = "8MiB"
    """)
    options = ("--config", str(config), "--cache-dir", "")
    written_at = (tree / "twice.h5").stat().st_mtime
    wait_until(lambda: time.time() > written_at + 0.1, "the files are older than the margin of timestamps")
    head = HeadProcess(tmp_path / "head", {}, options=options)
    yield head
    head.stop()
    head.check_log(expected_log)


@pytest.fixture
def admin(head: HeadProcess) -> Socket:
    return Socket(head.admin_socket)


def fetch(head: HeadProcess, export: str, path: bytes) -> str:
    """Read the first fragment; the kind of tier that the node is told."""

    async def main() -> str:
        async with connected(head.port, export) as node:
            opened = await node.open(path)
            reply, _ = await node.read(Read(opened.handle, opened.attr.version, 0, 0, WHOLE))
            assert isinstance(reply, Blocks)
            return reply.tier

    return trio.run(main)


def held(admin: Socket, export: str, path: str) -> dict[str, int]:
    """Bytes of a file in each tier."""
    return dict(admin.ask("cached", export=export, path=path)["tiers"])


def row(admin: Socket, export: str, tier: str) -> dict[str, Any]:
    """What `tier` did for `export`."""
    (found,) = (one for one in admin.ask("counters")["tiers"] if (one["export"], one["tier"]) == (export, tier))
    return dict(found)


def written(admin: Socket) -> None:
    wait_until(lambda: admin.ask("status")["write_queue"]["used"] == 0, "everything is written")


def test_each_export_keeps_its_fragments_where_it_says(head: HeadProcess, admin: Socket) -> None:
    assert fetch(head, "both", b"file") == "origin"
    assert fetch(head, "disk", b"file") == "origin"
    written(admin)
    assert held(admin, "both", "file").keys() == {"nvme", "shm"}
    assert min(held(admin, "both", "file").values()) > MIB
    assert held(admin, "disk", "file")["nvme"] > MIB
    assert held(admin, "disk", "file")["shm"] == 0
    assert fetch(head, "both", b"file") == "memory", "the RAM tier, as a node is told"
    assert fetch(head, "disk", b"file") == "ssd"
    assert row(admin, "both", "shm")["hit"] == 1
    assert row(admin, "both", "shm")["miss"] == 1, "the first read"
    assert row(admin, "disk", "nvme")["hit"] == 1
    assert row(admin, "both", "origin")["hit"] == 1
    exports = {export["name"]: export["tiers"] for export in admin.ask("status")["exports"]}
    assert exports == {"both": ["shm", "nvme"], "disk": ["nvme"]}


def test_an_export_has_fragments_of_the_size_that_it_says(tmp_path: Path, expected_log: ExpectedLog) -> None:
    (tmp_path / "tree").mkdir()
    content = os.urandom(MIB)
    (tmp_path / "tree" / "file").write_bytes(content)
    config = tmp_path / "dadafsd.toml"
    config.write_text(f"""
        [[export]]
        name = "small"
        directory = "{tmp_path}/tree"
        fragment_size = "256KiB"
    """)
    head = HeadProcess(tmp_path / "head", {}, options=("--config", str(config)))

    async def main() -> None:
        async with connected(head.port, "small") as node:
            assert node.welcome.fragment_size == MIB // 4
            assert await node.read_file(await node.open(b"file")) == content
        admin = Socket(head.admin_socket)
        (export,) = admin.ask("status")["exports"]
        assert export["fragment_size"] == MIB // 4
        served = sum(row["reads"] for row in admin.ask("counters")["served"])
        assert served == 4, "one read a fragment"

    try:
        trio.run(main)
    finally:
        head.stop()
    head.check_log(expected_log)


def test_a_node_is_told_which_files_only_grow(tmp_path: Path, expected_log: ExpectedLog) -> None:
    (tmp_path / "tree").mkdir()
    config = tmp_path / "grows.toml"
    config.write_text(f'[[export]]\nname = "grows"\ndirectory = "{tmp_path / "tree"}"\nappend = ["*.log", "raw/*"]\n')
    head = HeadProcess(tmp_path / "grows", {}, options=("--config", str(config)))

    async def main() -> None:
        async with connected(head.port, export="grows") as node:
            assert node.welcome.append_patterns == ["*.log", "raw/*"]

    try:
        trio.run(main)
    finally:
        head.stop()
    head.check_log(expected_log)


def test_admission_goes_by_path_and_number_of_reads(head: HeadProcess, admin: Socket) -> None:
    for _ in range(3):
        assert fetch(head, "disk", b"never.log") == "origin"
    written(admin)
    assert sum(held(admin, "disk", "never.log").values()) == 0
    assert row(admin, "disk", "origin")["bypass"] == 3
    assert fetch(head, "disk", b"twice.h5") == "origin"
    written(admin)
    assert sum(held(admin, "disk", "twice.h5").values()) == 0
    assert row(admin, "disk", "nvme")["bypass"] == 1
    assert fetch(head, "disk", b"twice.h5") == "origin"
    written(admin)
    assert fetch(head, "disk", b"twice.h5") == "ssd"
    admin.finished(admin.ask("warm", export="disk", path="never.log")["job"])
    written(admin)
    assert sum(held(admin, "disk", "never.log").values()) == 0, "never means never"


def test_warming_is_reading_often_enough(head: HeadProcess, admin: Socket) -> None:
    admin.finished(admin.ask("warm", export="disk", path="twice.h5")["job"])
    written(admin)
    assert sum(held(admin, "disk", "twice.h5").values()) > 2 * MIB


def test_a_mount_gets_the_freshness_that_the_export_allows(head: HeadProcess, admin: Socket) -> None:
    async def granted(export: str, wish: float) -> float:
        async with connected(head.port, export, freshness=wish) as node:
            (session,) = admin.ask("sessions")["sessions"]
            assert session["freshness"] == (node.welcome.freshness_ns / 1e9 or wish)
            told = node.welcome.freshness_ns / 1e9
        return told

    for export, wish, told in (("both", 1.0, 0.0), ("disk", 1.0, 2.0), ("disk", 5.0, 0.0), ("disk", 60.0, 10.0)):
        assert trio.run(granted, export, wish) == told
        wait_until(lambda: admin.ask("status")["sessions"] == 0, "the session is over")


def test_exports_are_changed_while_they_are_used(head: HeadProcess, admin: Socket) -> None:
    def setting(name: str) -> dict[str, Any]:
        return dict(admin.ask("get", name=name)["settings"][0])

    assert setting("export.disk.tiers")["value"] == "nvme"
    assert setting("export.disk.tiers")["source"].endswith("dadafsd.toml [[export]]")
    assert setting("tier.shm.kind")["value"] == "ram"
    admin.ask("set", name="export.disk.tiers", value="shm", seconds=3600)
    fetch(head, "disk", b"file")
    written(admin)
    assert held(admin, "disk", "file")["shm"] > MIB
    admin.ask("reset", name="export.disk.tiers")
    assert setting("export.disk.tiers")["value"] == "nvme"
    admin.ask("set", name="export.disk.admission", value="*=never")
    assert "there are nvme, shm" in admin.try_to("set", name="export.disk.tiers", value="hdd")["error"]
    assert setting("export.disk.tiers")["value"] == "nvme", "a mistake changes nothing"
    assert "is no rule" in admin.try_to("set", name="export.disk.admission", value="*")["error"]
    assert setting("export.disk.admission")["value"] == "*=never"
    assert "above its freshness_max" in admin.try_to("set", name="export.disk.freshness_min", value="1m")["error"]
    assert "cannot be changed" in admin.try_to("set", name="export.disk.directory", value="/")["error"]
    assert "one of both, disk" in admin.try_to("set", name="export.tape.tiers", value="")["error"]
    assert "Unknown setting" in admin.try_to("get", name="export.disk.tires")["error"]


def test_a_ram_tier_on_a_disk_is_refused(tmp_path: Path) -> None:
    """Where the temporary directory is a tmpfs itself, /proc is not."""
    tree = tmp_path / "tree"
    tree.mkdir()
    config = tmp_path / "dadafsd.toml"
    config.write_text('[[tier]]\nname = "shm"\nkind = "ram"\ndirectory = "/proc/cache"\nsize = "8MiB"\n')
    with pytest.raises(AssertionError, match=r"not in memory: mount a tmpfs there"):
        HeadProcess(tmp_path / "head", {"data": tree}, options=("--config", str(config), "--cache-dir", ""))
