"""dadafs itself: a head with an SSD cache beside the tree, a mount with default options."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from bench.lab.data import read_everything
from bench.lab.side import Side
from bench.peers.base import Peer, Site, is_mounted, unmount

PORT = 7070


class Dadafs(Peer):
    """A real `dadafsd` and a real `dadafs mount`, authenticated with a key."""

    name = "dadafs"
    about = "dadafs, default options, key authentication"
    #: Further arguments of the two commands.
    head_options: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.key = site.state / "key"
        self.admin = site.state / "admin.sock"

    @classmethod
    def missing(cls) -> str | None:
        for module in ("dadafs.cli", "dadafsd.cli"):
            if importlib.util.find_spec(module) is None:
                return f"this checkout has no {module}"
        return super().missing()

    def serve(self) -> None:
        if not self.key.exists():
            with open(os.open(self.key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
                out.write(secrets.token_hex(32) + "\n")
        argv = ["-m", "dadafsd", "--listen", f"{self.site.address}:{PORT}", "--export", f"data={self.site.tree}"]
        argv += ["--cache-dir", str(self.site.state / "cache"), "--cache-size", "16GiB"]
        argv += ["--admin-socket", str(self.admin), "--key-file", str(self.key), *self.head_options]
        self.site.head.start("dadafsd", self.site.head.python(*argv), r"^ready on ")

    def mount(self) -> None:
        mount_dadafs(self.site.node, self.site, self.key, self.mount_options)

    def warm_server(self) -> None:
        """Everything through the head once, then the head's own cache files into memory."""
        read_everything(self.site.tree)
        self.mount()
        read_everything(self.root)
        self.unmount()

    def ask(self, command: str) -> dict[str, Any]:
        """What the head's admin socket answers to `command` (docs/admin-socket.md)."""
        return ask_head(self.admin, command)

    def origin(self) -> dict[str, int]:
        """What the head has read of the origin so far: `reads` and `bytes`."""
        return {entry["what"]: entry["count"] for entry in self.ask("counters")["origin"]}


def mount_dadafs(side: Side, site: Site, key: os.PathLike[str], options: tuple[str, ...] = ()) -> None:
    """`dadafs mount` of the head at `site.address` on `side`, as its process `client`."""
    site.mountpoint.mkdir(parents=True, exist_ok=True)
    argv = ["-m", "dadafs", "mount", f"{site.address}:{PORT}:/data", str(site.mountpoint), "--foreground"]
    side.start("client", side.python(*argv, "--key-file", str(key), *options), r"^mounted on ")
    if not is_mounted(site.mountpoint):
        unmount(site.mountpoint)
        raise RuntimeError(f"dadafs said that {site.mountpoint} is mounted, and it is not")


def ask_head(admin: Path, command: str) -> dict[str, Any]:
    """One command on a head's admin socket. Raises RuntimeError with the head's own words where it says no."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(admin))
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
    if not answer.get("ok"):
        raise RuntimeError(f"the head says: {answer.get('error')}")
    return answer
