"""The unit of a mount, carried out as systemd does it: ready, watchdog, killing, `ExecStopPost=`, restart.

The commands are those of the unit itself. systemd is not run: where it starts, it tidies up the whole machine (`/tmp`).
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs.fuse_connection import folder
from dadafs.mount_table import mount_at
from tests.checklogs import ExpectedLog
from tests.conftest import REPOSITORY, need_fuse
from tests.harness.processes import DEADLINE, HeadProcess, LoggedProcess, wait_until

UNIT = REPOSITORY / "systemd" / "dadafs@.service"
_READ = "import sys; open(sys.argv[1], 'rb').read()"


def command(setting: str, source: str, mnt: Path) -> list[str]:
    """A command of the unit, for the dadafs that is tested and without a key."""
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith(f"{setting}=")]
    text = line.partition("=")[2].lstrip("-").replace("--key-file /etc/dadafs/key", "")
    text = text.replace("${SOURCE}", source).replace("%f", str(mnt)).replace("${OPTIONS}", "retry=5s")
    program, *arguments = shlex.split(text)
    assert program == "/usr/local/bin/dadafs"
    return [sys.executable, "-m", "dadafs", *arguments]


class Service:
    """One run of the unit's process; `heard` is what systemd was told."""

    def __init__(self, directory: Path, source: str, mnt: Path) -> None:
        self.address = directory / "notify"
        self.address.unlink(missing_ok=True)
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(self.address))
        self.systemd.settimeout(DEADLINE)
        environment = {"NOTIFY_SOCKET": str(self.address), "WATCHDOG_USEC": "1000000"}
        self.process = LoggedProcess(command("ExecStart", source, mnt), directory / "service.log", environment)
        self.heard = ""

    def hear(self, word: str) -> None:
        """Wait until systemd is told `word`."""
        while word not in self.heard:
            self.heard += self.systemd.recv(4096).decode() + "\n"

    def has_gone_silent(self) -> bool:
        """Whether no sign of life came for several of the intervals it promised."""
        self.systemd.settimeout(5)
        try:
            self.systemd.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.systemd.settimeout(DEADLINE)
        return False

    def close(self) -> None:
        self.systemd.close()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[HeadProcess]:
    """A head with one file."""
    need_fuse()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"content")
    (tmp_path / "mnt").mkdir()
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"})
    try:
        yield head
    finally:
        mount = [sys.executable, "-m", "dadafs", "umount", "--dead", str(tmp_path / "mnt")]
        subprocess.run(mount, check=False, capture_output=True, timeout=120)
        head.stop()


def test_a_stuck_service_is_killed_cleaned_up_after_and_restarted(head: HeadProcess, tmp_path: Path) -> None:
    mnt, source = tmp_path / "mnt", f"{head.address}:/data"
    first = Service(tmp_path, source, mnt)
    first.hear("READY=1")
    first.hear("WATCHDOG=1")
    assert (mnt / "file").read_bytes() == b"content"
    there = mount_at(str(mnt))
    assert there is not None

    os.kill(first.process.pid, signal.SIGSTOP)
    wait_until(first.has_gone_silent, "the watchdog runs out")
    reader = subprocess.Popen([sys.executable, "-c", _READ, str(mnt / "file")], stderr=subprocess.PIPE)
    cleaning = command("ExecStopPost", source, mnt)
    if os.access(folder(there.device) / "abort", os.W_OK):
        # As if SIGKILL did nothing, for a process that its own mount holds: this alone lets everybody go.
        subprocess.run(cleaning, check=True, timeout=4 * DEADLINE)
    else:
        first.process.kill()
    _, said = reader.communicate(timeout=DEADLINE)
    assert reader.returncode != 0
    assert b"Error" in said
    if first.process.process.poll() is None:
        first.process.kill()
    subprocess.run(cleaning, check=True, timeout=4 * DEADLINE)
    with pytest.raises(OSError):
        os.listdir(mnt)  # until the next process takes its place there are errors, not an empty directory
    first.close()

    second = Service(tmp_path, source, mnt)
    try:
        second.hear("READY=1")
        assert (mnt / "file").read_bytes() == b"content"
    finally:
        assert second.process.stop() == 0
        second.hear("STOPPING=1")
        second.close()
    assert mount_at(str(mnt)) is None
    second.process.check_log(ExpectedLog())


def test_the_watchdogs_signal_shows_the_stacks(head: HeadProcess, tmp_path: Path) -> None:
    service = Service(tmp_path, f"{head.address}:/data", tmp_path / "mnt")
    service.hear("READY=1")
    os.kill(service.process.pid, signal.SIGABRT)
    assert service.process.process.wait(DEADLINE) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in service.process.text()
    assert "most recent call first" in service.process.text()
    service.close()
