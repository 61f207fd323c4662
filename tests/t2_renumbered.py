"""A reboot that gives the origin's disk another device number leaves the cache warm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from dadafs.wire.messages import Blocks, Read
from tests.checklogs import ExpectedLog
from tests.harness.disks import loop_disk
from tests.harness.node import connected
from tests.harness.processes import HeadProcess

MIB = 1 << 20


@pytest.mark.parametrize(("kind", "size"), [("ext4", 64), ("xfs", 320), ("btrfs", 128)])
def test_the_cache_survives_another_device_number(
    tmp_path: Path, expected_log: ExpectedLog, kind: str, size: int
) -> None:
    """XFS, for one, makes its `f_fsid` of the device number."""
    with loop_disk(tmp_path, kind, size * MIB) as disk:
        data = bytes(range(256)) * 4096
        (disk.path / "file").write_bytes(data)
        before = disk.path.stat().st_dev
        assert tier(tmp_path / "first", tmp_path / "cache", disk.path, expected_log) == "origin"
        disk.unmount()
        other = tmp_path / "other.img"
        with other.open("wb") as file:
            file.truncate(MIB)
        taken = subprocess.run(["losetup", "--find", "--show", str(other)], capture_output=True, text=True, check=True)
        try:
            disk.mount()
            assert disk.path.stat().st_dev != before or kind == "btrfs", "btrfs numbers by itself"
            assert tier(tmp_path / "second", tmp_path / "cache", disk.path, expected_log) == "ssd"
        finally:
            disk.detach()
            subprocess.run(["losetup", "--detach", taken.stdout.strip()], check=True)


def tier(directory: Path, cache: Path, tree: Path, expected: ExpectedLog) -> str:
    """Where a head that is started for this has the file from."""

    async def read() -> str:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            reply, _ = await node.read(Read(opened.handle, opened.attr.version, 0, 0, 16))
            assert isinstance(reply, Blocks)
            return reply.tier

    head = HeadProcess(directory, {"data": tree}, options=("--cache-dir", str(cache)))
    try:
        return trio.run(read)
    finally:
        assert head.stop() == 0
        head.check_log(expected)
