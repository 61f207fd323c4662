"""Connections are reset in the middle of fragments: no wrong byte, no error (P2, P4)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.readers import Reader, sha256


@contextmanager
def behind_proxy(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[tuple[Path, MountProcess, Proxy]]:
    """A tree, its mount, and the proxy between mount and head."""
    need_fuse()
    expected_log.add(r"lost|closed|reset|reconnect|EOF")
    tree = tmp_path / "tree"
    tree.mkdir()
    head = HeadProcess(tmp_path / "head", {"data": tree})
    with proxy_to(head.host, head.port) as proxy:
        mount = MountProcess(
            tmp_path / "mnt",
            proxy.address,
            "data",
            tmp_path / "mount.log",
            options=("--ram-cache", "16MiB", "-o", "retry=5min"),
        )
        try:
            yield tree, mount, proxy
        finally:
            mount.unmount()
            head.stop()
        mount.check_log(expected_log)


def test_every_reset_is_survived(tmp_path: Path, expected_log: ExpectedLog) -> None:
    with behind_proxy(tmp_path, expected_log) as (tree, mount, proxy):
        for round_, cut_at in enumerate((1, 100, 5_000, 70_000, 700_000, 1_100_000, 3_000_000, 9_000_000)):
            path = tree / f"file{round_}"
            path.write_bytes(os.urandom(12 << 20))
            proxy.reset_after = cut_at
            assert Reader(mount.mountpoint / path.name).digest() == sha256(path), f"cut after {cut_at} bytes"
        assert proxy.resets >= 5, "the test did not reset what it meant to"


def test_readers_here_and_there_survive_resets_too(tmp_path: Path, expected_log: ExpectedLog) -> None:
    with behind_proxy(tmp_path, expected_log) as (tree, mount, proxy):
        content = random.Random(1).randbytes(48 << 20)
        (tree / "file").write_bytes(content)
        fd = os.open(mount.mountpoint / "file", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

        def read(place: int) -> bool:
            return os.pread(fd, 4096, place) == content[place : place + 4096]

        choose = random.Random(2)
        try:
            for cut_at in (1, 100, 5_000, 70_000, 700_000, 1_100_000, 3_000_000):
                proxy.reset_after = cut_at
                places = [choose.randrange(len(content) - 4096) for _ in range(100)]
                with ThreadPoolExecutor(8) as readers:
                    assert all(readers.map(read, places)), f"cut after {cut_at} bytes"
        finally:
            os.close(fd)
        assert proxy.resets >= 5, "the test did not reset what it meant to"
