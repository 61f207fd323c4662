"""A head that is silent: nobody sleeps uninterruptibly for longer than `retry` allows, and who waits can be killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until
from tests.harness.proxy import proxy_to

RETRY = 3.0
#: What S14 of docs/semantics.md allows beyond `retry`, and what a noisy machine needs.
MARGIN = 30.0
SIZE = 8 << 20
#: What a program does between "ready" and its end; `file` is open, its middle is known to nobody.
WAITS = {
    "look-up": "os.stat(folder + '/unknown')",
    "listing": "os.listdir(folder + '/folder')",
    "open": "open(folder + '/other')",
    "read": f"os.pread(file, 4096, {SIZE // 2})",
    "direct read": "os.preadv(os.open(folder + '/file', os.O_RDONLY | os.O_DIRECT), "
    f"[mmap.mmap(-1, 4096)], {SIZE // 2})",
    "mapped page": f"mmap.mmap(file, 0, prot=mmap.PROT_READ)[{SIZE // 2}]",
}


class Program:
    """A process that waits for the head once it is told to go on."""

    def __init__(self, folder: Path, what: str) -> None:
        self.what = what
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import mmap, os, sys\n"
                f"folder = {str(folder)!r}\n"
                "file = os.open(folder + '/file', os.O_RDONLY)\n"
                "print('ready', flush=True)\n"
                "sys.stdin.readline()\n" + WAITS[what],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def waits(self) -> bool:
        """Whether it is in uninterruptible sleep (proc(5): state D)."""
        return self.state() == "D"

    def state(self) -> str:
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def silent(tmp_path: Path, expected_log: ExpectedLog, retry: float, waits: Iterable[str]) -> Iterator[list[Program]]:
    """A mount, programs that are about to ask for something, and a head that has just become silent."""
    need_fuse()
    expected_log.add(r"EIO|lost|closed|silent|unreachable|reconnect|no answer|timed out|reset|EOF|refused")
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    for name in ("file", "other"):
        (tree / name).write_bytes(bytes(range(1, 251)) * (SIZE // 250))
    head = HeadProcess(tmp_path / "head", {"data": tree})
    with ExitStack() as stack:
        stack.callback(head.stop)
        proxy = stack.enter_context(proxy_to(head.host, head.port))
        options = ("-o", f"retry={retry:g}s")
        mount = MountProcess(tmp_path / "mnt", proxy.address, "data", tmp_path / "mount.log", options=options)
        stack.callback(mount.unmount)
        programs = [Program(mount.mountpoint, what) for what in waits]
        for program in programs:
            stack.callback(program.close)
            program.ready()
        proxy.silent = True
        stack.callback(proxy.cut)
        stack.callback(setattr, proxy, "silent", False)
        yield programs
    mount.check_log(expected_log)


def test_nobody_stays_in_d_state(tmp_path: Path, expected_log: ExpectedLog) -> None:
    with silent(tmp_path, expected_log, RETRY, WAITS) as programs:
        for program in programs:
            program.go_on()
        for program in programs:
            wait_until(program.ended, f"{program.what} is over", RETRY + MARGIN)
            error = program.process.communicate()[1]
            if program.what == "mapped page":
                assert program.process.returncode == -signal.SIGBUS
            else:
                assert "Input/output error" in error, program.what


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_waits_can_be_killed(tmp_path: Path, expected_log: ExpectedLog, how: signal.Signals) -> None:
    """Long before the head would be given up, and in D state as well.

    But for direct reads: Linux sends them as if nobody waited, and lets nothing interrupt whoever does.
    """
    with silent(tmp_path, expected_log, 600.0, WAITS.keys() - {"direct read"}) as programs:
        for program in programs:
            program.go_on()
            wait_until(lambda program=program: program.state() in "DS" and _in_the_kernel(program), program.what)
        assert any(program.waits() for program in programs)
        for program in programs:
            program.process.send_signal(how)
        for program in programs:
            wait_until(program.ended, f"{program.what} is killed", MARGIN)


def _in_the_kernel(program: Program) -> bool:
    """Whether it waits for the mount: for a reply, or for a page that comes with one."""
    where = Path(f"/proc/{program.process.pid}/wchan").read_text()
    return any(word in where for word in ("fuse", "request_wait_answer", "folio", "page"))


def test_a_signal_that_a_program_lives_with_interrupts_nothing(tmp_path: Path, expected_log: ExpectedLog) -> None:
    """A timer that goes off is no reason for an error, and whoever got one can be killed all the same."""
    with silent(tmp_path, expected_log, 600.0, ["look-up"]) as programs:
        program = programs[0]
        program.go_on()
        wait_until(lambda: _in_the_kernel(program), "it waits")
        program.process.send_signal(signal.SIGCHLD)
        program.process.send_signal(signal.SIGINT)  # Python has a handler for it
        wait_until(lambda: program.state() == "D", "the kernel told of the signal, and waits on")
        program.process.kill()
        wait_until(program.ended, "it is killed", MARGIN)
        assert program.process.returncode == -signal.SIGKILL


def test_only_who_is_killed_is_let_go(tmp_path: Path, expected_log: ExpectedLog) -> None:
    """Each request is its own process's: one after the other is killed, and those that are left wait on."""
    with silent(tmp_path, expected_log, 600.0, ["look-up", "listing", "open"]) as programs:
        for program in programs:
            program.go_on()
        for program in programs:
            wait_until(lambda program=program: _in_the_kernel(program), program.what)
        while programs:
            killed = programs.pop(len(programs) // 2)
            killed.process.kill()
            wait_until(killed.ended, f"{killed.what} is killed", MARGIN)
            for program in programs:
                assert not program.ended(), f"{program.what} when {killed.what} was killed"
