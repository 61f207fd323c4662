"""A mount with certificates instead of a key: bytes arrive, the wrong certificate is one clear sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from dadafs.errors import ExitCode
from dadafs.wire.tls import TlsFiles
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.certificates import as_toml, issue
from tests.harness.processes import mounted_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


def head_options(tmp_path: Path, files: TlsFiles) -> tuple[str, ...]:
    config = tmp_path / "dadafsd.toml"
    config.write_text(as_toml(files))
    return "--config", str(config)


def mount_options(files: TlsFiles) -> tuple[str, ...]:
    return "-o", ",".join(f"tls_{what}={path}" for what, path in files._asdict().items())


def test_a_tree_is_read_over_tls(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    authority = trustme.CA()
    data = os.urandom(5_000_000)
    (tree / "large").write_bytes(data)
    (tree / "small").write_bytes(b"content")
    with mounted_tree(
        tmp_path,
        tree,
        expected_log,
        head_options=head_options(tmp_path, issue(tmp_path / "head-certificate", authority, "127.0.0.1")),
        mount_options=mount_options(issue(tmp_path / "node-certificate", authority, "node01")),
    ) as (_, mount):
        assert (mount.mountpoint / "large").read_bytes() == data
        assert (mount.mountpoint / "small").read_bytes() == b"content"


def test_a_certificate_that_the_head_does_not_know(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    authority = trustme.CA()
    ours = issue(tmp_path / "node-certificate", authority, "node01")
    stranger = issue(tmp_path / "stranger", trustme.CA(), "node01")
    with mounted_tree(
        tmp_path,
        tree,
        expected_log,
        head_options=head_options(tmp_path, issue(tmp_path / "head-certificate", authority, "127.0.0.1")),
        mount_options=mount_options(ours),
    ) as (head, _):
        (tmp_path / "other").mkdir()
        wrong = TlsFiles(stranger.certificate, stranger.key, ours.authority)
        argv = [sys.executable, "-m", "dadafs", "mount", f"{head.address}:/data", str(tmp_path / "other")]
        for options in (mount_options(wrong), ()):
            ended = subprocess.run([*argv, *options], capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == ExitCode.REFUSED, ended.stderr
            assert "Traceback" not in ended.stderr
            assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert not os.path.ismount(tmp_path / "other")
