"""The origin answers with errors: programs get an error that says so; afterwards all is well again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.moody_origin import moody_origin
from tests.harness.processes import mounted_tree, wait_until


def test_errors_reach_the_program_and_are_not_remembered(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add(r"EIO|origin|Input/output")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(1 << 20))
    with (
        moody_origin(tmp_path, source) as origin,
        mounted_tree(tmp_path, origin.path, expected_log, mount_options=("-o", "retry=3s")) as (_, mount),
    ):
        origin.feel("error")
        with pytest.raises(OSError, match="Input/output error"):
            (mount.mountpoint / "file").read_bytes()
        origin.feel("")
        wait_until(lambda: _same(mount.mountpoint / "file", source / "file"), "the origin is well again")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False
