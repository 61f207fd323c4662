"""The origin is gone (its server died): the mount gives errors and never looks empty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.moody_origin import moody_origin
from tests.harness.processes import mounted_tree, wait_until


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


def _listing_fails(path: Path) -> bool:
    try:
        os.listdir(path)
    except OSError:
        return True
    return False
