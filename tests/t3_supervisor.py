"""A mount process that dies or is stuck: its readers get errors, and the mount comes back by itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs.fuse_connection import folder
from dadafs.mount_table import mount_at
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import DEADLINE, HeadProcess, MountProcess, wait_until

CONTENT = b"content" * 1000
_READ = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[HeadProcess]:
    """A head with two files."""
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two"):
        (tree / name).write_bytes(CONTENT)
    head = HeadProcess(tmp_path / "head", {"data": tree})
    try:
        yield head
    finally:
        head.stop()


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; what is mounted there is taken away together with its supervisor."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    yield mnt
    with contextlib.suppress(subprocess.TimeoutExpired):
        dadafs("umount", "--lazy", mnt)


def dadafs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dadafs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def supervised(head: HeadProcess, mnt: Path, options: str = "watchdog=60s") -> int:
    """Mount in the background; the pid of the process that serves."""
    done = dadafs("mount", f"{head.address}:/data", mnt, "-o", options)
    assert done.returncode == 0, done.stderr
    return serving(mnt)


def serving(mnt: Path) -> int:
    """The pid of the process that serves, 0 where none answers."""
    done = dadafs("status", mnt, "--json")
    return int(json.loads(done.stdout)["pid"]) if done.returncode == 0 else 0


def parent(pid: int) -> int:
    """The pid of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def came_back(mnt: Path, instead_of: int) -> bool:
    """Whether another process serves now."""
    try:
        (mnt / "two").stat()
    except OSError:
        return False
    return serving(mnt) not in {0, instead_of}


def blocked_reader(path: Path, node: int) -> subprocess.Popen[bytes]:
    """A process that waits for the stopped process `node`."""
    os.kill(node, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{node}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    return subprocess.Popen([sys.executable, "-c", _READ, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_mount_process_is_replaced(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt)
    for _ in range(2):
        os.kill(node, signal.SIGKILL)
        wait_until(lambda: came_back(mnt, node), "another process serves the mount", 4 * DEADLINE)  # noqa: B023
        assert (mnt / "one").read_bytes() == CONTENT
        node = serving(mnt)
    supervisor = parent(node)
    assert dadafs("umount", mnt).returncode == 0
    assert mount_at(str(mnt)) is None
    wait_until(lambda: not is_running(supervisor), "the supervisor ends with the mount")


def test_a_stuck_mount_process_is_cut_off_and_replaced(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt, "watchdog=15s")
    with blocked_reader(mnt / "one", node) as reader:
        out, err = reader.communicate(timeout=4 * DEADLINE)
    assert reader.returncode != 0
    assert out == b""
    assert b"Error" in err  # the reader was told; it does not wait in the kernel
    wait_until(lambda: came_back(mnt, node), "another process serves the mount", 4 * DEADLINE)
    assert (mnt / "one").read_bytes() == CONTENT
    assert not is_running(node)


def test_an_aborted_connection_comes_back(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt)
    need_fusectl(mnt)
    done = dadafs("abort", mnt)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: came_back(mnt, node), "another process serves the mount", 4 * DEADLINE)
    assert (mnt / "one").read_bytes() == CONTENT


def test_nobody_waits_for_a_stuck_process_once_its_connection_is_aborted(
    head: HeadProcess, mnt: Path, tmp_path: Path
) -> None:
    """As an administrator does it by hand, or systemd when a unit has failed: the process itself is still there."""
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    try:
        need_fusectl(mnt)
        assert dadafs("abort", "--if-stuck", mnt).stdout == ""  # it answers, so nothing is done
        assert (mnt / "two").read_bytes() == CONTENT
        with blocked_reader(mnt / "one", mount.pid) as reader:
            done = dadafs("abort", "--if-stuck", mnt)
            assert (done.returncode, done.stderr) == (0, "")
            _, err = reader.communicate(timeout=DEADLINE)
            assert reader.returncode != 0
            assert b"Error" in err
        assert Path(f"/proc/{mount.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        with pytest.raises(OSError):
            os.listdir(mnt)  # not an empty directory
    finally:
        os.kill(mount.pid, signal.SIGCONT)
        mount.unmount()
    log = ExpectedLog()
    log.add("aborted")
    mount.check_log(log)


def need_fusectl(mnt: Path) -> None:
    """Skip where this user cannot reach the kernel's control files; root mounts them itself."""
    there = mount_at(str(mnt))
    assert there is not None
    if not os.access(folder(there.device) / "abort", os.W_OK):
        pytest.skip("fusectl is not mounted, and only root could do that")


def test_a_mount_whose_head_is_away_waits_for_it_and_gives_errors_meanwhile(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt, "retry=1s")
    supervisor = parent(node)
    head.stop()
    os.kill(node, signal.SIGKILL)
    wait_until(lambda: not is_running(node), "it is dead")
    with pytest.raises(OSError):
        os.listdir(mnt)
    assert is_running(supervisor)
    again = HeadProcess(head.directory, {"data": head.directory.parent / "tree"}, port=head.port)
    try:
        wait_until(lambda: came_back(mnt, node), "the head is back, and so is the mount", 4 * DEADLINE)
        assert (mnt / "one").read_bytes() == CONTENT
    finally:
        dadafs("umount", "--lazy", mnt)
        again.stop()


def test_unmounting_what_a_dead_process_left_ends_the_supervisor(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt, "retry=1s")
    supervisor = parent(node)
    head.stop()
    os.kill(node, signal.SIGKILL)
    wait_until(lambda: not is_running(node), "it is dead")
    assert dadafs("umount", mnt).returncode == 0
    wait_until(lambda: not is_running(supervisor), "there is nothing left to watch over")
    assert os.listdir(mnt) == []


def test_a_signal_to_the_supervisor_takes_the_mount_down(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt)
    supervisor = parent(node)
    os.kill(supervisor, signal.SIGTERM)
    wait_until(lambda: not is_running(supervisor) and not is_running(node), "both end")
    assert mount_at(str(mnt)) is None


def test_a_mount_outlives_its_supervisor(head: HeadProcess, mnt: Path) -> None:
    node = supervised(head, mnt, "watchdog=4s")
    supervisor = parent(node)
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not is_running(supervisor), "it is dead")
    end = time.monotonic() + 3
    while time.monotonic() < end:  # the process goes on giving signs of life that nobody hears
        assert (mnt / "one").read_bytes() == CONTENT
    assert dadafs("umount", mnt).returncode == 0
