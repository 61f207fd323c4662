"""A stranger at a real head, and a node gone mad: recorded logins, downgrades, garbage and frames of a gigabyte.

The head stays up, within its memory, and serves the others.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from dadafs.wire import frame
from dadafs.wire.auth import ClientAuth
from dadafs.wire.client import Target, connect
from dadafs.wire.frame import Kind
from dadafs.wire.keys import load_key_file
from dadafs.wire.messages import Attach, Hello, Message, Proof, Refused, Stat, decode, encode
from tests.checklogs import ExpectedLog
from tests.harness.node import connected
from tests.harness.processes import HeadProcess, wait_until

SECRET = b"what the tree holds"
ATTACH = frame.pack(Kind.HANDSHAKE, 0, encode(Attach("data", 0, 10**9, 10**9)), 0)
STAT = frame.pack(Kind.REQUEST, 1, encode(Stat(b"file")), 0)
#: A header whose lengths are far beyond every limit, with nothing behind it.
GIGABYTE = struct.pack("<2sBBIIII", b"dF", Kind.REQUEST, 0, 1, 2**30, 0, 0)
PAYLOAD = struct.pack("<2sBBIIII", b"dF", Kind.REQUEST, 0, 1, 4, 2**30, 0)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadProcess]:
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "tree").mkdir()
    (folder / "tree" / "file").write_bytes(SECRET)
    key_file(folder).write_text("beamtime: a secret of a few words that nobody has guessed so far\n")
    key_file(folder).chmod(0o600)
    head = HeadProcess(folder / "head", {"data": folder / "tree"}, options=("--key-file", str(key_file(folder))))
    yield head
    head.stop()
    head.check_log(ExpectedLog())


def key_file(folder: Path) -> Path:
    return folder / "key"


@pytest.fixture
def auth(head: HeadProcess) -> ClientAuth:
    return ClientAuth(load_key_file(key_file(head.directory.parent)))


def hello(versions: tuple[int, int] = (1, 1), methods: tuple[str, ...] = ("psk",)) -> bytes:
    return frame.pack(Kind.HANDSHAKE, 0, encode(Hello(*versions, "control", "node", b"n" * 32, list(methods))), 0)


def say(head: HeadProcess, *words: bytes) -> bytes:
    """Everything that the head answers until it closes the connection."""
    answer = bytearray()
    with socket.create_connection((head.host, head.port), timeout=60) as sock:
        try:
            sock.sendall(b"".join(words))
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                answer += data
        except ConnectionError:
            pass  # it hung up before we had finished
    return bytes(answer)


def messages(answer: bytes) -> list[Message]:
    """The frames of an answer."""
    found = []
    while answer:
        header = frame.unpack(answer, 0, frame.FROM_HEAD)
        end = frame.HEADER_SIZE + header.metadata_length
        found.append(decode(answer[frame.HEADER_SIZE : end], handshake=header.kind is Kind.HANDSHAKE))
        answer = answer[end + header.payload_length :]
    return found


def serves(head: HeadProcess, auth: ClientAuth) -> None:
    """An honest node gets what it wants."""

    async def main() -> None:
        async with connected(head.port, auth=auth) as node:
            assert (await node.stat(b"file")).attr is not None

    trio.run(main)


def resident(head: HeadProcess) -> int:
    """Bytes of memory that the head has resident."""
    text = Path(f"/proc/{head.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize(
    "words",
    [
        (STAT,),
        (ATTACH, STAT),
        (hello(), ATTACH, STAT),
        (hello(), frame.pack(Kind.HANDSHAKE, 0, encode(Proof("beamtime", b"m" * 32)), 0), ATTACH, STAT),
        (hello(methods=("none",)), ATTACH, STAT),
        (hello(methods=()), ATTACH, STAT),
        (hello(versions=(0, 0)), ATTACH, STAT),
        (hello(versions=(7, 9)), ATTACH, STAT),
        (b"GET /file HTTP/1.1\r\n\r\n",),
        (GIGABYTE,),
        (PAYLOAD,),
        (hello(), GIGABYTE),
        (b"\x16\x03\x01\x02\x00" + bytes(600),),
    ],
    ids=[
        "no greeting", "attach only", "no proof", "wrong proof", "offers none", "offers nothing", "version of the past",
        "version of the future", "http", "gigabyte", "payload", "gigabyte later", "tls",
    ],
)  # fmt: skip
def test_a_stranger_learns_nothing(head: HeadProcess, auth: ClientAuth, words: tuple[bytes, ...]) -> None:
    answer = say(head, *words)
    assert SECRET not in answer
    assert {type(message).__name__ for message in messages(answer)} <= {"Challenge", "Refused"}
    serves(head, auth)


def test_a_downgrade_is_refused_in_words(head: HeadProcess) -> None:
    for words, code in ((hello(methods=("none",)), "method"), (hello(versions=(0, 0)), "version")):
        (refused,) = messages(say(head, words))
        assert isinstance(refused, Refused)
        assert refused.code == code


def test_a_recorded_login_opens_nothing(head: HeadProcess, auth: ClientAuth) -> None:
    """All that an honest node sent, word for word, once more."""
    recorded = trio.run(record, head, auth)
    assert len(recorded) > len(ATTACH) + len(STAT)
    answer = say(head, recorded)
    assert [type(message).__name__ for message in messages(answer)] == ["Challenge", "Refused"]


async def record(head: HeadProcess, auth: ClientAuth) -> bytes:
    """What a node sends that logs in and asks for a file."""
    recorded = bytearray()

    async def pump(source: trio.SocketStream, sink: trio.SocketStream, copy: bytearray | None) -> None:
        async for data in source:
            if copy is not None:
                copy += data
            await sink.send_all(data)

    async def tap(stream: trio.SocketStream) -> None:
        async with stream, await trio.open_tcp_stream(head.host, head.port) as onward, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, onward, recorded)
            nursery.start_soon(pump, onward, stream, None)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, tap, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            node = await connect("127.0.0.1", port, node="node", role="control", auth=auth, target=Target("data"))
            nursery.start_soon(node.run)
            await node.call(Stat(b"file"))
            node.close()
            nursery.cancel_scope.cancel()
    return bytes(recorded)


def test_a_node_gone_mad_loses_its_connection_only(head: HeadProcess, auth: ClientAuth) -> None:
    """Behind a proper login: frames of a gigabyte, damaged frames, random bytes, each on a connection of its own."""
    before = resident(head)
    chance = random.Random(5)
    nonsense = [GIGABYTE, PAYLOAD, STAT[:-1] + b"\xff", b"dF" + bytes(100), frame.pack(Kind.REQUEST, 1, b"\xc1", 0)]
    for _ in range(40):
        damaged = bytearray(STAT * 3)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        nonsense += [bytes(damaged), chance.randbytes(chance.randint(1, 500)) + bytes(20)]

    async def main() -> None:
        async with connected(head.port, auth=auth, name="honest") as honest:
            for said in nonsense:
                mad = await connect(
                    "127.0.0.1", head.port, node="mad", role="control", auth=auth, target=Target("data")
                )
                await trio.to_thread.run_sync(send_raw, mad.channel._socket, said)
                mad.close()
                assert (await honest.stat(b"file")).attr is not None

    trio.run(main)
    wait_until(lambda: head.process.poll() is None, "the head is up")
    assert resident(head) - before < 64 * 2**20
    serves(head, auth)


def send_raw(sock: socket.socket, said: bytes) -> None:
    """Say it, and read until the head hangs up."""
    sock.settimeout(60)
    try:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
