"""Statistics of a mount are for all users of a machine; the admin socket of a head is for its owner only."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from dadafs.mount_table import mount_at
from dadafs.status_socket import ask, places
from tests.conftest import Mounted
from tests.harness.processes import HeadProcess

NOBODY = 65534


def device_of(mnt: Path) -> str:
    there = mount_at(str(mnt))
    assert there is not None
    return there.device


def as_nobody(action: Callable[[], object]) -> bool:
    """Whether `action` works for another user than root and the mount's; it runs in a child process."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def connect(path: Path) -> None:
    """Connect to a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(60)
        peer.connect(str(path))


def test_statistics_are_for_all_and_administration_is_not(mounted: Mounted) -> None:
    (path,) = [each for each in places(device_of(mounted.mnt)) if each.exists()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(mounted.head.admin_socket.stat().st_mode) == 0o600


def test_another_user_sees_statistics_and_cannot_administer(mounted: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    device = device_of(mounted.mnt)
    assert as_nobody(lambda: ask(device)["pid"])
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # what stops him must be the socket, not a directory on the way to it
        head = HeadProcess(Path(folder), {"data": mounted.tree})
        try:
            assert as_nobody(lambda: head.admin_socket.lstat())
            assert not as_nobody(lambda: connect(head.admin_socket))
            connect(head.admin_socket)
        finally:
            head.stop()
