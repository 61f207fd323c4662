"""Telling systemd how the mount is (sd_notify(3)); nothing where systemd did not start us."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*lines: str) -> None:
    """Send `NAME=VALUE` lines to `$NOTIFY_SOCKET`; a systemd that does not listen is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)


def watchdog_interval() -> float | None:
    """Seconds between two signs of life that systemd wants, or None."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6 / 2
    except (KeyError, ValueError):
        return None
