"""The admin's socket: a Unix socket of mode 0600, one JSON object a line in, one a line out (docs/admin-socket.md)."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from dadafs.errors import ExitCode, UserError

log = logging.getLogger(__name__)
#: The longest request, in bytes.
MAX_REQUEST = 1 << 20
#: Connections at a time.
MAX_CLIENTS = 32
#: A client that takes no answer for so long is cut off, in seconds.
SEND_SECONDS = 30.0

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def bind(path: Path) -> trio.socket.SocketType:
    """Listen at `path`. Raises UserError where that is not possible, or another process listens there."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            sock._sock.bind(os.fspath(path))  # type: ignore[attr-defined]
        finally:
            os.umask(before)
        sock.listen(MAX_CLIENTS)
    except OSError as error:
        sock.close()
        reason = "the path is too long" if error.errno is None else error.strerror
        raise UserError(f"Cannot make the admin socket {path}: {reason}.", ExitCode.FAILED) from None
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that a head left behind when it was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTSOCK):
                return
            raise
    raise UserError(f"Another process answers on the admin socket {path}: stop it first.", ExitCode.FAILED)


async def serve(sock: trio.socket.SocketType, path: Path, answer: Answer) -> None:
    """Answer requests on `sock` for ever; removes the socket at the end."""
    clients = trio.CapacityLimiter(MAX_CLIENTS)
    try:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    peer, _ = await sock.accept()
                except OSError:
                    await trio.sleep(0.1)
                    continue
                nursery.start_soon(_converse, trio.SocketStream(peer), clients, answer)
    finally:
        sock.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240


async def _converse(stream: trio.SocketStream, clients: trio.CapacityLimiter, answer: Answer) -> None:
    async with stream, clients:
        buffer = bytearray()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            while True:
                while (end := buffer.find(b"\n")) < 0:
                    data = await stream.receive_some(65536)
                    if not data or len(buffer) > MAX_REQUEST:
                        return
                    buffer += data
                reply = await _reply(bytes(buffer[:end]), answer)
                del buffer[: end + 1]
                with trio.fail_after(SEND_SECONDS):
                    await stream.send_all(json.dumps(reply).encode() + b"\n")


async def _reply(line: bytes, answer: Answer) -> dict[str, Any]:
    """The answer to one line; every failure is an answer, too."""
    try:
        request = json.loads(line)
    except ValueError as error:
        return {"ok": False, "error": f"not JSON: {error}"}
    if not isinstance(request, dict):
        return {"ok": False, "error": "a request is a JSON object"}
    try:
        return {"ok": True, **await answer(request)}
    except (UserError, OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return {"ok": False, "error": reason}
    except Exception as error:
        log.exception("a command on the admin socket failed")
        return {"ok": False, "error": f"internal error: {error!r}"}
