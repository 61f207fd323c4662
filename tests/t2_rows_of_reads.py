"""Many reads that arrive in one piece are answered to the last, however long that takes the head."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from dadafs import data_channel
from dadafs.data_channel import DataChannel, compiled
from dadafs.wire.auth import ClientAuth
from dadafs.wire.client import Target, connect
from dadafs.wire.messages import Read
from tests.checklogs import ExpectedLog
from tests.harness.node import WHOLE, connected
from tests.harness.processes import HeadProcess

MIB = 1 << 20
FRAGMENTS = 16
ROUNDS = 12

pytestmark = pytest.mark.skipif(not data_channel.COMPILED, reason="the compiled part, or its checksums, are not there")


def test_a_row_that_is_longer_than_a_turn(tmp_path: Path, expected_log: ExpectedLog) -> None:
    """Its turn over, a connection waited for the next event, with requests in its buffer that no event told of."""
    (tmp_path / "tree").mkdir()
    content = os.urandom(FRAGMENTS * MIB)
    (tmp_path / "tree" / "file").write_bytes(content)
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"})

    async def main() -> None:
        async with connected(head.port, name="rows") as node, trio.open_nursery() as nursery:
            opened = await node.open(b"file")
            target = Target("data", node.welcome.session)
            channel = compiled(
                await connect("127.0.0.1", head.port, node="rows", role="data", auth=ClientAuth(), target=target)
            )
            assert isinstance(channel, DataChannel)
            nursery.start_soon(channel.run)
            for number in range(ROUNDS):
                buffers = [bytearray(MIB) for _ in range(FRAGMENTS)]
                done: list[bool] = []
                channel.cork(True)
                for fragment, buffer in enumerate(buffers):
                    read = Read(opened.handle, opened.attr.version, fragment, 0, WHOLE)
                    assert channel.fetch(
                        read, memoryview(buffer), lambda _, intact, *__, done=done: done.append(intact)
                    )
                channel.cork(False)
                with trio.fail_after(60):
                    while len(done) < FRAGMENTS:
                        await trio.sleep(0.01)
                assert all(done)
                assert b"".join(buffers) == content, f"round {number}"
            channel.close()
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        head.stop()
    head.check_log(expected_log)
