"""The life of a head: what systemd is told, and what each signal does."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from dadafs.wire.auth import ClientAuth, Refusal
from dadafs.wire.keys import load_key_file
from dadafs.wire.messages import Goodbye, Read
from tests.checklogs import ExpectedLog
from tests.harness.node import WHOLE, Node, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(2 * MIB))
    return tree


def test_systemd_is_told(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60)
        env = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
        head = HeadProcess(tmp_path / "head", {"data": tree}, env=env)
        heard = ""
        while heard.count("WATCHDOG=1") < 2 or "READY=1" not in heard:
            heard += systemd.recv(4096).decode() + "\n"
        assert f"STATUS=Serving data on {head.address}" in heard
        assert head.stop() == 0
        while "STOPPING=1" not in heard:
            heard += systemd.recv(4096).decode() + "\n"
    head.check_log(expected_log)


def test_sigterm_says_goodbye_and_ends_well(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    head = HeadProcess(tmp_path / "head", {"data": tree})

    async def main() -> None:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            await node.read(Read(opened.handle, opened.attr.version, 0, 0, WHOLE))
            head.process.send_signal(signal.SIGTERM)
            await node.wait_until(lambda: any(isinstance(push, Goodbye) for push in node.pushes), "goodbye")

    trio.run(main)
    assert head.process.wait(60) == 0
    head.check_log(expected_log)


def test_sighup_takes_new_keys(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path, secret in ((old, "old: a secret that is long enough"), (new, "new: another secret, long enough")):
        path.write_text(secret + "\n")
        path.chmod(0o600)
    keys = tmp_path / "keys"
    keys.write_text(old.read_text())
    keys.chmod(0o600)
    head = HeadProcess(tmp_path / "head", {"data": tree}, options=("--key-file", str(keys)))

    async def attach(key: Path) -> None:
        async with connected(head.port, auth=ClientAuth(load_key_file(key))) as node:
            assert (await node.stat(b"file")).attr is not None

    trio.run(attach, old)
    with pytest.raises(Refusal):
        trio.run(attach, new)
    keys.write_text(old.read_text() + new.read_text())
    head.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in head.text(), "the keys are read again")
    trio.run(attach, old)
    trio.run(attach, new)
    expected_log.add("reload failed, going on as before: The key file")
    keys.chmod(0o644)
    head.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload failed" in head.text(), "a wrong file is refused")
    trio.run(attach, new)
    assert head.stop() == 0
    head.check_log(expected_log)


def test_sigusr1_shows_all_stacks(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    head = HeadProcess(tmp_path / "head", {"data": tree})

    shown = ("thread MainThread", "thread the cache directory (writes)-0", "task ")

    def all_shown() -> bool:
        head.process.send_signal(signal.SIGUSR1)  # at once after `ready`, and again: not all threads have begun by then
        return all(text in head.text() for text in shown)

    wait_until(all_shown, "threads and tasks are shown")
    assert head.stop() == 0
    expected_log.add("Traceback|most recent call first")
    head.check_log(expected_log)


def test_sigusr1_is_harmless_while_threads_are_at_work(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    """Following frames while they change ended the process now and then: of other threads, in a signal handler."""
    for number in range(2000):
        (tree / f"empty{number}").touch()
    head = HeadProcess(tmp_path / "head", {"data": tree})

    async def list_all(node: Node) -> None:
        while True:
            await node.list_all(b"")

    async def main() -> None:
        async with connected(head.port) as node, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(list_all, node)
            for _ in range(2000):
                head.process.send_signal(signal.SIGUSR1)
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert head.stop() == 0
    expected_log.add("Traceback|most recent call first")
    head.check_log(expected_log)
