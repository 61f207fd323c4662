"""A TCP proxy between node and head that a test can make slow, silent, or rude."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator


class Proxy:
    """Forwards loopback connections to `target`; faults are switched on by the test while it runs.

    `silent`: bytes are accepted and go nowhere, in either direction. `refuse`: new connections are reset at once.
    `reset_after`: each connection is reset when that many bytes came from the head (None: never); after the first reset
    it is switched off, so that the retry succeeds, unless `reset_always`.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.silent = False
        self.refuse = False
        self.reset_after: int | None = None
        self.reset_always = False
        self.resets = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            for sock in list(self._open):
                _reset(sock)
            self._open.clear()

    def close(self) -> None:
        """Stop accepting and reset what is open."""
        self._stopping = True
        self._listener.close()
        self.cut()
        self._thread.join(10)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                readable, _, _ = select.select([self._listener], [], [], 0.1)
                if not readable:
                    continue
                node, _ = self._listener.accept()
            except (OSError, ValueError):
                return
            if self.refuse:
                _reset(node)
                continue
            threading.Thread(target=self._serve, args=(node,), daemon=True).start()

    def _serve(self, node: socket.socket) -> None:
        try:
            head = socket.create_connection(self.target, timeout=5)
        except OSError:
            _reset(node)
            return
        with self._lock:
            self._open |= {node, head}
        from_head = 0
        try:
            while True:
                readable, _, _ = select.select([node, head], [], [], 0.1)
                if node.fileno() < 0 or head.fileno() < 0:
                    return
                if self.silent:
                    threading.Event().wait(0.02)
                    continue
                for source in readable:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is head:
                        from_head += len(data)
                        if self.reset_after is not None and from_head > self.reset_after:
                            node.sendall(data[: len(data) // 2])
                            if not self.reset_always:
                                self.reset_after = None
                            self.resets += 1
                            return
                    (head if source is node else node).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open -= {node, head}
            _reset(node)
            _reset(head)


def _reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
    sock.close()


@contextlib.contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """A proxy in front of `host`:`port`."""
    proxy = Proxy((host, port))
    try:
        yield proxy
    finally:
        proxy.close()
