"""Telling systemd how we are: READY, STATUS, STOPPING and the watchdog (sd_notify(3)); nothing without systemd."""

from __future__ import annotations

import os
import socket

import trio


class Notifier:
    """Sends to `$NOTIFY_SOCKET` where systemd gave us one."""

    def __init__(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        try:
            self._watchdog = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        except ValueError:
            self._watchdog = 0.0

    def send(self, *lines: str) -> None:
        """Send `NAME=VALUE` lines; an unreachable systemd is no reason to fail."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
            except OSError:
                return

    async def watchdog(self) -> None:
        """Prove at half the watchdog's interval that the loop runs; returns at once where there is no watchdog."""
        while self._watchdog and self._address:
            self.send("WATCHDOG=1")
            await trio.sleep(self._watchdog / 2)
