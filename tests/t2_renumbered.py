"""A reboot that gives the origin's disk another device number leaves the cache warm."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import trio

from dadafs.wire.messages import Blocks, Read
from tests.checklogs import ExpectedLog
from tests.harness.disks import loop_disk
from tests.harness.node import WHOLE, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20


@pytest.mark.parametrize(("kind", "size"), [("ext4", 64), ("xfs", 320), ("btrfs", 128)])
def test_the_cache_survives_another_device_number(
    tmp_path: Path, expected_log: ExpectedLog, kind: str, size: int
) -> None:
    """XFS makes its `f_fsid` of the device number, and the number of a btrfs subvolume is in no table.

    The numbers that were free are taken meanwhile, so that the disk comes back with others.
    """
    with loop_disk(tmp_path, kind, size * MIB) as disk:
        data = bytes(range(256)) * 4096
        (disk.path / "file").write_bytes(data)
        written = (disk.path / "file").stat().st_mtime
        wait_until(lambda: time.time() > written + 0.1, "the file is older than the margin of timestamps")
        assert tier(tmp_path / "first", tmp_path / "cache", disk.path, expected_log) == "origin"
        disk.unmount()
        other = tmp_path / "other.img"
        with other.open("wb") as file:
            file.truncate(MIB)
        taken = subprocess.run(["losetup", "--find", "--show", str(other)], capture_output=True, text=True, check=True)
        spare = tmp_path / "spare"
        spare.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", str(spare)], check=True
        )  # a number without a disk, as btrfs has
        try:
            disk.mount()
            assert tier(tmp_path / "second", tmp_path / "cache", disk.path, expected_log) == "ssd"
        finally:
            disk.detach()
            subprocess.run(["umount", str(spare)], check=True)
            subprocess.run(["losetup", "--detach", taken.stdout.strip()], check=True)


def tier(directory: Path, cache: Path, tree: Path, expected: ExpectedLog) -> str:
    """Where a head that is started for this has the file from."""

    async def read() -> str:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            reply, _ = await node.read(Read(opened.handle, opened.attr.version, 0, 0, WHOLE))
            assert isinstance(reply, Blocks)
            return reply.tier

    head = HeadProcess(directory, {"data": tree}, options=("--cache-dir", str(cache)))
    try:
        return trio.run(read)
    finally:
        assert head.stop() == 0
        head.check_log(expected)
