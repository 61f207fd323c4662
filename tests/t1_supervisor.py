"""The supervisor without a kernel: what it hears from the process that serves, and what it does about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import logging, os, signal, sys, time
from dadafs.errors import ExitCode, UserError
from dadafs.mount_options import resolve
from dadafs.supervisor import Supervisor, _Answer
from dadafs.unmount import DeadMount
logging.basicConfig(filename=sys.argv[2], level="INFO", format="%(levelname)s %(message)s")
def serve(options, lifeline, replacing):
    {body}
reader, writer = os.pipe()
options = resolve("head:/data", {mountpoint!r}, dash_o=("watchdog={watchdog}",))
code = Supervisor(options, serve, _Answer(writer)).run(DeadMount())
os.write(int(sys.argv[1]), b"answer %s exit %d" % (os.read(reader, 4096), code))
"""


def supervise(body: str, tmp_path: Path, watchdog: str = "2s") -> tuple[str, str]:
    """What whoever mounts is told, with the exit code; and the log."""
    result, log = tmp_path / "result", tmp_path / "log"
    program = _PROGRAM.format(body=body, mountpoint=str(tmp_path / "mnt"), watchdog=watchdog)
    with result.open("wb") as told:
        subprocess.run(
            [sys.executable, "-c", program, str(told.fileno()), str(log)],
            pass_fds=(told.fileno(),),
            check=True,
            timeout=240,
            capture_output=True,
        )
    return result.read_text(), log.read_text()


def test_what_the_process_prints_once_it_serves_goes_to_the_log(tmp_path: Path) -> None:
    told, log = supervise("lifeline.serving('0:99999'); os.write(2, b'some words\\n'); os._exit(3)", tmp_path)
    assert 'answer {"code": 0' in told
    assert ": some words" in log


def test_a_mount_that_cannot_begin_is_told_and_not_tried_again(tmp_path: Path) -> None:
    told, _ = supervise("raise UserError('The key is wrong.', ExitCode.REFUSED)", tmp_path)
    assert '"code": 4' in told
    assert "The key is wrong." in told
    assert told.endswith("exit 4")


def test_a_defect_at_the_beginning_is_told(tmp_path: Path) -> None:
    told, _ = supervise("1 / 0", tmp_path)
    assert "ZeroDivisionError" in told
    assert told.endswith("exit 1")


@pytest.mark.parametrize("stuck", ["time.sleep(3600)", "os.kill(os.getpid(), signal.SIGSTOP)"])
def test_a_process_without_a_sign_of_life_is_killed(stuck: str, tmp_path: Path) -> None:
    told, log = supervise(f"lifeline.serving('0:99999'); {stuck}", tmp_path)
    assert told.endswith("exit 0")
    assert "gave no sign of life for 2.0 s" in log


def test_a_killed_process_whose_mount_is_gone_is_not_replaced(tmp_path: Path) -> None:
    told, _ = supervise("lifeline.serving('0:99999'); os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert told.endswith("exit 0")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_for_the_mount_may_be_sent_to_its_supervisor(name: str, tmp_path: Path) -> None:
    """SIGUSR1 makes the process show its stacks, SIGTERM makes it unmount."""
    serve = (
        f"signal.signal(signal.{name}, lambda *_: (os.write(2, b'heard of it\\n'), os._exit(0)));"
        f" lifeline.serving('0:99999'); os.kill(os.getppid(), signal.{name}); time.sleep(3600)"
    )
    told, log = supervise(serve, tmp_path, watchdog="200s")
    assert told.endswith("exit 0")
    assert ": heard of it" in log
