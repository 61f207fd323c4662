"""The origin answers with errors, or vanishes: programs get an error that says so; afterwards all is well again."""

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


def test_a_vanished_origin_is_an_error_not_an_empty_tree(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add(r"EIO|origin|not connected|ENOTCONN")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    with (
        moody_origin(tmp_path, source) as origin,
        mounted_tree(tmp_path, origin.path, expected_log, mount_options=("-o", "retry=3s")) as (_, mount),
    ):
        origin.vanish()
        with pytest.raises(OSError, match=r"Input/output error|not connected"):
            (mount.mountpoint / "never-seen").stat()
        wait_until(lambda: _listing_fails(mount.mountpoint), "the listing is an error once it is no longer fresh")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _listing_fails(path: Path) -> bool:
    try:
        os.listdir(path)
    except OSError:
        return True
    return False
