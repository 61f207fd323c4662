"""Method `tls`: the same channel over TLS 1.3 with certificates on both sides.

There is no sendfile here: payloads are read and encrypted in user space. The head tells the two apart by
the first byte, which is 0x16 for TLS and never for a frame.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import trio

from dadafs.errors import ExitCode, UserError
from dadafs.wire import frame
from dadafs.wire.channel import Channel, PayloadVanished, plain_socket
from dadafs.wire.frame import Kind
from dadafs.wire.messages import Message, encode

TLS_FIRST_BYTE = 0x16
READ_STEP = 256 * 1024


class TlsError(Exception):
    """The TLS handshake failed; the text says why."""


class HasSettings(Protocol):
    """Something that has settings by name."""

    def __getitem__(self, name: str, /) -> object: ...


class TlsFiles(NamedTuple):
    """Paths of PEM files: a certificate, its private key, and the authority that vouches for the other side."""

    certificate: str
    key: str
    authority: str


def tls_files(settings: HasSettings) -> TlsFiles | None:
    """The files that the settings `tls_certificate`, `tls_key` and `tls_authority` name, absolute; None without.

    Raises UserError where only some of the three are set.
    """
    names = [settings[f"tls_{what}"] for what in ("certificate", "key", "authority")]
    if not any(names):
        return None
    if not all(names):
        raise UserError("TLS needs all three of tls_certificate, tls_key and tls_authority.", ExitCode.USAGE)
    return TlsFiles(*(os.path.abspath(str(name)) for name in names))


def client_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """For a node: shows `certificate` (PEM files), trusts heads that `authority` vouches for. Raises
    UserError.
    """
    return _context(ssl.Purpose.SERVER_AUTH, certificate, key, authority)


def server_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """For a head: shows `certificate` (PEM files), demands one that `authority` vouches for. Raises
    UserError.
    """
    context = _context(ssl.Purpose.CLIENT_AUTH, certificate, key, authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(purpose: ssl.Purpose, certificate: str, key: str, authority: str) -> ssl.SSLContext:
    try:
        if os.stat(key).st_mode & 0o077:
            raise UserError(
                f"The private key {key} can be read by others; protect it with: chmod 600 {key}", ExitCode.USAGE
            )
        context = ssl.create_default_context(purpose, cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"Cannot use the certificate {certificate}, key {key} and authority {authority}: {reason}."
        raise UserError(message, ExitCode.USAGE) from None
    return context


async def client_channel(
    sock: trio.socket.SocketType | socket.socket, context: ssl.SSLContext, host: str, *, peer: str
) -> TlsChannel:
    """TLS as the client on `sock`, which it takes over; `host` must be in the head's certificate."""
    secure = context.wrap_socket(plain_socket(sock), server_hostname=host, do_handshake_on_connect=False)
    return await _handshake(secure, peer)


async def server_channel(
    sock: trio.socket.SocketType | socket.socket, context: ssl.SSLContext, *, peer: str
) -> TlsChannel:
    """TLS as the server on `sock`, which it takes over."""
    secure = context.wrap_socket(plain_socket(sock), server_side=True, do_handshake_on_connect=False)
    return await _handshake(secure, peer)


async def _handshake(secure: ssl.SSLSocket, peer: str) -> TlsChannel:
    try:
        while True:
            try:
                secure.do_handshake()
                return TlsChannel(secure, peer=peer)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secure)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secure)
    except OSError as error:
        secure.close()
        raise TlsError(f"no TLS connection with {peer}: {_reason(error)}") from None
    except BaseException:
        secure.close()
        raise


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not acceptable ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").replace("_", " ").lower()
    return error.strerror or str(error)


class TlsChannel(Channel):
    """A `Channel` whose socket is an `ssl.SSLSocket`."""

    plain = False

    def certificate_names(self) -> list[str]:
        """The names in the peer's certificate: its DNS names, and its common name."""
        certificate = cast(dict[str, tuple[tuple[object, ...], ...]], self._secure.getpeercert() or {})
        names = [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        subject = cast(tuple[tuple[tuple[str, str], ...], ...], certificate.get("subject", ()))
        names += [value for relative in subject for key, value in relative if key == "commonName"]
        return list(dict.fromkeys(names))

    @property
    def _secure(self) -> ssl.SSLSocket:
        return cast(ssl.SSLSocket, self._socket)

    def _try_send(self, views: list[memoryview], flags: int) -> int:
        """One piece at a time; a piece refused is offered again unchanged, as OpenSSL demands."""
        try:
            sent = self._secure.send(views[0])
        except ssl.SSLWantWriteError:
            return 0
        except OSError as error:
            raise self._fail(f"the connection was lost: {_reason(error)}") from None
        self.bytes_sent += sent
        self._credit -= sent
        return sent

    def _try_receive(self, view: memoryview) -> int:
        self._check_open()
        try:
            received = self._secure.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            raise self._fail(f"the connection was lost: {_reason(error)}") from None
        if not received:
            raise self._fail("the peer closed the connection")
        self.bytes_received += received
        self._credit -= received
        return received

    def send_now(self, kind: Kind, request_id: int, message: Message) -> bool:
        """Never: a piece that OpenSSL refused has to be offered again."""
        return False

    async def _writable(self, deadline: float, *, untouched: bool = False) -> None:
        """Nothing is ever untouched: OpenSSL may have sent part of a record that it reported as refused."""
        await super()._writable(deadline, untouched=False)

    async def send_file(
        self, kind: Kind, request_id: int, message: Message, fd: int, segments: Sequence[tuple[int, int]]
    ) -> None:
        """As `Channel.send_file`, by way of user space."""
        head = frame.pack(kind, request_id, encode(message), sum(length for _, length in segments))
        await self._enter()
        try:
            await self._send_views([memoryview(head)], 0)
            for offset, length in segments:
                await self._copy_segment(fd, offset, offset + length)
        finally:
            self._sending.release()

    async def _copy_segment(self, fd: int, offset: int, end: int) -> None:
        while offset < end:
            try:
                data = os.pread(fd, min(READ_STEP, end - offset), offset)
            except OSError as error:
                self.close(f"the file to be sent could not be read: {error.strerror}")
                raise PayloadVanished(self._closed) from None
            if not data:
                self.close("the file to be sent was shorter than promised")
                raise PayloadVanished(self._closed)
            await self._send_views([memoryview(data)], 0)
            offset += len(data)
