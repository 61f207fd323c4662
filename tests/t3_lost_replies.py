"""A look-up whose caller is gone when it is answered leaves no reference behind, whoever answered it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dadafs.native import fuse_session
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.lost_replies import LostReplies
from tests.harness.processes import HeadProcess, MountProcess


def known(mnt: Path) -> int:
    """How many objects the node keeps for the kernel."""
    tree = json.loads((mnt / ".dadafs/stats.json").read_text())["open"]
    return int(tree["nodes"]) + int(tree["listed_nodes"])


@pytest.mark.skipif(fuse_session is None, reason="without the compiled part pyfuse3 drops what a reply came to")
def test_a_look_up_that_was_aborted_keeps_nothing(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"file{number}").write_bytes(b"x")
    lost = LostReplies(tmp_path)
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"})
    mount = MountProcess(
        tmp_path / "mnt",
        head.address,
        "data",
        tmp_path / "mount.log",
        options=("-o", "freshness=10min"),
        env=lost.env,
    )
    mnt = mount.mountpoint
    try:
        before = known(mnt)
        for number in range(20):  # asked of the head one by one, then, once it listed the directory, answered in place
            lost.lose(1)
            with pytest.raises(OSError) as interrupted:
                os.stat(mnt / f"file{number}")
            assert interrupted.value.errno == errno.EINTR
            assert lost.left == 0
        assert known(mnt) == before
        for number in range(20):
            assert (mnt / f"file{number}").read_bytes() == b"x"
        assert known(mnt) == before + 20
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)
    head.check_log(expected_log)
