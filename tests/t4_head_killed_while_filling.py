"""kill -9 of the head at random moments while it fills its cache: no wrong byte, ever (P2, P7).

The cache directory is kept over all rounds, so each round reads what the kills before it left there.
`DADA_KILL_ROUNDS=200` is the long form; CI runs a short one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess
from tests.harness.readers import Reader, sha256

ROUNDS = int(os.environ.get("DADA_KILL_ROUNDS", "12"))


def test_no_wrong_byte_after_any_kill(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add(r"lost|closed|reset|reconnect|EOF|refused|unreachable|damaged")
    chance = random.Random(20261125)
    tree = tmp_path / "tree"
    tree.mkdir()
    files = [tree / f"file{i}" for i in range(4)]
    for path in files:
        path.write_bytes(os.urandom(16 << 20))
    expected = {path.name: sha256(path) for path in files}
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(
        tmp_path / "mnt",
        head.address,
        "data",
        tmp_path / "mount.log",
        options=("--ram-cache", "16MiB", "-o", "retry=5min"),
    )
    try:
        for _ in range(ROUNDS):
            path = chance.choice(files)
            os.utime(path)  # a new version: the head must fill again
            readers = [Reader(mount.mountpoint / name) for name in chance.sample(sorted(expected), 2)]
            # Kill when a random part of the file went through, not after a random time.
            _wait_for_progress(head, chance.random() * 0.9)
            head.kill()
            head = HeadProcess(tmp_path / "head", {"data": tree}, port=head.port)
            digests = {reader.digest() for reader in readers}
            assert digests <= set(expected.values())
            assert sha256(mount.mountpoint / path.name) == expected[path.name]
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)
    head.check_log(expected_log)


def _wait_for_progress(head: HeadProcess, part: float) -> None:
    """Return when the head has read `part` of 16 MiB since the call, or has nothing more to read."""
    start = _read_so_far(head)
    idle = 0
    last = start
    while idle < 2000 and last - start < part * (16 << 20):
        now = _read_so_far(head)
        idle = idle + 1 if now == last else 0
        last = now


def _read_so_far(head: HeadProcess) -> int:
    """Bytes the process has read by system calls (/proc/PID/io)."""
    text = Path(f"/proc/{head.pid}/io").read_text()
    return int(text.split("rchar:")[1].split()[0])
