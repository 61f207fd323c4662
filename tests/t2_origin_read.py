"""One read of the origin is of one state, and says whether the file's times can prove which."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from dadafs.wire.messages import Attr
from dadafsd.export import Export
from dadafsd.origin_read import Piece, read_piece
from dadafsd.policy.settle import LocalClock
from tests.checklogs import ExpectedLog
from tests.harness.admin import Socket
from tests.harness.node import connected
from tests.harness.processes import HeadProcess
from tests.harness.stepped_clock import SteppedClock

SIZE = 100_000


class Writer(LocalClock):
    """A clock that is asked what time it is just before the read, and writes to the file when it is."""

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(margin_ns=0)
        self._path, self._content = path, content

    def now_ns(self) -> int:
        with self._path.open("r+b") as file:
            file.write(self._content)
        os.utime(self._path, ns=(1, 1))  # the times change, whatever the tick of the kernel's clock
        return super().now_ns()


def test_a_file_that_changes_while_it_is_read_gives_its_new_state_and_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * SIZE)
    held, attr = Export("data", tmp_path).open_file(b"file")
    found = read_piece(held, attr.version, 0, SIZE, Writer(tmp_path / "file", b"b" * SIZE))
    assert isinstance(found, Attr)
    assert found.version != attr.version
    again = read_piece(held, found.version, 0, SIZE, LocalClock())
    assert isinstance(again, Piece)
    assert again.data == b"b" * SIZE


def test_a_state_that_is_gone_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * SIZE)
    held, attr = Export("data", tmp_path).open_file(b"file")
    (tmp_path / "file").write_bytes(b"b" * (SIZE + 1))
    found = read_piece(held, attr.version, 0, SIZE, LocalClock())
    assert isinstance(found, Attr)
    assert found.size == SIZE + 1


@pytest.mark.parametrize(("margin_ns", "settled"), [(0, True), (3600 * 10**9, False)])
def test_what_changed_a_moment_ago_proves_nothing(tmp_path: Path, margin_ns: int, settled: bool) -> None:
    (tmp_path / "file").write_bytes(b"a" * SIZE)
    held, attr = Export("data", tmp_path).open_file(b"file")
    found = read_piece(held, attr.version, 0, SIZE, LocalClock(margin_ns))
    assert isinstance(found, Piece)
    assert found.settled is settled


def test_the_head_keeps_nothing_whose_state_is_not_proved(tmp_path: Path, expected_log: ExpectedLog) -> None:
    """A head whose clock is an hour behind: by it, every file was changed a moment ago, or will be."""
    (tmp_path / "tree").mkdir()
    content = os.urandom(SIZE)
    (tmp_path / "tree" / "file").write_bytes(content)
    clock = SteppedClock(tmp_path)
    clock.set(-3600)
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, env=clock.env)

    def reads() -> int:
        rows = Socket(head.admin_socket).ask("counters")["origin"]
        return sum(row["count"] for row in rows if row["what"] == "reads")

    async def main() -> None:
        async with connected(head.port) as node:
            with trio.fail_after(60):
                while reads() < 3:  # what was read is given to those who come at the same moment, not later
                    assert await node.read_file(await node.open(b"file")) == content
                    events = Socket(head.admin_socket).ask("counters")["events"]
                    assert events["unsettled"] >= 1
                    assert events.get("store_writes", 0) == 0

    try:
        trio.run(main)
    finally:
        head.stop()
    head.check_log(expected_log)
