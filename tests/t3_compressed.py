"""A real mount of a head that sends what shrinks as LZ4: the same bytes, fragment by fragment as it pays."""

from __future__ import annotations

import os
from pathlib import Path

from bench.peers.dadafs import ask_head
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess

MIB = 1 << 20


def test_files_read_the_same_whatever_went_packed(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    text = b"".join(b"line %d of a log that grows\n" % number for number in range(200_000))
    mixed = os.urandom(MIB) + bytes(MIB) + os.urandom(MIB // 2) + text[: MIB + 4321]
    for name, data in {"text": text, "mixed": mixed, "noise": os.urandom(2 * MIB), "holes": bytes(3 * MIB)}.items():
        (tree / name).write_bytes(data)
    head = HeadProcess(tmp_path / "head", {"data": tree}, env={"DADAFSD_COMPRESSION": "on"})
    try:
        for number in range(2):  # the second mount gets what was packed for the first
            mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / f"mount{number}.log")
            try:
                for path in tree.iterdir():
                    assert (mount.mountpoint / path.name).read_bytes() == path.read_bytes()
                with (mount.mountpoint / "mixed").open("rb") as file:
                    assert os.pread(file.fileno(), 5000, 3 * MIB - 2500) == mixed[3 * MIB - 2500 : 3 * MIB + 2500]
            finally:
                mount.unmount()
            mount.check_log(expected_log)
        events = ask_head(head.admin_socket, "counters")["events"]
        assert events["packed"] > 0
        assert events["packed_bytes_saved"] > 5 * MIB
    finally:
        head.stop()
    head.check_log(expected_log)
