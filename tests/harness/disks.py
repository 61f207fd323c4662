"""Small real file systems on loop devices, for tests that fill, fail or unmount a disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_MKFS = {"ext4": ["mkfs.ext4", "-q", "-m", "0"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}

_FS_IOC_SHUTDOWN = 0x8004587D
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")


class LoopDisk:
    """A file system in a file, mounted at `path`."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image = image
        self.path = path

    def mount(self) -> None:
        """Mount it (again)."""
        _run("mount", "-o", "loop,noatime", str(self.image), str(self.path))

    def remount(self, option: str) -> None:
        """Change a mount option: `ro` or `rw`."""
        _run("mount", "-o", f"remount,{option}", str(self.path))

    def shut_down(self) -> None:
        """Let the kernel treat the disk as dead: every access fails with EIO from now on, until it is mounted anew."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, (2).to_bytes(4, "little"))  # 2: without flushing the log
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let every write wait until the end of this context; what is there can be read."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FIFREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(fd, _FITHAW, 0)
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Unmount it; raises `OSError` where somebody still uses it."""
        _run("umount", str(self.path))

    def detach(self) -> None:
        """Unmount at once, whoever still uses it."""
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@contextlib.contextmanager
def loop_disk(directory: Path, kind: str, size: int) -> Iterator[LoopDisk]:
    """A fresh file system of `size` bytes; skips where this machine cannot have one, and says why."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a loop device")
    mkfs = _MKFS[kind]
    if shutil.which(mkfs[0]) is None:
        pytest.skip(f"{mkfs[0]} is not installed")
    image, path = directory / f"{kind}.img", directory / f"{kind}.mnt"
    with image.open("wb") as file:
        file.truncate(size)
    path.mkdir()
    _run(*mkfs, str(image))
    disk = LoopDisk(image, path)
    try:
        disk.mount()
    except OSError as error:
        pytest.skip(f"this machine cannot mount a loop device: {error}")
    try:
        yield disk
    finally:
        disk.detach()
        image.unlink(missing_ok=True)
