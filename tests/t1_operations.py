"""What the calls mean, without a kernel and without a head: who is asked, what is believed, what the kernel hears."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dadafs.counters import Counters
from dadafs.explain import Explainer
from dadafs.held import Held
from dadafs.kernel_cache import Told
from dadafs.operations import Operations
from dadafs.policy.prefetch import Streams
from dadafs.pushes import Pushes
from dadafs.ram_cache import RamCache
from dadafs.remote_file import RemoteFile, RemoteFiles
from dadafs.tree import Tree
from tests.harness.fake_session import FakeSession

ROOT = 1


#: The thread that has the kernel ask.
OWN_THREAD = 7


class FakeKernel:
    """Notes what it is told to forget."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.sizes: list[int] = []
        self.askers = {OWN_THREAD}
        self.on_look: Callable[[], Awaitable[object]] | None = None
        self.on_list: Callable[[bytes], Awaitable[object]] | None = None

    def entry(self, parent: int, name: bytes) -> None:
        self.told.append(("entry", parent, name))

    def attributes(self, node_id: int) -> None:
        self.told.append(("attributes", node_id))

    def pages(self, node_id: int) -> None:
        self.told.append(("pages", node_id))

    async def attributes_now(self, node_id: int) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(("attributes now", node_id))

    async def pages_now(self, node_id: int) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(("pages now", node_id))

    async def size_of(self, path: bytes) -> int | None:
        await trio.lowlevel.checkpoint()
        return self.sizes.pop(0) if self.sizes else None

    async def list(self, path: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(("list", path))
        if self.on_list is not None:
            await self.on_list(path)

    async def look(self, path: bytes) -> None:
        self.told.append(("look", path))
        if self.on_look is None:
            await trio.sleep(1)
        else:
            await self.on_look()

    def start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        trio.lowlevel.spawn_system_task(task, *arguments)


class FakeReader:
    """Reads the tree itself, in the state the remote file believes in."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def open_streams(self, file: RemoteFile) -> Streams | None:
        return None

    def close_streams(self, file: object, streams: Streams | None) -> None:
        pass

    def read_at_once(self, file: RemoteFile, streams: object, offset: int, length: int) -> None:
        return None

    async def read(self, file: RemoteFile, streams: object, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        with open(os.path.join(os.fsencode(self.tree), file.path), "rb") as content:
            content.seek(offset)
            return content.read(min(length, max(0, file.size - offset)))


class Bench:
    """Operations over a plain directory."""

    def __init__(self, tree: Path, **options: Any) -> None:
        self.tree = tree
        self.session: Any = FakeSession(tree, **options)
        self.kernel = FakeKernel()
        counters = Counters()
        cache = RamCache(64 << 20)
        files = RemoteFiles(self.session, cache, counters)
        nodes = Tree(self.session.welcome.root, self.session.leases, cache, asked_at=self.session.now())
        reader: Any = FakeReader(tree)
        self.operations = Operations(self.session, nodes, files, reader, self.kernel, counters)
        generation, open_files = lambda: self.session.generation, self.operations.open_files
        pushes = Pushes(nodes, self.kernel, self.session.now, generation, open_files)
        self.session.on_changes(pushes.received)
        files.on_change(self.operations.file_changed)
        self.explainer = Explainer(self.operations, head="head:1", export="data")

    @property
    def asked(self) -> int:
        """How many requests went to the head so far."""
        return sum(self.session.asked.values())

    async def lookup(self, name: str, parent: int = ROOT) -> Told:
        encoded = os.fsencode(name)
        return self.operations.lookup_known(parent, encoded) or await self.operations.lookup(parent, encoded)

    async def getattr(self, node_id: int) -> Told:
        return self.operations.getattr_known(node_id) or await self.operations.getattr(node_id)

    async def open(self, node_id: int) -> tuple[int, bool]:
        return self.operations.open_known(node_id, os.O_RDONLY) or await self.operations.open(node_id, os.O_RDONLY)

    async def listdir(self, node_id: int = ROOT, chunk: int = 2) -> list[bytes]:
        """All names, fetched a few at a time as the kernel does; `.` and `..` left out."""
        directories = self.operations.directories
        handle = await directories.opendir(node_id)
        names = await self.names(handle, chunk=chunk)
        directories.releasedir(handle)
        return names

    async def shown(self, path: bytes) -> None:
        """What the kernel does that is to list the directory at `path`."""
        node_id = ROOT
        for name in filter(None, path.split(b"/")):
            node_id = (await self.lookup(os.fsdecode(name), node_id)).id
        await self.listdir(node_id)

    async def names(self, handle: int, chunk: int = 2) -> list[bytes]:
        names: list[bytes] = []
        cookie = 0
        while True:
            got: list[tuple[bytes, int]] = []

            def emit(name: bytes, told: Told, following: int, got: list[tuple[bytes, int]] = got) -> bool:
                if len(got) == chunk:
                    return False
                got.append((name, following))
                return True

            await self.operations.directories.readdir(handle, cookie, emit)
            if not got:
                return [name for name in names if name not in {b".", b".."}]
            names += [name for name, _ in got]
            cookie = got[-1][1]


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on trio's mock clock."""

    @functools.wraps(test)
    def run(tmp_path: Path, **fixtures: Any) -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(functools.partial(test, tmp_path, **fixtures), clock=clock)

    return run


@in_trio
async def test_a_leased_file_is_looked_up_opened_and_closed_without_a_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    bench = Bench(tmp_path)
    told = await bench.lookup("a")
    handle, _ = await bench.open(told.id)
    bench.operations.release(handle)
    before = bench.asked
    for _ in range(20):
        await trio.sleep(0.9)
        bench.session.keepalive()
        again = bench.operations.lookup_known(ROOT, b"a")
        assert again is not None
        opened = bench.operations.open_known(again.id, os.O_RDONLY)
        assert opened is not None
        assert opened[1] is True
        assert bench.operations.getattr_known(again.id) is not None
        bench.operations.release(opened[0])
    assert bench.asked == before


@in_trio
async def test_pages_that_may_be_of_an_earlier_state_are_not_kept(tmp_path: Path) -> None:
    """Read while the file's times could not prove its state: the next open drops them, once it can be proved, too."""
    (tmp_path / "a").write_bytes(b"content")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    handle, _ = await bench.open(node)
    file = bench.operations._handles[handle].file
    kept = []
    for settled in (True, False, False, True, True):
        file.settled = settled
        second, keep = await bench.open(node)
        assert bench.operations._handles[second].file is file
        kept.append(keep)
        bench.operations.release(second)
    assert kept == [True, False, False, False, True]


@in_trio
async def test_a_leased_absence_needs_no_round_trip_either(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert (await bench.lookup("none")).id == 0
    before = bench.asked
    await trio.sleep(5)
    bench.session.keepalive()
    assert bench.operations.lookup_known(ROOT, b"none") is not None
    assert bench.asked == before


@in_trio
async def test_without_a_lease_the_head_is_asked_once_per_freshness(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    bench = Bench(tmp_path, leased=False)
    for _ in range(11):
        await bench.lookup("a")
        await trio.sleep(0.11)
    assert bench.asked == 2


@in_trio
async def test_the_kernel_may_believe_for_what_is_left_of_freshness(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    bench = Bench(tmp_path, leased=False)
    assert (await bench.lookup("a")).timeout == pytest.approx(0.9, abs=0.01)
    await trio.sleep(0.5)
    assert (await bench.lookup("a")).timeout == pytest.approx(0.4, abs=0.01)
    await trio.sleep(0.45)
    assert (await bench.lookup("a")).timeout == 0


@in_trio
async def test_one_listing_answers_for_everything_in_it(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"f{number}").write_bytes(b"x" * number)
    bench = Bench(tmp_path)
    assert await bench.listdir() == [b"f%d" % number for number in range(10)]
    assert bench.session.asked == {"list": 1}
    for number in range(10):
        told = await bench.lookup(f"f{number}")
        assert told.fields is not None
        assert told.fields[7] == number
        assert (await bench.getattr(told.id)).fields == told.fields
    assert (await bench.lookup("none")).id == 0
    assert bench.asked == 1


@in_trio
async def test_an_open_directory_is_one_snapshot(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / name).write_bytes(b"")
    bench = Bench(tmp_path)
    handle = await bench.operations.directories.opendir(ROOT)
    await trio.sleep(0.1)
    os.unlink(tmp_path / "f")
    (tmp_path / "g").write_bytes(b"")
    bench.session.push("f", "g")
    assert await bench.names(handle) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert await bench.names(handle) == [b"a", b"b", b"c", b"d", b"e", b"g"], "rewinddir sees the present"
    assert await bench.listdir() == [b"a", b"b", b"c", b"d", b"e", b"g"]
    assert bench.session.asked["list"] == 1


@in_trio
async def test_forgetting_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number in range(20):
        (tmp_path / "d" / str(number)).write_bytes(b"")
    bench = Bench(tmp_path)
    folder = (await bench.lookup("d")).id
    counts: dict[int, int] = {folder: 1}
    for _ in range(2):
        for name in await bench.listdir(folder, chunk=7):
            told = await bench.lookup(os.fsdecode(name), folder)
            counts[told.id] = counts.get(told.id, 0) + 2
    handle, _ = await bench.open(told.id)
    bench.operations.release(handle)
    bench.operations.forget(list(counts.items()))
    statistics = bench.operations.statistics()
    assert statistics["nodes"] == 1
    assert statistics["listed_nodes"] == 0


@in_trio
async def test_pages_dropped_for_one_state_are_not_those_of_the_next(tmp_path: Path) -> None:
    """A file that goes on while it is opened: whoever opens it drops the rest himself, but nobody knows when."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 5000)
    bench = Bench(tmp_path)
    node = (await bench.lookup("file")).id
    await bench.open(node)
    path.write_bytes(b"a" * 6000)
    bench.session.push("file")
    drop, states = bench.kernel.pages_now, [7000]

    async def drop_and_change(node_id: int) -> None:
        await drop(node_id)
        if states:
            path.write_bytes(b"a" * states.pop())
            bench.session.push("file")

    bench.kernel.pages_now = drop_and_change  # type: ignore[method-assign]
    await bench.open(node)
    bench.kernel.told.clear()
    told = await bench.getattr(node)
    assert told.fields is not None
    assert told.fields[7] == 7000
    assert ("pages now", node) in bench.kernel.told, "before it is told of the size that it did not hear of"


@in_trio
async def test_a_change_in_place_drops_the_pages_and_is_reread(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    handle, _ = await bench.open(node)
    (tmp_path / "a").write_bytes(b"newer")
    bench.session.push("a")
    assert ("pages", node) in bench.kernel.told
    assert await bench.operations.read(handle, 0, 5) == b"newer"
    bench.kernel.told.clear()
    second, keep = await bench.open(node)
    assert bench.kernel.told == [("pages now", node)]
    assert keep is False
    bench.operations.release(handle)
    bench.operations.release(second)
    _, keep = await bench.open(node)
    assert keep is True


@in_trio
async def test_growth_is_told_only_after_the_pages_are_gone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    await bench.open(node)
    (tmp_path / "a").write_bytes(b"12")
    bench.session.push("a")
    assert bench.operations.getattr_known(node) is None
    bench.kernel.told.clear()
    told = await bench.operations.getattr(node)
    assert told.fields is not None
    assert told.fields[7] == 2
    assert bench.kernel.told == [("pages now", node)]


@in_trio
async def test_a_listing_does_not_tell_growth_to_a_reader(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    await bench.open(node)
    (tmp_path / "a").write_bytes(b"12")
    bench.session.push("a")
    seen: list[Told] = []
    handle = await bench.operations.directories.opendir(ROOT)
    await bench.operations.directories.readdir(handle, 2, lambda name, told, cookie: seen.append(told) or True)
    assert seen[0].fields is not None
    assert seen[0].fields[7] == 1
    assert seen[0].timeout == 0


async def opened_and_cut(tree: Path) -> tuple[Bench, int, int]:
    """A file `a` of 100 bytes that was opened and then cut to 10: the bench, the node and the handle."""
    (tree / "a").write_bytes(b"x" * 100)
    bench = Bench(tree)
    node = (await bench.lookup("a")).id
    handle, _ = await bench.open(node)
    os.truncate(tree / "a", 10)
    bench.session.push("a")
    return bench, node, handle


@in_trio
async def test_a_cut_is_told_before_a_short_reply(tmp_path: Path) -> None:
    bench, node, handle = await opened_and_cut(tmp_path)

    async def look() -> None:
        await bench.operations.getattr(node, OWN_THREAD)

    bench.kernel.on_look = look
    bench.kernel.sizes = [100, 100, 10]  # it takes in what it was told only after a while
    assert await bench.operations.read(handle, 0, 100) == b"x" * 10
    assert ("look", b"a") in bench.kernel.told
    assert bench.kernel.sizes == []


@in_trio
async def test_a_kernel_that_never_asks_gets_no_short_reply(tmp_path: Path) -> None:
    bench, _, handle = await opened_and_cut(tmp_path)
    with pytest.raises(OSError) as late:
        await bench.operations.read(handle, 0, 100)
    assert late.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("size", [50, 200])
@in_trio
async def test_a_file_that_grows_again_while_its_cut_is_told_is_read_anew(tmp_path: Path, size: int) -> None:
    bench, node, handle = await opened_and_cut(tmp_path)

    async def look() -> None:
        await bench.operations.getattr(node, OWN_THREAD)
        (tmp_path / "a").write_bytes(b"y" * size)
        bench.session.push("a")

    bench.kernel.on_look = look
    bench.kernel.sizes = [size] * 100  # never as small as the cut was
    assert await bench.operations.read(handle, 0, 100) == (b"y" * size)[:100]


@in_trio
async def test_a_cut_file_may_go_while_the_kernel_is_made_to_ask(tmp_path: Path) -> None:
    """What makes it ask runs in the background of the mount, and would take the mount with it."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(b"x" * 100)
    bench = Bench(tmp_path)
    node = (await bench.lookup("a", (await bench.lookup("d")).id)).id
    await bench.open(node)
    os.truncate(tmp_path / "d/a", 10)
    bench.session.push("d/a")

    async def look() -> None:
        await bench.operations.getattr(node, OWN_THREAD)
        if (tmp_path / "d").exists():
            (tmp_path / "d").rename(tmp_path / "e")
            bench.session.push("d")
        await trio.sleep(0.1)

    bench.kernel.on_look = look
    bench.kernel.sizes = [100] * 100  # it believes in the old size all the time
    entry = bench.operations.tree.node(node)
    assert await bench.operations.truncation.carried_out(entry)
    with pytest.raises(OSError, match="Stale"):
        bench.operations.tree.path_of(node)


@in_trio
async def test_another_file_under_the_name_is_another_node(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    bench = Bench(tmp_path)
    old = (await bench.lookup("a")).id
    handle, _ = await bench.open(old)
    await bench.operations._handles[handle].file.handle(trio.current_time() + 1)
    (tmp_path / "b").write_bytes(b"other")
    os.rename(tmp_path / "b", tmp_path / "a")
    bench.session.push("a")
    assert ("entry", ROOT, b"a") in bench.kernel.told
    new = (await bench.lookup("a")).id
    assert new != old
    assert (await bench.getattr(old)).fields is not None, "it is open"
    bench.operations.release(handle)
    with pytest.raises(OSError) as stale:
        await bench.getattr(old)
    assert stale.value.errno == errno.ESTALE


@in_trio
async def test_an_unleased_replacement_is_found_out_on_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    bench = Bench(tmp_path, leased=False)
    old = (await bench.lookup("a")).id
    (tmp_path / "b").write_bytes(b"other")
    os.rename(tmp_path / "b", tmp_path / "a")
    await trio.sleep(2)
    with pytest.raises(OSError) as stale:
        await bench.open(old)
    assert stale.value.errno == errno.ESTALE, "the kernel then looks the name up again"


@in_trio
async def test_writing_opens_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        assert bench.operations.open_known(node, flags) is None
        with pytest.raises(OSError) as refused:
            await bench.operations.open(node, flags)
        assert refused.value.errno == errno.EROFS


@in_trio
async def test_a_renamed_directory_takes_its_beliefs_with_it(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_bytes(b"")
    bench = Bench(tmp_path)
    folder = (await bench.lookup("one")).id
    await bench.lookup("a", folder)
    os.rename(tmp_path / "one", tmp_path / "two")
    bench.session.push("one", "two", subtree=True)
    assert ("entry", ROOT, b"one") in bench.kernel.told
    assert (await bench.lookup("one")).id == 0
    moved = await bench.lookup("two")
    assert moved.id == folder
    assert (await bench.lookup("a", folder)).id != 0


@in_trio
async def test_lost_leases_fall_back_to_freshness(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    bench = Bench(tmp_path)
    await bench.lookup("a")
    await trio.sleep(3)
    bench.session.keepalive()
    assert bench.operations.lookup_known(ROOT, b"a") is not None
    bench.session.lose("")
    assert bench.operations.lookup_known(ROOT, b"a") is None


@in_trio
async def test_an_open_file_without_lease_is_asked_about_for_mapped_pages(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    bench = Bench(tmp_path, leased=False)
    node = (await bench.lookup("a")).id
    handle, _ = await bench.open(node)
    (tmp_path / "a").write_bytes(b"new")
    with trio.move_on_after(1.0):
        await bench.operations.watch()
    assert {("pages", node), ("pages now", node)} & set(bench.kernel.told)
    bench.operations.release(handle)


@in_trio
async def test_attributes_of_the_tree_and_of_dadafs(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.setxattr(tmp_path / "a", b"user.sample", b"bone")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    assert await bench.explainer.getxattr(node, b"user.sample") == b"bone"
    assert await bench.explainer.listxattr(node) == [b"user.sample"]
    assert bench.session.asked["xattrs"] == 1
    found = os.stat(tmp_path / "a")
    version = f"{found.st_dev}:{found.st_ino}:5:{found.st_mtime_ns}:{found.st_ctime_ns}"
    assert (await bench.explainer.getxattr(node, b"user.dadafs.version")).decode() == version
    assert await bench.explainer.getxattr(node, b"user.dadafs.export") == b"data"
    assert await bench.explainer.getxattr(node, b"user.dadafs.growing") == b"yes"
    before = bench.asked
    for foreign in (b"security.selinux", b"trusted.x", b"system.nfs4_acl", b"user.dadafs.nonsense"):
        with pytest.raises(OSError) as none:
            await bench.explainer.getxattr(node, foreign)
        assert none.value.errno == errno.ENODATA
    assert bench.asked == before


@in_trio
async def test_a_changed_attribute_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    with pytest.raises(OSError):
        await bench.explainer.getxattr(node, b"user.sample")
    os.setxattr(tmp_path / "a", b"user.sample", b"bone")
    bench.session.push("a")
    assert await bench.explainer.getxattr(node, b"user.sample") == b"bone"


@in_trio
async def test_an_attribute_that_was_asked_for_is_known_until_the_file_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    os.setxattr(tmp_path / "a", b"user.sample", b"bone")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    assert bench.explainer.getxattr_known(node, b"user.sample") is None
    await bench.explainer.getxattr(node, b"user.sample")
    assert bench.explainer.getxattr_known(node, b"user.sample") == b"bone"
    with pytest.raises(OSError) as none:
        bench.explainer.getxattr_known(node, b"system.posix_acl_access")
    assert none.value.errno == errno.ENODATA
    os.setxattr(tmp_path / "a", b"user.sample", b"wood")
    bench.session.push("a")
    assert bench.explainer.getxattr_known(node, b"user.sample") is None, "its change time is another one now"
    assert await bench.explainer.getxattr(node, b"user.sample") == b"wood"


@in_trio
async def test_ls_l_asks_for_the_attributes_of_a_directory_once(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"f{number:02d}").write_bytes(b"")
    os.setxattr(tmp_path / "f20", b"user.sample", b"bone")
    bench = Bench(tmp_path)
    ids = {}
    for name in await bench.listdir():
        ids[name] = (await bench.lookup(os.fsdecode(name))).id
        with pytest.raises(OSError):
            await bench.explainer.getxattr(ids[name], b"system.posix_acl_access")
    assert bench.session.asked == {"list": 1, "xattrs": 2, "child_xattrs": 1}
    assert bench.operations.statistics()["listed_nodes"] == 28, "no object was made for a question"
    assert await bench.explainer.getxattr(ids[b"f20"], b"user.sample") == b"bone"
    await trio.sleep(0.1)
    os.setxattr(tmp_path / "f25", b"user.sample", b"skin")
    bench.session.push("f25")
    assert await bench.explainer.getxattr(ids[b"f25"], b"user.sample") == b"skin"


@in_trio
async def test_a_file_that_got_a_second_name_is_not_leased_any_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    bench = Bench(tmp_path)
    node = (await bench.lookup("a")).id
    await trio.sleep(0.1)
    os.link(tmp_path / "a", tmp_path / "b")
    bench.session.push("a", "b")
    os.link(tmp_path / "a", tmp_path / "c")  # which the head may see under the new name only
    await trio.sleep(1.2)
    bench.session.keepalive()
    told = await bench.getattr(node)
    assert told.fields is not None
    assert told.fields[3] == 3


@in_trio
async def test_what_is_cached_of_a_file_is_told_by_its_path_however_long_ago_it_was_closed(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "a").write_bytes(b"12345")
    bench = Bench(tmp_path)
    files, tree = bench.operations.files, bench.operations.tree
    held = Held(files.cache, files, tree)
    folder = await bench.lookup("scan")
    node = (await bench.lookup("a", folder.id)).id
    handle, _ = await bench.open(node)
    (file,) = (files.find((each.dev, each.ino)) for each in [tree.node(node)])
    assert file is not None
    files.cache.hold_small(file.cached, b"12345", [0], None)
    whole = {"files": 1, "size": 5, "memory": 5}
    assert held.below(b"scan") == whole
    bench.operations.release(handle)
    bench.session.options.lease = -1.0
    with trio.move_on_after(5.0):
        await files.run()
    assert files.find(file.identity) is None
    for path in (b"", b"scan", b"scan/a"):
        assert held.below(path) == whole
    for path in (b"sca", b"scan/a/b", b"scan/b"):
        assert held.below(path)["files"] == 0
    assert await bench.explainer.getxattr(node, b"user.dadafs.tiers") == b"node-ram=5/5"
