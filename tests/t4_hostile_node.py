"""A node that has a key and asks for what no node would: every request is answered, nothing leaves the export,
nothing is logged as the head's own failure, and the others are served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dadafs.wire import messages
from dadafs.wire.auth import ClientAuth
from dadafs.wire.channel import Channel
from dadafs.wire.client import Target, connect
from dadafs.wire.frame import Kind
from dadafs.wire.messages import Entry, Failed, Listing, Message, Opened, Version
from tests.checklogs import ExpectedLog
from tests.harness.crowd import crowd
from tests.harness.node import WHOLE, Node, NodeFailed, connected
from tests.harness.processes import HeadProcess, wait_until

SECRET = b"outside the export"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with ways out of it, beside a secret."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret").write_bytes(SECRET)
    tree = folder / "tree"
    (tree / "inside").mkdir(parents=True)
    (tree / "inside" / "file").write_bytes(os.urandom(3_000_000))
    (tree / "inside" / "small").write_bytes(b"small")
    (tree / "inside" / "new\nline \xff").write_bytes(b"odd")
    os.mkfifo(tree / "pipe")
    for name, target in {
        "relative": "../secret",
        "absolute": str(folder / "secret"),
        "up": "..",
        "root": "/",
        "magic": "/proc/self/root",
        "descriptor": "/proc/self/fd/0",
        "loop": "loop",
    }.items():
        (tree / name).symlink_to(target)
    return folder


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[HeadProcess]:
    head = HeadProcess(folder / "head", {"data": folder / "tree"})
    yield head
    head.stop()
    head.check_log(ExpectedLog())


# --- the way out --------------------------------------------------------------------------------------------------

LINKS = [b"relative", b"absolute", b"up/secret", b"up/tree/inside/small", b"root/etc/passwd", b"magic/etc/passwd"]
LINKS += [b"descriptor", b"loop", b"loop/x", b"inside/../inside/small", b"../secret", b"/etc/passwd", b"..", b"."]
LINKS += [b"inside//small", b"inside/small/", b"inside/small\0", b"inside/./small", b"x" * 5000, b"x/" * 2000 + b"x"]


@pytest.mark.parametrize("path", LINKS, ids=lambda path: repr(path[:20]))
def test_no_path_leads_out(head: HeadProcess, path: bytes) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(NodeFailed):
            await node.open(path, inline=True)
        try:
            entry = await node.stat(path)
        except NodeFailed:
            return
        assert entry.attr is None or entry.target is not None  # nothing there, or a link, told and not followed

    with_node(head, test)


def test_directories_and_attributes_beyond_links_are_not_told(head: HeadProcess) -> None:
    async def test(node: Node) -> None:
        for path in (b"up", b"root", b"magic", b"up/tree", b"root/etc", b"..", b"/"):
            with pytest.raises(NodeFailed):
                await node.list_all(path)
            with pytest.raises(NodeFailed):
                await node.ask(messages.Xattrs(path + b"/x"), messages.XattrsReply)

    with_node(head, test)


def test_what_is_no_regular_file_is_not_opened(head: HeadProcess) -> None:
    async def test(node: Node) -> None:
        for path in (b"", b"inside", b"pipe", b"relative"):
            with pytest.raises(NodeFailed):
                await node.open(path)

    with_node(head, test)


def with_node(head: HeadProcess, test) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        with trio.fail_after(60):
            async with connected(head.port, name="hostile") as node:
                await test(node)

    trio.run(run)


# --- nonsense -----------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(0, 3),
    st.sampled_from([-1, -(2**63), 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
    st.integers(-9, 99),
)
PATHS = st.one_of(
    st.sampled_from([b"", b"inside", b"inside/file", b"inside/small", b"inside/new\nline \xff", b"pipe", *LINKS]),
    st.binary(max_size=20),
)
FLAGS = st.booleans()
NONSENSE: st.SearchStrategy[Message] = st.one_of(
    st.builds(messages.Stat, PATHS, FLAGS),
    st.builds(messages.List, PATHS, NUMBERS, NUMBERS, FLAGS),
    st.builds(messages.Open, PATHS, st.none() | st.tuples(NUMBERS, NUMBERS), FLAGS),
    st.builds(messages.OpenAhead, PATHS, st.lists(PATHS, max_size=3), NUMBERS),
    st.builds(messages.Release, st.lists(NUMBERS, max_size=5)),
    st.builds(messages.Statfs),
    st.builds(messages.Xattrs, PATHS),
    st.builds(messages.GiveBack, st.lists(PATHS, max_size=3)),
    st.builds(messages.Resolve, NUMBERS),
    st.builds(
        messages.Read,
        NUMBERS,
        st.builds(Version, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
        NUMBERS,
        NUMBERS,
        NUMBERS,
        st.lists(st.integers(0, 2**64 - 1), max_size=3),
        FLAGS,
    ),
    st.builds(messages.Entry, st.none()),
    st.builds(
        messages.Hello, NUMBERS, NUMBERS, st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5), st.just([])
    ),
    st.builds(messages.Pass, NUMBERS),
    st.builds(messages.Failed, NUMBERS, st.text(max_size=5)),
)
#: Reads of the file that is really open, wrong in what they ask of it.
READS = st.tuples(NUMBERS, NUMBERS, NUMBERS, st.lists(st.integers(0, 2**64 - 1), max_size=20), NUMBERS, NUMBERS)

thorough = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@thorough
@given(requests=st.lists(st.tuples(NONSENSE, FLAGS), min_size=1, max_size=12))
def test_every_nonsense_is_answered(head: HeadProcess, requests: list[tuple[Message, bool]]) -> None:
    async def test(node: Node) -> None:
        for request, on_data in requests:
            reply = await answer(node, request, on_data)
            assert reply != Failed(5, "internal error of the head", reply.site if isinstance(reply, Failed) else 0)
        await served(node)

    with_node(head, test)


@thorough
@given(reads=st.lists(READS, min_size=1, max_size=8))
def test_no_read_gives_what_is_not_in_the_file(
    head: HeadProcess, folder: Path, reads: list[tuple[int, int, int, list[int], int, int]]
) -> None:
    data = (folder / "tree" / "inside" / "file").read_bytes()

    async def test(node: Node) -> None:
        opened = await node.open(b"inside/file")
        version = opened.attr.version
        for fragment, first, count, known, size, mtime in reads:
            forged = Version(version.dev, version.ino, size, mtime, version.ctime_ns)
            for state in (version, forged):
                request = messages.Read(opened.handle, state, fragment, first, count, known)
                payload = bytearray()
                reply = await answer(node, request, True, payload)
                if isinstance(reply, messages.Blocks):
                    assert state == version
                    check_blocks(reply, bytes(payload), data, fragment, first)
                else:
                    assert isinstance(reply, Failed | messages.Changed)
        await served(node)

    with_node(head, test)


def check_blocks(reply: messages.Blocks, payload: bytes, data: bytes, fragment: int, first: int) -> None:
    """What was sent is what is there in the file."""
    start = fragment * messages.DEFAULT_FRAGMENT_SIZE + first * messages.BLOCK_SIZE
    size = messages.BLOCK_SIZE
    wanted = [data[start + i * size : start + (i + 1) * size] for i in range(len(reply.checksums))]
    assert payload == b"".join(block for i, block in enumerate(wanted) if reply.sent >> i & 1)


async def answer(node: Node, request: Message, on_data: bool, payload: bytearray | None = None) -> Message:
    """The reply, whatever it is."""

    def sink(_: Message, length: int) -> memoryview | None:
        if payload is None:
            return None
        payload.extend(bytes(length))
        return memoryview(payload)

    return await (node.data if on_data else node.control).call(request, sink=sink)


async def served(node: Node) -> None:
    """The session still works."""
    assert isinstance(await answer(node, messages.Stat(b"inside/small"), False), Entry)
    assert isinstance(await answer(node, messages.List(b"inside"), False), Listing)
    assert isinstance(await answer(node, messages.Open(b"inside/small"), False), Opened)


@pytest.mark.parametrize("kind", [Kind.HANDSHAKE, Kind.REPLY, Kind.PUSH])
def test_frames_that_no_node_sends_end_the_connection_only(head: HeadProcess, kind: Kind) -> None:
    async def test(node: Node) -> None:
        await node.data.channel.send(kind, 1, messages.Stat(b""))
        while node.data.closed is None:
            await trio.sleep(0.01)
        await served(node)

    with_node(head, test)


# --- greed --------------------------------------------------------------------------------------------------------


def test_a_node_that_asks_and_never_reads_costs_bounded_memory(head: HeadProcess) -> None:
    """Reads without end are asked for and no reply is taken; another node is served meanwhile."""

    async def test(node: Node) -> None:
        opened = await node.open(b"inside/file")
        before = resident(head.pid)
        target = Target("data", node.welcome.session)
        greedy = await connect("127.0.0.1", head.port, node="hostile", role="data", auth=ClientAuth(), target=target)
        async with connected(head.port, name="other") as other, trio.open_nursery() as nursery:
            nursery.start_soon(ask_for_ever, greedy.channel, opened)
            for _ in range(50):
                assert len(await other.read_file(await other.open(b"inside/file"))) == opened.attr.size
                await served(other)
            assert resident(head.pid) - before < 100 * 2**20
            nursery.cancel_scope.cancel()
        greedy.close()

    with_node(head, test)


async def ask_for_ever(channel: Channel, opened: Opened) -> None:
    number = 0
    while True:
        number += 1
        request = messages.Read(opened.handle, opened.attr.version, number % 3, 0, WHOLE)
        await channel.send(Kind.REQUEST, number, request)
        if number % 10 == 0:
            await trio.lowlevel.checkpoint()


def resident(pid: int) -> int:
    """Bytes of memory that the process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_idle_connections(head: HeadProcess) -> None:
    """They are turned away beyond a bound, the head stays small, and a node comes in at once."""
    before = resident(head.pid)
    with crowd(head.port, 10_000) as opened:
        assert opened > 1000

        async def test(node: Node) -> None:
            await served(node)

        for _ in range(5):
            with_node(head, test)
        assert resident(head.pid) - before < 64 * 2**20
        assert len(os.listdir(f"/proc/{head.pid}/fd")) < 1000
    wait_until(lambda: head.process.poll() is None, "the head is up")
