"""The socket of a mount process: its own to remove, and nobody else's."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from dadafs.status_socket import answers, ask, serve, socket_path


async def _until_it_answers(path: Path) -> None:
    with trio.fail_after(30):
        while not await trio.to_thread.run_sync(answers, path):
            await trio.sleep(0.01)


def test_an_old_process_does_not_remove_the_socket_of_the_next_mount(tmp_path: Path) -> None:
    """Both have the same device number: the kernel reuses it as soon as the old mount is gone."""
    path = tmp_path / "mount-0-42.sock"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            old = trio.CancelScope()

            async def serve_old() -> None:
                with old:
                    await serve(path, lambda: {"who": "old"})

            nursery.start_soon(serve_old)
            await _until_it_answers(path)
            first = path.stat().st_ino
            nursery.start_soon(serve, path, lambda: {"who": "new"})
            with trio.fail_after(30):
                while not path.exists() or path.stat().st_ino == first:
                    await trio.sleep(0.01)
            await _until_it_answers(path)
            old.cancel()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await trio.to_thread.run_sync(answers, path)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not path.exists()


def test_it_is_started_once_it_can_be_asked(tmp_path: Path) -> None:
    """`dadafs status` right after `dadafs mount` finds the socket there."""
    path = tmp_path / "mount-0-42.sock"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, path, lambda: {"who": "us"})
            assert await trio.to_thread.run_sync(answers, path)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_socket_that_an_earlier_mount_left_does_not_hide_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Device numbers are used again: by a mount of root after one of this user that was killed."""
    stale, right = (socket_path("0:42", tmp_path / name) for name in ("mine", "roots"))
    stale.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(stale))
    monkeypatch.setattr("dadafs.status_socket.places", lambda _: [stale, right])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, right, lambda: {"who": "root"})
            assert await trio.to_thread.run_sync(ask, "0:42") == {"who": "root"}
            nursery.cancel_scope.cancel()

    trio.run(main)
