"""Fault: the disk below a local origin hangs. What the kernel and the cache have is served, the rest fails in time."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dadafs.wire.messages import BLOCK_SIZE, Blocks, Entry, Open, Opened, Read, Stat
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.disks import loop_disk
from tests.harness.moody_origin import MoodyOrigin, moody_origin
from tests.harness.node import Node, NodeFailed, connected
from tests.harness.places import answers_from_memory
from tests.harness.processes import HeadProcess

MIB = 1 << 20
CACHED, UNREAD = os.urandom(2 * MIB), os.urandom(8 * MIB)


@contextlib.contextmanager
def disk_with_moods(folder: Path) -> Iterator[tuple[Path, MoodyOrigin]]:
    """An ext4, mounted from an image that lies on a file system which hangs on command."""
    source = folder / "source"
    source.mkdir()
    with loop_disk(folder, "ext4", 64 * MIB) as disk:
        (disk.path / "dir").mkdir()
        (disk.path / "dir/cached").write_bytes(CACHED)
        (disk.path / "dir/small").write_bytes(b"small")
        (disk.path / "unread").write_bytes(UNREAD)
        for number in range(200):  # so many that their entries are in no block that was read for another name
            (disk.path / f"far/{number}").mkdir(parents=True)
        disk.unmount()
        os.link(disk.image, source / "image")
    place = folder / "disk"
    place.mkdir()
    with moody_origin(folder, source) as origin:
        mounting = ["mount", "-t", "ext4", "-o", "ro,noload,loop", str(origin.path / "image"), str(place)]
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine cannot mount an image from FUSE: {done.stderr.strip()}")
        try:
            yield place, origin
        finally:
            origin.feel("")
            subprocess.run(["umount", str(place)], check=False, capture_output=True)


async def look(node: Node, warm: Opened) -> None:
    """What must be answered whatever the disk does."""
    assert (await node.ask(Stat(b"dir/small"), Entry))[0].attr is not None
    assert (await node.ask(Open(b"dir/small"), Opened))[1] == b"small"
    for fragment in range(2):
        reply, data = await node.read(Read(warm.handle, warm.attr.version, fragment, 0, MIB // BLOCK_SIZE))
        assert isinstance(reply, Blocks)
        assert data == CACHED[fragment * MIB : (fragment + 1) * MIB]


async def ask_for_names(node: Node) -> None:
    """Names that may be on the disk only."""
    for number in range(0, 200, 80):
        with contextlib.suppress(NodeFailed):
            await node.stat(b"far/%d/name" % number)


def test_a_disk_that_hangs_takes_neither_the_loop_nor_what_is_cached_along(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    need_fuse()
    expected_log.add(r"did not answer in time|all calls to .* hang")

    async def main(head: HeadProcess, origin: MoodyOrigin) -> None:
        async with connected(head.port) as node:
            warm = await node.open(b"dir/cached")
            cold = await node.open(b"unread")
            await look(node, warm)
            origin.feel("hang")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_for_names, node)
                nursery.start_soon(look, node, warm)  # while the others wait
                with pytest.raises(NodeFailed) as caught:
                    await node.read(Read(cold.handle, cold.attr.version, 6, 0, MIB // BLOCK_SIZE))
            assert caught.value.errno == errno.EIO
            await look(node, warm)
            origin.feel("")
            _, data = await node.read(Read(cold.handle, cold.attr.version, 7, 0, MIB // BLOCK_SIZE))
            assert data == UNREAD[7 * MIB :]

    with disk_with_moods(tmp_path) as (place, origin):
        assert answers_from_memory(place)
        (tmp_path / "dadafsd.toml").write_text(f'[[export]]\nname = "data"\ndirectory = "{place}"\ndeadline = "5s"\n')
        head = HeadProcess(tmp_path / "head", {}, options=("--config", str(tmp_path / "dadafsd.toml")))
        try:
            trio.run(main, head, origin)
        finally:
            origin.feel("")
            head.stop()
        head.check_log(expected_log)
