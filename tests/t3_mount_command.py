"""mount(8), fstab(5) and autofs for real: each finds `mount.dadafs` in /sbin, as on a machine where it is installed.

Everything happens in a mount namespace of its own with another /sbin, so that nothing of the machine is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need_fuse
from tests.harness.processes import HeadProcess

CONTENT = "content of a file\n"

_SBIN = """
set -eu
cd {work}
mkdir sbin
cp -a /usr/sbin/. sbin/
cp helper sbin/mount.dadafs
chmod 755 sbin/mount.dadafs
mount --bind sbin /usr/sbin
test /sbin -ef /usr/sbin || mount --bind sbin /sbin
wait_for() {{  # COMMAND...: until it succeeds, a minute at most
    for _ in $(seq 600); do
        if "$@"; then return; fi
        sleep 0.1
    done
    echo "not within a minute: $*"
    return 1
}}
mounted() {{ grep -q " $1 .* fuse.dadafs " /proc/self/mountinfo; }}
not_mounted() {{ ! mounted "$1"; }}
"""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[HeadProcess]:
    """A head with one file in a directory; for root, who alone may mount by mount(8)."""
    need_fuse()
    if os.geteuid() != 0:
        pytest.skip("only root may mount with mount(8) and run automount")
    probe = ["unshare", "--mount", "--propagation", "private", "true"]
    if subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode != 0:
        pytest.skip("no mount namespaces here (a container without CAP_SYS_ADMIN)")
    tree = tmp_path / "tree"
    (tree / "p10").mkdir(parents=True)
    (tree / "p10" / "file").write_text(CONTENT)
    (tmp_path / "helper").write_text(
        f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m dadafs.mount_helper "$@"\n'
    )
    head = HeadProcess(tmp_path / "head", {"data": tree})
    try:
        yield head
    finally:
        head.stop()


def in_namespace(tmp_path: Path, script: str) -> str:
    """The output of a script where /sbin has the helper; its mounts go away with it."""
    path = tmp_path / "script"
    path.write_text(_SBIN.format(work=tmp_path) + script)
    log = tmp_path / "script.log"
    with log.open("wb") as out:  # a file: daemons that outlive the script keep it open
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
    said = log.read_text(errors="replace")
    assert done.returncode == 0, said
    return said


def test_mount_and_umount(head: HeadProcess, tmp_path: Path) -> None:
    said = in_namespace(
        tmp_path,
        f"""
        mkdir mnt
        mount -t dadafs {head.address}:/data {tmp_path}/mnt -o ro,retry=3s
        cat mnt/p10/file
        umount {tmp_path}/mnt
        mounted {tmp_path}/mnt && exit 1
        mount -t dadafs {head.address}:/nothing {tmp_path}/mnt && exit 1
        test $? != 0
        """,
    )
    assert CONTENT in said
    assert "nothing" in said.splitlines()[-1]  # the reason, in the helper's own words


def test_a_line_of_fstab(head: HeadProcess, tmp_path: Path) -> None:
    """As at boot: local file systems first, then with the network up what has `_netdev`."""
    (tmp_path / "fstab").write_text(
        f"{head.address}:/data  {tmp_path}/mnt  dadafs  ro,_netdev,nofail,allow_other,retry=3s  0 0\n"
        f"{head.address}:/data  {tmp_path}/by_hand  dadafs  noauto,_netdev,x-systemd.automount  0 0\n"
    )
    said = in_namespace(
        tmp_path,
        f"""
        mkdir mnt by_hand
        mount -a -T fstab -O no_netdev
        not_mounted {tmp_path}/mnt
        mount -a -T fstab -O _netdev
        mounted {tmp_path}/mnt
        not_mounted {tmp_path}/by_hand
        grep " {tmp_path}/mnt " /proc/self/mounts
        cat mnt/p10/file
        mount -a -T fstab   # again: what is mounted stays as it is
        mount -T fstab {tmp_path}/by_hand
        cat by_hand/p10/file
        umount {tmp_path}/mnt {tmp_path}/by_hand
        not_mounted {tmp_path}/mnt
        """,
    )
    assert said.count(CONTENT) == 2
    assert "allow_other" in said


def test_autofs_mounts_on_use_and_unmounts_what_is_idle(head: HeadProcess, tmp_path: Path) -> None:
    if shutil.which("automount", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("autofs is not installed")
    if "autofs" not in Path("/proc/filesystems").read_text() or not Path("/dev/autofs").exists():
        pytest.skip("no autofs in this kernel or container")
    (tmp_path / "master").write_text(f"{tmp_path}/beamlines {tmp_path}/map --timeout=2\n")
    (tmp_path / "map").write_text(f"p10 -fstype=dadafs,retry=3s :{head.address}:/data\n")
    said = in_namespace(
        tmp_path,
        f"""
        mkdir beamlines
        # In a group of its own: for processes of the daemon's group the kernel mounts nothing.
        setsid automount --foreground --dont-check-daemon --verbose -p {tmp_path}/pid {tmp_path}/master \\
            >automount.log 2>&1 &
        daemon=$!
        trap 'kill $daemon; cat automount.log' EXIT
        wait_for grep -q ' {tmp_path}/beamlines .* autofs ' /proc/self/mountinfo
        not_mounted {tmp_path}/beamlines/p10
        cat beamlines/p10/p10/file
        mounted {tmp_path}/beamlines/p10
        ls beamlines/unknown 2>&1 && exit 1
        wait_for not_mounted {tmp_path}/beamlines/p10      # idle for two seconds
        cat beamlines/p10/p10/file
        kill -9 $(sed 's/.*"pid":\\([0-9]*\\).*/\\1/' beamlines/p10/.dadafs/stats.json)
        wait_for cat beamlines/p10/p10/file                # the dead mount is taken away, and mounted again by use
        trap - EXIT
        kill $daemon
        wait $daemon
        not_mounted {tmp_path}/beamlines/p10
        """,
    )
    assert said.count(CONTENT) == 3
