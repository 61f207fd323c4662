"""A head says at its start, and in its status, what is wrong with the mount of its origin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dadafs import doctor
from dadafs.ctl import client
from dadafs.errors import ExitCode
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until
from tests.t3_mount_life import dadafs

#: Runs in the head before anything else: the test's table of mounts instead of the kernel's, since no test mounts NFS.
PRETEND = """
import os
import signal
import subprocess
import sys
from pathlib import Path
from dadafs import mount_table
mount_table.MOUNTINFO = Path(os.environ["TABLE_OF_MOUNTS"])
"""
LINE = "603 29 0:57 / {} ro,relatime shared:335 - nfs4 filer:/beamline ro,vers=4.2,rsize=1048576,namlen=255,{}\n"
GOOD = "acregmin=1,acregmax=1,acdirmin=1,acdirmax=1,softerr,proto=tcp,nconnect=8,lookupcache=pos"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """An exported directory, reached through a symbolic link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "origin").symlink_to("real")
    return tmp_path / "origin"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "mountinfo"


@pytest.fixture
def start(tmp_path: Path, origin: Path, table: Path, expected_log: ExpectedLog) -> Iterator[list[HeadProcess]]:
    """Heads to stop at the end; `pretended` makes them."""
    started: list[HeadProcess] = []
    yield started
    for head in started:
        head.stop()
        head.check_log(expected_log)


def pretended(tmp_path: Path, origin: Path, table: Path, options: str) -> HeadProcess:
    """A head that believes its origin to be mounted with `options`."""
    table.write_text(LINE.format(tmp_path.resolve() / "real", options))
    (tmp_path / "sitecustomize.py").write_text(PRETEND)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    env = {"PYTHONPATH": path, "TABLE_OF_MOUNTS": str(table)}
    return HeadProcess(tmp_path / "head", {"data": origin}, env=env)


def test_a_cache_longer_than_freshness_is_a_warning(
    tmp_path: Path, origin: Path, table: Path, start: list[HeadProcess], expected_log: ExpectedLog
) -> None:
    expected_log.add(r"export data: filer:/beamline on .* is mounted ")
    head = pretended(tmp_path, origin, table, "hard,proto=tcp")
    start.append(head)
    said = [line for line in head.text().splitlines() if "is mounted" in line]
    assert len([line for line in said if "WARNING" in line]) == 2
    assert "believed for 60 s (files) and 60 s (directories)" in said[0]
    with closing(client.Head(str(head.admin_socket))) as admin:
        (export,) = admin.ask("status")["exports"]
    assert len(export["mounted"]) == 4
    argv = [sys.executable, "-m", "dadafs.ctl", "--socket", str(head.admin_socket), "status"]
    shown = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "COLUMNS": "160"}
    )
    assert "actimeo=1" in shown.stdout
    table.write_text(LINE.format(tmp_path.resolve() / "real", GOOD))  # mounted anew
    with closing(client.Head(str(head.admin_socket))) as admin:
        (export,) = admin.ask("status")["exports"]
    assert export["mounted"] == []


def test_the_doctor_of_a_node_says_so_too(
    tmp_path: Path, origin: Path, table: Path, start: list[HeadProcess], expected_log: ExpectedLog
) -> None:
    need_fuse()
    expected_log.add(r"export data: filer:/beamline on .* is mounted ")
    head = pretended(tmp_path, origin, table, "hard,proto=tcp,nconnect=8,acregmax=3,acdirmax=1")
    start.append(head)
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{head.address}:/data /elsewhere dadafs ro,freshness=4s 0 0\n")
    said = [finding for finding in doctor.examine("/elsewhere", fstab) if "the head says" in finding.what]
    assert [finding.state for finding in said] == ["note"], "a mount with freshness=4s, before it is made"
    assert "is mounted hard" in said[0].what
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log")
    try:
        wait_until(
            lambda: "mount it with actimeo=1" in dadafs("doctor", mount.mountpoint).stdout, "the head has told it"
        )
        assert dadafs("doctor", mount.mountpoint).returncode == ExitCode.FAILED
        table.write_text(LINE.format(tmp_path.resolve() / "real", GOOD))  # mounted anew
        wait_until(lambda: "the head says" not in dadafs("doctor", mount.mountpoint).stdout, "it is told again")
    finally:
        mount.unmount()
    mount.check_log(expected_log)


def test_the_recommended_options_are_no_reason_to_complain(
    tmp_path: Path, origin: Path, table: Path, start: list[HeadProcess], expected_log: ExpectedLog
) -> None:
    head = pretended(tmp_path, origin, table, GOOD)
    start.append(head)
    assert "is mounted" not in head.text()
    expected_log.add(r"export data: filer:/beamline on .* is mounted ")
    table.write_text(LINE.format(tmp_path.resolve() / "real", "hard,proto=tcp"))
    os.kill(head.pid, signal.SIGHUP)
    wait_until(lambda: "reloaded" in head.text(), "the head has looked again")
    assert "actimeo=1" in head.text()
