"""A head that polls its origin: changes are found by comparing, and a pass vouches for a whole round."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dadafs.wire.messages import List, Listing
from tests.checklogs import ExpectedLog
from tests.harness.node import connected
from tests.harness.processes import HeadProcess


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "dir").mkdir(parents=True)
    (tree / "dir/file").write_text("file")
    return tree


def head_with(tmp_path: Path, tree: Path, *lines: str) -> HeadProcess:
    config = tmp_path / "dadafsd.toml"
    text = ["[[export]]", "name = 'data'", f"directory = '{tree}'", "watch = 'poll'", *lines]
    config.write_text("\n".join(text))
    return HeadProcess(tmp_path / "head", {}, options=("--config", str(config)))


@pytest.fixture
def head(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> Iterator[HeadProcess]:
    head = head_with(tmp_path, tree)
    yield head
    head.stop()
    head.check_log(expected_log)


def test_every_change_is_pushed_before_the_pass(head: HeadProcess, tree: Path) -> None:
    async def main() -> None:
        async with connected(head.port, freshness=0.4) as node:
            paths = (b"dir/file", b"dir", b"new", b"dir/linked")
            (tree / "dir/linked").write_text("x")
            os.link(tree / "dir/linked", tree / "elsewhere")
            for path in paths:
                assert (await node.stat(path, lease=True)).leased
            await node.pass_after(1)
            assert node.changes() == []
            (tree / "dir/file").write_text("longer than it was")
            (tree / "new").write_text("x")
            (tree / "elsewhere").write_text("through the other name")
            await node.pass_after(2)
            pushed = {change.path: change.attr for change in node.changes()}
            assert set(pushed) == {b"dir/file", b"new", b"dir/linked"}
            for path, attr in pushed.items():
                assert attr == (await node.stat(path)).attr
            (tree / "dir").rename(tree / "moved")
            await node.pass_after(3)
            pushed = {change.path: change.attr for change in node.changes()}
            assert pushed[b"dir"] is None
            assert pushed[b"dir/file"] is None

    trio.run(main)


def test_whole_directories_are_not_leased(head: HeadProcess) -> None:
    async def main() -> None:
        async with connected(head.port) as node:
            listing, _ = await node.ask(List(b"dir"), Listing)
            assert not listing.leased

    trio.run(main)


def test_looks_at_the_origin_are_capped_and_leases_beyond_are_given_back(
    tmp_path: Path, tree: Path, expected_log: ExpectedLog
) -> None:
    head = head_with(tmp_path, tree, "stats_per_second = 40")
    for number in range(30):
        (tree / f"n{number}").write_text("x")

    async def main() -> None:
        async with connected(head.port, freshness=1.0) as node:
            for number in range(30):
                await node.stat(b"n%d" % number, lease=True)
            await node.wait_until(lambda: len(node.lost()) == 20, "all but 40 a second for a quarter second")
            assert node.lost()[:3] == [b"n0", b"n1", b"n2"]
            (tree / "n0").write_text("changed")
            (tree / "n29").write_text("changed")
            await node.pass_after(1)
            assert [change.path for change in node.changes()] == [b"n29"]

    trio.run(main)
    head.stop()
    head.check_log(expected_log)
