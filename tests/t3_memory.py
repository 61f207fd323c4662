"""P5 on a real mount: its process stays below the RAM cache and 96 MiB, whatever is read through it."""

from __future__ import annotations

import os
import random
import re
import threading
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.many_readers import expected, page_of
from tests.harness.processes import MountProcess, mounted_tree

MIB = 2**20
CACHE = 32
FILES = 64
FILE_SIZE = 2 * MIB + 4096
NAMES = 200_000


def peak_resident(mount: MountProcess) -> int:
    """Peak resident bytes of the process that serves the mount."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{mount.pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def test_64_files_open_and_64_readers_at_once(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(FILES):
        (tree / f"{number}.h5").write_bytes(b"".join(page_of(number, page) for page in range(FILE_SIZE // 4096)))
    wrong: list[int] = []

    def read(mnt: Path, number: int) -> None:
        generator = random.Random(number)
        descriptor = os.open(mnt / f"{number}.h5", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM if number % 2 else os.POSIX_FADV_SEQUENTIAL)
            for step in range(16):
                length = generator.randrange(1, MIB // 2)
                offset = generator.randrange(FILE_SIZE) if number % 2 else step * MIB // 8
                data = os.pread(descriptor, length, offset)
                if data != expected(number, offset, min(length, FILE_SIZE - offset)):
                    wrong.append(number)
        finally:
            os.close(descriptor)

    with mounted_tree(tmp_path, tree, expected_log, mount_options=("--ram-cache", f"{CACHE}MiB")) as (_, mount):
        readers = [threading.Thread(target=read, args=(mount.mountpoint, number)) for number in range(FILES)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert wrong == []
        assert peak_resident(mount) < (CACHE + 96) * MIB


@pytest.mark.slow
def test_a_directory_of_200_000_names(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    tree = tmp_path / "tree"
    crowded = tree / "crowded"
    crowded.mkdir(parents=True)
    for number in range(NAMES):
        os.mknod(crowded / f"frame_{number:06d}.cbf")
    with mounted_tree(tmp_path, tree, expected_log, mount_options=("--ram-cache", f"{CACHE}MiB")) as (_, mount):
        with os.scandir(mount.mountpoint / "crowded") as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        assert len(sizes) == NAMES
        assert peak_resident(mount) < (CACHE + 96) * MIB
