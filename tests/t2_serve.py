"""A head and a scripted node over real sockets: what is served is what is in the tree."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dadafs.checksum import checksum
from dadafs.wire.messages import (
    BLOCK_SIZE,
    Blocks,
    Changed,
    Entry,
    Read,
    Resolve,
    Statfs,
    StatfsReply,
    Version,
    Xattrs,
    XattrsReply,
)
from tests.checklogs import ExpectedLog
from tests.harness.node import WHOLE, NodeFailed, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's tree and head live: one head serves all tests, each with a tree that it finds empty."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture
def tree(folder: Path) -> Path:
    for path in (folder / "tree").iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder / "tree"


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[HeadProcess]:
    (folder / "tree").mkdir()
    head = HeadProcess(folder / "head", {"data": folder / "tree"})
    yield head
    head.stop()
    head.check_log(ExpectedLog())


def settle(path: Path) -> None:
    """Wait until the file's timestamps prove its version."""
    wait_until(lambda: time.time_ns() - path.stat().st_ctime_ns > 50_000_000, "file older than the margin")


def fill(path: Path, size: int, seed: int = 1) -> bytes:
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    settle(path)
    return data


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK_SIZE, BLOCK_SIZE + 1, MIB - 1, MIB, 3 * MIB + 12345])
def test_whole_files_arrive(head: HeadProcess, tree: Path, size: int) -> None:
    data = fill(tree / "file", size)

    async def main() -> None:
        async with connected(head.port) as node:
            for _ in range(2):
                opened = await node.open(b"file")
                assert opened.attr.size == size
                assert await node.read_file(opened) == data

    trio.run(main)


def test_a_small_file_comes_with_its_open(head: HeadProcess, tree: Path) -> None:
    data = fill(tree / "small", 1000)

    async def main() -> None:
        async with connected(head.port) as node:
            from dadafs.wire.messages import Open, Opened

            for _ in range(2):
                opened, payload = await node.ask(Open(b"small"), Opened)
                assert opened.inline
                assert opened.settled
                assert payload == data
                assert opened.checksum == checksum(data)

    trio.run(main)


def test_attributes_are_those_of_lstat(head: HeadProcess, tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "dir" / "file").write_text("x")
    (tree / "link").symlink_to("dir/../anywhere")
    os.mkfifo(tree / "fifo")

    async def main() -> None:
        async with connected(head.port) as node:
            for name in ("", "dir", "dir/file", "link", "fifo"):
                entry = await node.stat(name.encode())
                real = (tree / name).lstat()
                assert entry.attr is not None
                assert entry.attr.ino == real.st_ino
                assert entry.attr.mode == real.st_mode
                assert entry.attr.mtime_ns == real.st_mtime_ns
                assert entry.attr.nlink == real.st_nlink
            assert (await node.stat(b"link")).target == b"dir/../anywhere"
            assert (await node.stat(b"missing")).attr is None
            assert (await node.stat(b"dir/file/below")).attr is None

    trio.run(main)


def test_a_large_directory_is_one_snapshot(head: HeadProcess, tree: Path) -> None:
    names = {b"n%05d" % i for i in range(9000)} | {b"new\nline", b"\xff\xfe"}
    for name in names:
        os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    os.symlink("n00001", tree / "link")

    async def main() -> None:
        async with connected(head.port) as node:
            attr, items = await node.list_all(b"")
            assert stat.S_ISDIR(attr.mode)
            assert {item.name for item in items} == names | {b"link"}
            assert len(items) == len(names) + 1
            assert next(item.target for item in items if item.name == b"link") == b"n00001"

    trio.run(main)


def test_known_blocks_are_not_sent_again(head: HeadProcess, tree: Path) -> None:
    data = fill(tree / "file", 5 * BLOCK_SIZE + 7)

    async def main() -> None:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            whole = Read(opened.handle, opened.attr.version, 0, 0, WHOLE)
            first, payload = await node.read(whole)
            assert isinstance(first, Blocks)
            assert payload == data
            known = list(first.checksums)
            known[1] ^= 1
            known[5] = 0
            for _ in range(2):
                again, payload = await node.read(Read(opened.handle, opened.attr.version, 0, 0, WHOLE, known))
                assert isinstance(again, Blocks)
                assert again.sent == 0b100010
                assert payload == data[BLOCK_SIZE : 2 * BLOCK_SIZE] + data[5 * BLOCK_SIZE :]

    trio.run(main)


def test_a_changed_file_says_so_instead_of_mixing(head: HeadProcess, tree: Path) -> None:
    fill(tree / "file", 3 * MIB)

    async def main() -> None:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            new = fill(tree / "file", 2 * MIB, seed=2)
            reply, _ = await node.read(Read(opened.handle, opened.attr.version, 1, 0, WHOLE))
            assert isinstance(reply, Changed)
            assert reply.attr.size == 2 * MIB
            assert reply.attr.ino == opened.attr.ino
            entry, _ = await node.ask(Resolve(opened.handle), Entry)
            assert entry.attr is not None
            assert entry.attr.version == reply.attr.version
            reply, payload = await node.read(Read(opened.handle, reply.attr.version, 1, 0, WHOLE))
            assert payload == new[MIB:]

    trio.run(main)


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_handle_reads_the_file_it_opened(head: HeadProcess, tree: Path, how: str) -> None:
    data = fill(tree / "file", 2 * MIB)

    async def main() -> None:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            if how == "replaced":
                (tree / "other").write_bytes(b"y" * 4 * MIB)
                (tree / "other").rename(tree / "file")
            else:
                (tree / "file").unlink()
            entry, _ = await node.ask(Resolve(opened.handle), Entry)
            assert entry.attr is not None
            _, payload = await node.read(Read(opened.handle, entry.attr.version, 0, 0, WHOLE))
            assert payload == data[:MIB]
            with pytest.raises(NodeFailed) as caught:
                await node.open(b"file", expect=(opened.attr.dev, opened.attr.ino))
            assert caught.value.errno == (errno.ESTALE if how == "replaced" else errno.ENOENT)

    trio.run(main)


def test_only_regular_files_are_opened(head: HeadProcess, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "dir").mkdir()
    (tree / "link").symlink_to("fifo")

    async def main() -> None:
        async with connected(head.port) as node:
            for name, code in ((b"fifo", errno.ENXIO), (b"dir", errno.EISDIR), (b"link", errno.ELOOP)):
                with pytest.raises(NodeFailed) as caught:
                    await node.open(name)
                assert caught.value.errno == code

    trio.run(main)


def test_a_link_out_of_the_tree_is_text_only(head: HeadProcess, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    (tree / "out").symlink_to("../secret")
    (tree / "absolute").symlink_to(tmp_path / "secret")
    (tree / "magic").symlink_to("/proc/self/root")

    async def main() -> None:
        async with connected(head.port) as node:
            for path in (b"out/file", b"absolute/file", b"magic/etc/passwd"):
                assert (await node.stat(path)).attr is None
                with pytest.raises(NodeFailed):
                    await node.open(path)
            for path in (b"../secret/file", b"/etc/passwd", b"out/../../secret/file", b"a//b", b"."):
                with pytest.raises(NodeFailed) as caught:
                    await node.stat(path)
                assert caught.value.errno == errno.EINVAL

    trio.run(main)


def test_xattrs_and_statfs(head: HeadProcess, tree: Path) -> None:
    (tree / "file").write_text("x")
    try:
        os.setxattr(tree / "file", "user.colour", b"blue")
    except OSError:
        pytest.skip("no user attributes on this file system")

    async def main() -> None:
        async with connected(head.port) as node:
            reply, _ = await node.ask(Xattrs(b"file"), XattrsReply)
            assert reply.values == {b"user.colour": b"blue"}
            space, _ = await node.ask(Statfs(), StatfsReply)
            assert space.blocks == os.statvfs(tree).f_blocks

    trio.run(main)


def test_foreign_handles_and_versions_are_refused(head: HeadProcess, tree: Path) -> None:
    fill(tree / "mine", 10)
    fill(tree / "other", 10)

    async def main() -> None:
        async with connected(head.port) as node, connected(head.port) as stranger:
            mine = await node.open(b"mine")
            other = await stranger.open(b"other")
            with pytest.raises(NodeFailed) as caught:
                await node.read(Read(other.handle, other.attr.version, 0, 0, 1))
            assert caught.value.errno == errno.ESTALE
            with pytest.raises(NodeFailed) as caught:
                await node.read(Read(mine.handle, other.attr.version, 0, 0, 1))
            assert caught.value.errno == errno.ESTALE
            impossible = Version(*mine.attr.version.identity, 2**63 - 1, 2**63, 0)
            with pytest.raises(NodeFailed) as caught:
                await node.read(Read(mine.handle, impossible, 40, 0, WHOLE))
            assert caught.value.errno == errno.EINVAL
            for fragment, first, count in ((1, 0, 1), (0, 1, 1), (0, 0, 0), (0, -1, 1), (-1, 0, 1), (0, 0, 5000)):
                with pytest.raises(NodeFailed) as caught:
                    await node.read(Read(mine.handle, mine.attr.version, fragment, first, count))
                assert caught.value.errno == errno.EINVAL

    trio.run(main)


def test_a_restarted_head_uses_its_cache_again(tmp_path: Path, expected_log: ExpectedLog) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    data = fill(tree / "file", 3 * MIB)

    async def read() -> set[str]:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            tiers = set()
            for fragment in range(3):
                reply, payload = await node.read(Read(opened.handle, opened.attr.version, fragment, 0, WHOLE))
                assert isinstance(reply, Blocks)
                assert payload == data[fragment * MIB : (fragment + 1) * MIB]
                tiers.add(reply.tier)
            return tiers

    options = ("--cache-dir", str(tmp_path / "cache"))
    head = HeadProcess(tmp_path / "first", {"data": tree}, options=options)
    assert trio.run(read) == {"origin"}
    assert trio.run(read) == {"memory"}
    assert head.stop() == 0
    head.check_log(expected_log)
    head = HeadProcess(tmp_path / "second", {"data": tree}, options=options)
    assert trio.run(read) == {"ssd"}
    assert head.stop() == 0
    head.check_log(expected_log)


def test_data_channels_end_with_their_session(head: HeadProcess, tree: Path) -> None:
    fill(tree / "file", 10)

    async def main() -> None:
        async with connected(head.port) as node:
            await node.open(b"file")
            node.control.close()
            with trio.fail_after(60):
                while node.data.closed is None:
                    await trio.sleep(0.01)

    trio.run(main)
