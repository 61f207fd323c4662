"""What a measured file system is: something served on the head's side, mounted on the node's side."""

from __future__ import annotations

import contextlib
import os
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench import loads as measured
from bench.lab.data import Tree, read_everything
from bench.lab.needs import program, reason_without_fuse
from bench.lab.network import HEAD_ADDRESS
from bench.lab.side import NotReady, Side

#: What every FUSE peer gets where it may be set: with the kernel's 128 KiB all of them are several times slower.
READ_AHEAD_KB = 1024
#: Seconds in which a fresh mount has to list its root.
ANSWER_WITHIN = 20.0


@dataclass
class Site:
    """Where a peer works: the tree to serve, a scratch directory, where to mount, and both sides."""

    tree: Path
    state: Path
    mountpoint: Path
    head: Side
    node: Side
    address: str = HEAD_ADDRESS
    #: Checksums of what is in the tree (`Tree.sums`).
    sums: dict[str, list[int]] = field(default_factory=dict)


class Peer(ABC):
    """One file system: `serve` once, then `mount` and `unmount` as often as wanted, then `stop`."""

    name: ClassVar[str]
    #: What it is, in a phrase, for the table.
    about: ClassVar[str]
    #: Programs it needs, and the Debian packages that have them.
    programs: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[str] = ""
    #: Whether there is a network between head and node.
    remote: ClassVar[bool] = True
    #: Whether anything stays on the node that makes the same load again another question.
    keeps: ClassVar[bool] = True
    #: The loads it can take; empty means all.
    loads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, site: Site) -> None:
        self.site = site

    @classmethod
    def missing(cls) -> str | None:
        """Why this peer cannot be measured here; None where it can."""
        return cls.lacking() or reason_without_fuse()

    @classmethod
    def lacking(cls) -> str | None:
        """Which of its programs are not installed, and what has them; None where all are."""
        absent = [name for name in cls.programs if program(name) is None]
        return f"not installed ({', '.join(absent)}; Debian: {cls.packages})" if absent else None

    @property
    def root(self) -> Path:
        """Where the served tree appears."""
        return self.site.mountpoint

    def serve(self) -> None:
        """Start what runs on the head."""
        self.site.state.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def mount(self) -> None:
        """Mount on the node with nothing cached there; returns when it answers."""

    def unmount(self) -> None:
        """Unmount, and wait until the client has ended."""
        unmount(self.site.mountpoint)
        self.site.node.forget_ended("client")

    def warm_server(self) -> None:
        """Have the head hold everything in memory."""
        read_everything(self.site.tree)

    def run(self, name: str, tree: Tree, bound: measured.Bound, cut_off: float) -> measured.Figures:
        """One run of load `name` on the mounted tree; its figures, bytes checked. Raises `CutOff`."""
        return measured.run(name, tree, bound, cut_off)

    def stop(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self.unmount()
        self.site.node.close()
        self.site.head.close()


def program_path(name: str) -> str:
    """The path of a program that `missing` has found."""
    return program(name) or name


def is_mounted(path: Path) -> bool:
    """Whether a file system is mounted at `path` (from /proc, without touching it)."""
    fields = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return str(path) in fields


def unmount(path: Path) -> None:
    """Unmount `path` where something is mounted there, lazily where it is busy."""
    for command in (["fusermount3", "-u"], ["fusermount3", "-u", "-z"], ["umount", "-l"]):
        if not is_mounted(path):
            return
        subprocess.run([*command, str(path)], capture_output=True, check=False)


def mount_client(site: Site, argv: list[str], **env: str) -> None:
    """Start a client in the foreground as the process `client`, wait for its mount, raise its read-ahead."""
    site.mountpoint.mkdir(parents=True, exist_ok=True)
    site.node.start("client", argv, lambda: is_mounted(site.mountpoint), **env)
    if not _shows_names(site.mountpoint):
        site.node.stop("client")  # ends whoever waits for an answer of this mount
        raise NotReady(f"the mount shows no tree within {ANSWER_WITHIN:.0f} s")
    raise_read_ahead(site.mountpoint)


def _shows_names(path: Path) -> bool:
    """Whether the directory can be listed in time and has names; asked by a child, which a hang cannot harm."""
    child = subprocess.Popen(["ls", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        return bool(child.communicate(timeout=ANSWER_WITHIN)[0].strip())
    except subprocess.TimeoutExpired:
        child.kill()
        return False


def raise_read_ahead(path: Path, kib: int = READ_AHEAD_KB) -> None:
    """Set the read-ahead of the mount at `path`, where that is allowed."""
    device = os.stat(path).st_dev
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").write_text(str(kib))
