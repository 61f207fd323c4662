"""Connections are reset in the middle of fragments: no wrong byte, no error (P2, P4)."""

from __future__ import annotations

import os
from pathlib import Path

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess
from tests.harness.proxy import proxy_to
from tests.harness.readers import Reader, sha256


def test_every_reset_is_survived(tmp_path: Path, expected_log: ExpectedLog) -> None:
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
            for round_, cut_at in enumerate((1, 100, 5_000, 70_000, 700_000, 1_100_000, 3_000_000, 9_000_000)):
                path = tree / f"file{round_}"
                path.write_bytes(os.urandom(12 << 20))
                proxy.reset_after = cut_at
                assert Reader(mount.mountpoint / path.name).digest() == sha256(path), f"cut after {cut_at} bytes"
            assert proxy.resets >= 5, "the test did not reset what it meant to"
        finally:
            mount.unmount()
            head.stop()
        mount.check_log(expected_log)
