"""What the head answers in its loop: the same as in a thread, from memory, never where it might have to wait."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dadafs.checksum import checksum
from dadafs.wire.messages import Entry, Identities, Message, Open, Opened, Read, Release, Stat
from dadafsd import filesystem
from dadafsd.counters import Counters
from dadafsd.export import Export
from dadafsd.exported import Exported, ExportOptions, assemble
from dadafsd.policy.recent import Recent
from dadafsd.replies import Reply
from dadafsd.service import Service
from dadafsd.sessions import Session, Sessions
from tests.harness.places import answers_from_memory, from_memory
from tests.harness.processes import wait_until


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    with from_memory(tmp_path) as place:
        yield place


class Bench:
    """An export's parts with one session, in the running loop."""

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        self.service = Service(Sessions(), exported.counters)
        self.session = Session(1, "node", "", exported, 1.0, 30.0)
        self.service.open_session(self.session)

    def at_hand(self, request: Message) -> Any:
        """What the loop answers at once, None where it does not."""
        reply = self.service.at_hand(self.session, request)
        return None if reply is None else reply.message

    async def ask(self, request: Message) -> Any:
        """What is answered in the end."""
        reply = await self.service.answer(self.session, request)
        assert reply is not None
        return reply.message


def in_loop(tree: Path, body: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            counters = Counters()
            chosen = ExportOptions(**options)
            bench = Bench(assemble(Export("data", tree), chosen, Recent(1 << 20), None, counters, nursery))
            with trio.fail_after(60):
                await body(bench)
            nursery.cancel_scope.cancel()

    trio.run(main)


@contextmanager
def without_threads(exported: Exported) -> Iterator[None]:
    """A call into the origin in a thread is an error of the test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exported.pool, "run", None)
        yield


def test_the_kernel_is_asked_for_what_it_has_in_memory_only(tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "dir/file").write_bytes(b"inside")
    (tree / "link").symlink_to("dir")
    export = Export("data", tree)
    for path in (b"", b"dir", b"dir/file"):
        assert export.lstat(path, wait=False) == export.lstat(path)
    opened, attr = export.open_file(b"dir/file", wait=False)
    assert os.pread(opened.fd, 10, 0) == b"inside"
    assert attr.ino == (tree / "dir/file").stat().st_ino
    for path in (b"a name that nobody has asked for", b"link", b"link/file", b"../x", b"dir/file/below"):
        with pytest.raises(BlockingIOError):
            export.lstat(path, wait=False)
    with pytest.raises(IsADirectoryError):
        export.open_file(b"dir", wait=False)


def test_below_another_mount_nothing_is_looked_at(tree: Path) -> None:
    if not answers_from_memory("/dev") or not os.path.ismount("/dev/shm"):
        pytest.skip("/dev/shm is no mount of its own below /dev")
    export = Export("dev", Path("/dev"))
    assert export.lstat(b"null", wait=False) == export.lstat(b"null")
    with pytest.raises(BlockingIOError):
        export.lstat(b"shm", wait=False)


@pytest.mark.parametrize("magic", [0x6969, 0x65735546, 0x794C7630, 0], ids=["nfs", "fuse", "overlay", "unknown"])
def test_other_file_systems_are_never_asked_in_the_loop(
    tree: Path, magic: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "kind", lambda place: magic)
    export = Export("data", tree)
    monkeypatch.setattr("dadafsd.export.open_at_once", None)
    with pytest.raises(BlockingIOError):
        export.lstat(b"", wait=False)


def test_the_loop_never_looks_where_its_threads_are_somebody_else(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dadafsd.exported.become_user", lambda user, group: None)
    monkeypatch.setattr("dadafsd.exported.can_become", lambda become: True)
    (tree / "file").write_bytes(b"content")

    async def body(bench: Bench) -> None:
        await bench.ask(Stat(b"file"))
        assert bench.at_hand(Stat(b"file")) is None
        assert bench.at_hand(Open(b"file")) is None

    in_loop(tree, body, identities=Identities(all_squash=True))


def test_known_names_and_small_files_need_no_thread(tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "dir/small").write_bytes(b"content")
    (tree / "dir/gone").write_bytes(b"")
    changed = (tree / "dir/small").stat().st_ctime_ns
    wait_until(lambda: time.time_ns() - changed > 50_000_000, "its timestamps prove its version")

    async def body(bench: Bench) -> None:
        assert bench.at_hand(Stat(b"dir/small")) is None, "no watch is there yet"
        first = await bench.ask(Stat(b"dir/small"))
        with without_threads(bench.exported):
            assert bench.at_hand(Stat(b"dir/small")) == first
            assert first.leased
            assert bench.at_hand(Stat(b"dir/small", lease=False)) == Entry(first.attr)
            reply = bench.service.at_hand(bench.session, Open(b"dir/small"))
            assert isinstance(reply, Reply)
            opened = reply.message
            assert isinstance(opened, Opened)
            assert (opened.attr, opened.leased, opened.inline) == (first.attr, True, True)
            assert b"".join(reply.buffers) == b"content"
            assert opened.checksum == checksum(b"content")
            read = bench.at_hand(Read(opened.handle, opened.attr.version, 0, 0, 1))
            assert read.tier == "memory"
            bench.at_hand(Release([opened.handle]))
            assert len(bench.exported.files) == 0
        assert bench.exported.counters.requests["data", "Stat"] == 3
        assert bench.exported.counters.origin["data", "reads"] == 1

    in_loop(tree, body)


def test_a_directory_is_leased_only_with_a_watch_of_its_own(tree: Path) -> None:
    (tree / "dir/below").mkdir(parents=True)

    async def body(bench: Bench) -> None:
        await bench.ask(Stat(b"dir/name"))
        assert bench.at_hand(Stat(b"dir/below")) is None
        first = await bench.ask(Stat(b"dir/below"))
        assert first.leased
        assert bench.at_hand(Stat(b"dir/below")) == first

    in_loop(tree, body)


def test_a_change_that_follows_is_pushed(tree: Path) -> None:
    (tree / "file").write_bytes(b"before")

    async def body(bench: Bench) -> None:
        await bench.ask(Stat(b"file"))
        assert bench.at_hand(Stat(b"file")).attr.size == 6
        (tree / "file").write_bytes(b"and after")
        pushed = trio.Event()

        async def push(message: Any) -> None:
            if any(change.path == b"file" and change.attr.size == 9 for change in message.changes):
                pushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.session.outbox.empty_into, push)
            await pushed.wait()
            nursery.cancel_scope.cancel()
        assert bench.at_hand(Stat(b"file")).attr.size == 9

    in_loop(tree, body)


def test_errors_and_polled_exports_are_left_to_the_threads(tree: Path) -> None:
    (tree / "file").write_bytes(b"content")

    async def body(bench: Bench) -> None:
        await bench.ask(Stat(b"file"))
        attr = bench.exported.export.lstat(b"file")[0]
        other = (attr.dev, attr.ino + 1)
        for request in (Stat(b"../file"), Open(b"file", other), Open(b""), Read(7, attr.version, 0, 0, 1)):
            assert bench.at_hand(request) is None
        assert len(bench.exported.files) == 0

    in_loop(tree, body)

    async def polled(bench: Bench) -> None:
        await bench.ask(Stat(b"file"))
        assert bench.at_hand(Stat(b"file")) is None

    in_loop(tree, polled, watch="poll")
