"""The limits: the tree on its own disk without any network, and pass-through file systems over it."""

from __future__ import annotations

import os
from pathlib import Path

from bench.peers.base import Peer, mount_client, program_path


class Local(Peer):
    """The tree itself. Cold: its pages are dropped from the page cache first (posix_fadvise)."""

    name = "local"
    about = "the local file system, no network: the limit"
    remote = False

    @classmethod
    def missing(cls) -> str | None:
        return None

    @property
    def root(self) -> Path:
        return self.site.tree

    def mount(self) -> None:
        for folder, _, names in os.walk(self.site.tree):
            for name in names:
                fd = os.open(os.path.join(folder, name), os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def unmount(self) -> None:
        pass


class Bindfs(Peer):
    """A pass-through in C over the local tree: what FUSE alone costs."""

    name = "bindfs"
    about = "FUSE pass-through in C over local files, no network"
    programs = ("bindfs",)
    packages = "bindfs"
    remote = False

    def mount(self) -> None:
        tree, mountpoint = str(self.site.tree), str(self.site.mountpoint)
        options = "-o", "ro,max_readahead=1048576"
        mount_client(self.site, [program_path("bindfs"), "-f", *options, tree, mountpoint])


class PythonPassThrough(Peer):
    """A pass-through with pyfuse3 over the local tree: what FUSE in Python alone costs."""

    name = "pyfuse3"
    about = "trivial FUSE pass-through with pyfuse3 over local files, no network"
    remote = False

    def mount(self) -> None:
        arguments = ["-m", "bench.peers.passthrough", str(self.site.tree), str(self.site.mountpoint)]
        mount_client(self.site, self.site.node.python(*arguments))


class DictFs(Peer):
    """A pyfuse3 file system that answers from a dict: the least that open + fstat + close can cost in Python."""

    name = "dict"
    about = "trivial pyfuse3 file system that answers from a dict (small files only)"
    remote = False
    loads = ("opens", "metadata", "stats", "small_files")

    def mount(self) -> None:
        arguments = ["-m", "bench.peers.dictfs", str(self.site.tree), str(self.site.mountpoint)]
        mount_client(self.site, self.site.node.python(*arguments))
