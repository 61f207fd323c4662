"""Fragments of the smallest and the largest size, through a real mount: all bytes, in any order, and changes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until

SIZE = (9 << 20) + 12_345


def configured(tmp_path: Path, size: str) -> Path:
    config = tmp_path / "dadafsd.toml"
    config.write_text(f'[[export]]\nname = "data"\ndirectory = "{tmp_path}/tree"\nfragment_size = "{size}"\n')
    return config


@pytest.mark.parametrize("size", ["16KiB", "2MiB", "4MiB"])
def test_reads_and_changes(tmp_path: Path, size: str, expected_log: ExpectedLog) -> None:
    need_fuse()
    (tmp_path / "tree").mkdir()
    file = tmp_path / "tree" / "file"
    content = bytearray(os.urandom(SIZE))
    file.write_bytes(content)
    head = HeadProcess(tmp_path / "head", {}, options=("--config", str(configured(tmp_path, size))))
    try:
        mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log")
        try:
            there = mount.mountpoint / "file"
            assert there.read_bytes() == content
            with file.open("r+b") as changed:  # most blocks stay what they are
                for place in (0, 5 << 20, SIZE - 10):
                    content[place : place + 10] = b"0123456789"
                    changed.seek(place)
                    changed.write(b"0123456789")
            wait_until(lambda: there.read_bytes() == content, "the change")
            choose = random.Random(1)
            with there.open("rb", buffering=0) as opened:
                for _ in range(300):
                    place, length = choose.randrange(SIZE), choose.choice((10, 4096, 70_000, 3 << 20))
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert os.pread(opened.fileno(), length, place) == content[place : place + length]
        finally:
            mount.unmount()
    finally:
        head.stop()
    mount.check_log(expected_log)
    head.check_log(expected_log)


@pytest.mark.parametrize("size", ["8MiB", "3MiB"])
def test_others_are_refused_in_words(tmp_path: Path, size: str) -> None:
    (tmp_path / "tree").mkdir()
    argv = [sys.executable, "-m", "dadafsd", "--config", str(configured(tmp_path, size)), "--listen", "127.0.0.1:0"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "must be a power of two, 4MiB at most" in done.stderr
