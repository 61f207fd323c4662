"""A real head and who gets in: by key, by certificate, by address, by name; and who does not."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme

from dadafs.errors import ExitCode, UserError
from dadafs.wire.auth import ClientAuth, Refusal
from dadafs.wire.client import Target, connect
from dadafs.wire.keys import load_key_file
from dadafs.wire.messages import Entry, Stat
from dadafs.wire.tls import TlsFiles, client_context, tls_files
from dadafsd.config import _is_address
from tests.checklogs import ExpectedLog
from tests.harness.certificates import as_toml, issue
from tests.harness.processes import HeadProcess, wait_until

SECRET = "5a" * 32
OTHER_SECRET = "a5" * 32


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    return tree


@pytest.fixture
def heads(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[list[HeadProcess]]:
    """Heads that a test has started; stopped and checked at its end."""
    heads: list[HeadProcess] = []
    yield heads
    for head in heads:
        head.stop()
        head.check_log(expected_log)


def key_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def serve(heads: list[HeadProcess], tmp_path: Path, config: str, *options: str) -> HeadProcess:
    """A head with this configuration file."""
    file = tmp_path / "dadafsd.toml"
    file.write_text(config)
    head = HeadProcess(tmp_path / "head", {}, options=("--config", str(file), *options))
    heads.append(head)
    return head


def visit(head: HeadProcess, auth: ClientAuth, export: str = "data") -> str:
    """`welcome`, or the code with which the head or the node refuses."""

    async def test() -> str:
        with trio.fail_after(60):
            try:
                channel = await connect(
                    "127.0.0.1", head.port, node="node", role="control", auth=auth, target=Target(export)
                )
            except Refusal as refusal:
                return refusal.code
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run)
                entry = await channel.call(Stat(b"file"))
                assert isinstance(entry, Entry)
                assert entry.attr is not None
                channel.close()
            return "welcome"

    return trio.run(test)


def with_key(path: Path) -> ClientAuth:
    return ClientAuth(load_key_file(path))


def with_certificate(files: TlsFiles) -> ClientAuth:
    return ClientAuth(tls=client_context(*files))


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_changed_under_a_running_head(heads: list[HeadProcess], tree: Path, tmp_path: Path) -> None:
    """Rotation: the head learns the new key, then the nodes do, then the head forgets the old one."""
    old = key_file(tmp_path / "old", f"old: {SECRET}\n")
    new = key_file(tmp_path / "new", f"new: {OTHER_SECRET}\n")
    keys = key_file(tmp_path / "keys", f"old: {SECRET}\n")
    head = serve(heads, tmp_path, f'[[export]]\nname = "data"\ndirectory = "{tree}"\n', "--key-file", str(keys))
    assert [visit(head, with_key(old)), visit(head, with_key(new))] == ["welcome", "wrong-key"]

    key_file(keys, f"new: {OTHER_SECRET}\nold: {SECRET}\n")
    reload(head, 1)
    assert [visit(head, with_key(old)), visit(head, with_key(new))] == ["welcome", "welcome"]

    key_file(keys, f"new: {OTHER_SECRET}\n")
    reload(head, 2)
    assert [visit(head, with_key(old)), visit(head, with_key(new))] == ["wrong-key", "welcome"]
    assert visit(head, ClientAuth()) == "method"
    for secret in (SECRET, OTHER_SECRET):
        assert secret not in head.text()


def reload(head: HeadProcess, times: int) -> None:
    head.process.send_signal(signal.SIGHUP)
    wait_until(lambda: head.text().count("reloaded") == times, "the head has read its keys again")


# --- certificates -------------------------------------------------------------------------------------------------


def test_certificates_open_and_their_names_decide(heads: list[HeadProcess], tree: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    config = as_toml(issue(tmp_path / "head-certificate", authority, "127.0.0.1"))
    for name, nodes in (("data", '["*.beamline", "10.0.0.0/8"]'), ("all", "[]"), ("here", '["127.0.0.0/8"]')):
        config += f'[[export]]\nname = "{name}"\ndirectory = "{tree}"\nnodes = {nodes}\n'
    head = serve(heads, tmp_path, config)
    ours = with_certificate(issue(tmp_path / "ours", authority, "Node01.Beamline"))
    other = with_certificate(issue(tmp_path / "other", authority, "node01.elsewhere"))
    foreign = with_certificate(issue(tmp_path / "foreign", trustme.CA(), "node01.beamline"))
    assert [visit(head, ours, export) for export in ("data", "all", "here")] == ["welcome"] * 3
    assert [visit(head, other, export) for export in ("data", "all", "here")] == ["not-allowed", "welcome", "welcome"]
    assert visit(head, foreign, "all") == "wrong-key"
    assert visit(head, ClientAuth(), "all") == "method"
    assert visit(head, with_key(key_file(tmp_path / "key", SECRET)), "all") == "method"


def test_a_name_that_a_node_gives_itself_opens_nothing(
    heads: list[HeadProcess], tree: Path, tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log.add("can never match without certificates")
    config = f'[[export]]\nname = "data"\ndirectory = "{tree}"\nnodes = ["node", "10.0.0.0/8"]\n'
    head = serve(heads, tmp_path, config)
    assert visit(head, ClientAuth()) == "not-allowed"
    assert head.text().count("export data admits nodes by the names node, which can never match") == 1


def test_some_of_the_tls_settings_are_not_enough() -> None:
    settings = {"tls_certificate": "/c", "tls_key": None, "tls_authority": "/a"}
    with pytest.raises(UserError, match="all three") as caught:
        tls_files(settings)
    assert caught.value.exit_code == ExitCode.USAGE
    assert tls_files(dict.fromkeys(settings)) is None


@pytest.mark.parametrize(
    ("text", "is_address"),
    [("10.0.0.1", True), ("10.0.0.0/8", True), ("fe80::1", True), ("::/0", True), ("10.0.0.0/99", True),
     ("node01", False), ("*.lab", False), ("*", False), ("1.lab", False)],
)  # fmt: skip
def test_addresses_and_names_in_a_node_list(text: str, is_address: bool) -> None:
    assert _is_address(text) == is_address


# --- floods -------------------------------------------------------------------------------------------------------


def test_nodes_come_in_while_strangers_crowd_the_door(heads: list[HeadProcess], tree: Path, tmp_path: Path) -> None:
    key = key_file(tmp_path / "key", SECRET)
    head = serve(heads, tmp_path, f'[[export]]\nname = "data"\ndirectory = "{tree}"\n', "--key-file", str(key))
    crowd = [
        socket.create_connection(("127.0.0.1", head.port), source_address=(f"127.0.0.{2 + number % 4}", 0))
        for number in range(600)
    ]
    for sock in crowd[::2]:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    for _ in range(20):
        assert visit(head, with_key(key)) == "welcome"
    for sock in crowd:
        sock.close()
    assert head.text().count("turned away") < 10
