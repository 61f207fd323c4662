"""Mutual TLS: the same calls, and every wrong certificate refused in words."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from dadafs.errors import ExitCode, UserError
from dadafs.wire.auth import ClientAuth, Refusal, ServerAuth
from dadafs.wire.channel import Channel, ChannelClosed, Frame, PayloadVanished
from dadafs.wire.client import ConnectFailed
from dadafs.wire.frame import Kind
from dadafs.wire.messages import Blocks, Done, Entry, Read, Stat
from dadafs.wire.tls import TlsChannel, TlsFiles, client_context, server_context
from tests.harness.certificates import issue
from tests.harness.wire import ATTR, RING, attach, calls, run, small_head, until

MIB = 2**20
READ = Read(1, ATTR.version, 0, 0, 16)


@dataclass
class Site:
    """A head's and a node's certificates of one authority."""

    server: ServerAuth
    client: ClientAuth


@pytest.fixture
def site(tmp_path: Path) -> Site:
    authority = trustme.CA()
    head = issue(tmp_path / "head", authority, "127.0.0.1")
    node = issue(tmp_path / "node", authority, "node01.beamline", common_name="node01")
    return Site(
        ServerAuth(tls=server_context(head.certificate, head.key, head.authority)),
        ClientAuth(tls=client_context(node.certificate, node.key, node.authority)),
    )


async def echo(channel: Channel, request: Frame) -> None:
    if request.message == READ:
        await channel.send(Kind.REPLY, request.request_id, Blocks([1] * 16, 0xFFFF, MIB), b"\x05" * MIB)
    else:
        assert isinstance(request.message, Stat)
        await channel.send(Kind.REPLY, request.request_id, Entry(None, request.message.path))


def test_calls_over_tls_and_the_names_of_the_node(site: Site) -> None:
    async def test() -> None:
        async with small_head(echo, site.server) as head, calls(head, site.client) as channel:
            assert await channel.call(Stat(b"a")) == Entry(None, b"a")
            (peer,) = head.peers
            assert (peer.method, peer.names, peer.key_id) == ("tls", ("node01.beamline", "node01"), "node01.beamline")
            buffer = bytearray(MIB)
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(channel.call, Stat(b"%d" % number))
                for _ in range(5):
                    await channel.call(READ, sink=lambda reply, length: memoryview(buffer))
            assert buffer == b"\x05" * MIB

    run(test)


def test_files_over_tls(site: Site, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    (tmp_path / "file").write_bytes(data)

    async def from_file(channel: Channel, request: Frame) -> None:
        segments = [(MIB, 2 * MIB), (0, 17)] if request.message == READ else [(0, 4 * MIB)]
        with open(tmp_path / "file", "rb") as file:
            await channel.send_file(Kind.REPLY, request.request_id, Done(), file.fileno(), segments)

    async def test() -> None:
        buffer = bytearray(4 * MIB)
        async with small_head(from_file, site.server) as head, calls(head, site.client) as channel:
            await channel.call(READ, sink=lambda reply, length: memoryview(buffer))
            assert buffer[: 2 * MIB + 17] == data[MIB:] + data[:17]
            with pytest.raises(ChannelClosed):
                await channel.call(Stat(b"longer than the file"), sink=lambda reply, length: memoryview(buffer))
            assert isinstance(head.channels[0], TlsChannel)
            assert head.channels[0].closed == "the file to be sent was shorter than promised"

    run(test)
    assert issubclass(PayloadVanished, ChannelClosed)


def test_nothing_readable_is_on_the_wire(site: Site) -> None:
    seen = bytearray()

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            seen.extend(data)
            await sink.send_all(data)
        await sink.send_eof()

    async def test() -> None:
        async with small_head(echo, site.server) as head, trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            address, head.address = head.address, listener.socket.getsockname()

            async def tap() -> None:
                async with (
                    listener,
                    await listener.accept() as inner,
                    await trio.open_tcp_stream(*address) as outer,
                    trio.open_nursery() as pumps,
                ):
                    pumps.start_soon(pump, inner, outer)
                    pumps.start_soon(pump, outer, inner)

            nursery.start_soon(tap)
            async with calls(head, site.client) as channel:
                await channel.call(Stat(b"a secret path"))
            nursery.cancel_scope.cancel()

    run(test)
    assert len(seen) > 1000
    assert b"secret" not in seen
    assert b"dF" + bytes([Kind.REQUEST]) not in seen


# --- who is refused -----------------------------------------------------------------------------------------------


def refusal(client: ClientAuth, server: ServerAuth) -> tuple[str, str]:
    """How the node is refused, and what the head notes."""

    async def test() -> tuple[str, str]:
        async with small_head(echo, server) as head:
            with pytest.raises(Refusal) as caught:
                await attach(head, client)
            await until(lambda: head.turned_away)
            assert head.peers == []
            return caught.value.message, head.turned_away[0]

    said = run(test)
    assert isinstance(said, tuple)
    return said


def test_a_node_of_another_authority(site: Site, tmp_path: Path) -> None:
    other = issue(tmp_path / "other", trustme.CA(), "node66")
    context = client_context(other.certificate, other.key, str(tmp_path / "node" / "authority"))
    told, noted = refusal(ClientAuth(tls=context), site.server)
    assert "the head refuses this node's certificate" in told
    assert "certificate is not acceptable" in noted


def test_a_node_without_a_certificate(site: Site, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / "node" / "authority"))
    told, noted = refusal(ClientAuth(tls=context), site.server)
    assert "the head refuses this node's certificate" in told
    assert "did not return a certificate" in noted


def test_a_head_of_another_authority(site: Site, tmp_path: Path) -> None:
    other = issue(tmp_path / "other", trustme.CA(), "127.0.0.1")
    server = ServerAuth(tls=server_context(other.certificate, other.key, str(tmp_path / "node" / "authority")))
    told, _ = refusal(site.client, server)
    assert "certificate is not acceptable" in told


def test_a_head_with_another_name(site: Site, tmp_path: Path) -> None:
    authority = trustme.CA()
    head = issue(tmp_path / "elsewhere", authority, "other.host")
    node = issue(tmp_path / "node2", authority, "node02")
    told, _ = refusal(
        ClientAuth(tls=client_context(node.certificate, node.key, node.authority)),
        ServerAuth(tls=server_context(head.certificate, head.key, head.authority)),
    )
    assert "IP address mismatch" in told


def test_a_plain_node_at_a_head_with_tls_only(site: Site) -> None:
    told, noted = refusal(ClientAuth(RING), site.server)
    assert told == "this head accepts authentication by tls, the node offers psk"
    assert told in noted


def test_a_head_may_take_both_and_neither_is_talked_down(site: Site) -> None:
    both = ServerAuth(RING, site.server.tls, allow_none_on_loopback=True)

    async def test() -> None:
        async with small_head(echo, both) as head:
            for auth in (site.client, ClientAuth(RING), ClientAuth()):
                (await attach(head, auth)).close()
            assert [peer.method for peer in head.peers] == ["tls", "psk", "none"]

    run(test)


def test_a_node_with_tls_at_a_plain_head(site: Site) -> None:
    async def test() -> None:
        async with small_head(echo) as head:
            with pytest.raises((Refusal, ConnectFailed)):
                await attach(head, site.client)
            assert head.peers == []

    run(test)


def test_an_older_tls_is_not_spoken(site: Site, tmp_path: Path) -> None:
    files = tmp_path / "node"
    context = ssl.create_default_context(cafile=str(files / "authority"))
    context.load_cert_chain(files / "certificate", files / "key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    refusal(ClientAuth(tls=context), site.server)


def test_a_private_key_that_others_can_read_is_refused(site: Site, tmp_path: Path) -> None:
    files = TlsFiles(*(str(tmp_path / "node" / name) for name in ("certificate", "key", "authority")))
    os.chmod(files.key, 0o644)
    with pytest.raises(UserError, match="chmod 600") as caught:
        client_context(files.certificate, files.key, files.authority)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("broken", ["certificate", "key", "authority"])
def test_files_that_are_no_certificates(site: Site, tmp_path: Path, broken: str) -> None:
    files = TlsFiles(*(str(tmp_path / "node" / name) for name in ("certificate", "key", "authority")))
    Path(getattr(files, broken)).write_text("nothing of use")
    with pytest.raises(UserError, match="Cannot use the certificate"):
        server_context(files.certificate, files.key, files.authority)
    os.unlink(getattr(files, broken))
    with pytest.raises(UserError, match="No such file"):
        server_context(files.certificate, files.key, files.authority)


# --- endings ------------------------------------------------------------------------------------------------------


def test_a_silent_stranger_at_a_head_with_tls(site: Site) -> None:
    from dadafs.wire.server import Doorkeeper, TurnedAway, authenticate
    from tests.harness.wire import tcp_pair

    async def test() -> None:
        for said in (b"", b"\x16\x03\x01"):
            one, other = tcp_pair()
            one.sendall(said)
            with pytest.raises(TurnedAway, match="not authenticated within 10 s"):
                await authenticate(other, site.server, door=Doorkeeper())
            one.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.2))


def test_a_reader_that_never_drains_is_cut_off(site: Site) -> None:
    reasons: list[str] = []

    async def flood(channel: Channel, request: Frame) -> None:
        try:
            while True:
                await channel.send(Kind.REPLY, request.request_id, Done(), bytes(MIB))
        finally:
            reasons.append(str(channel.closed))

    async def test() -> None:
        async with small_head(flood, site.server, send_timeout=60) as head:
            channel = await attach(head, site.client)
            await channel.channel.send(Kind.REQUEST, 1, READ)
            await trio.sleep(100)
            channel.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.3))
    assert reasons == ["the peer took no data for 60 s"]
