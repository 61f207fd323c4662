"""`dadafs mount` in the background: a small process that watches over the one that serves, and replaces it.

A mount process that ends without having been unmounted leaves a path that gives errors; one that is stuck leaves its
readers waiting. The supervisor aborts the connection of the latter and starts another process in both cases. That one
first finds the head and then takes the place of the dead mount at once, so that the path looks empty only for as long
as two system calls take. Under systemd (`--foreground`) the unit does it: `Restart=`, `WatchdogSec=`, `ExecStopPost=`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from dadafs import fuse_connection
from dadafs.errors import ExitCode, UserError
from dadafs.lifeline import Lifeline, News, pair, receive
from dadafs.logs import set_up_logging
from dadafs.mount_options import MountOptions
from dadafs.mount_table import FSTYPE, MOUNTINFO, mount_at, mounts
from dadafs.policy.upkeep import Pulse, Restarts
from dadafs.unmount import DeadMount, detach

log = logging.getLogger(__name__)

#: How long a killed process may take to go: one that waits for a disk does not die at once.
_DEATH = 10.0
#: Time for the stacks of a stuck process to arrive, before it is killed.
_LAST_WORDS = 1.0
_LONGEST_LINE = 4096

#: What a mount process does: serve with these options, tell the lifeline, and take the place of a dead mount.
Serve = Callable[[MountOptions, Lifeline, DeadMount], None]


def mount_in_background(options: MountOptions, serve: Serve, replacing: DeadMount) -> None:
    """Start a supervised daemon and return when the file system answers. Raises UserError where it does not.

    `replacing` is the dead mount that is there already, if any.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        if os.fork() != 0:
            os._exit(0)
        _daemon(options, serve, replacing, sender)
    os.close(sender)
    os.waitpid(child, 0)
    with os.fdopen(receiver, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise UserError("The mount process ended without a word; try again with --foreground.", ExitCode.FAILED)
    result = json.loads(answer)
    if result["code"] != ExitCode.OK:
        raise UserError(result["message"], ExitCode(result["code"]))


def _daemon(options: MountOptions, serve: Serve, replacing: DeadMount, sender: int) -> NoReturn:
    """What the daemon does."""

    answer = _Answer(sender)
    code = int(ExitCode.FAILED)
    try:
        os.chdir("/")
        _redirect(os.devnull, (0, 1))
        standing = {"source": str(options.target), "mountpoint": options.mountpoint}
        set_up_logging("dadafs", options.settings["log_level"], standing=standing, foreground=False, times=False)
        code = Supervisor(options, serve, answer).run(replacing)
    except BaseException as problem:
        log.exception("the supervisor of %s ends", options.mountpoint)
        answer(code, f"The supervisor of the mount failed: {problem!r}.")
    finally:
        os._exit(code)


def _redirect(target: str | int, descriptors: tuple[int, ...]) -> None:
    opened = os.open(target, os.O_RDWR) if isinstance(target, str) else target
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    if isinstance(target, str):
        os.close(opened)


class _Answer:
    """Tells whoever started us how it went: an exit code and a sentence, once."""

    def __init__(self, sender: int) -> None:
        self._sender = sender

    def __call__(self, code: int, message: str) -> None:
        if self._sender >= 0:
            # The terminal has heard what there was to hear; whoever waits for the end of our output may go on.
            _redirect(os.devnull, (0, 1, 2))
            os.setsid()
            os.write(self._sender, json.dumps({"code": code, "message": message}).encode())
            self.close()

    def close(self) -> None:
        """Another process answers."""
        if self._sender >= 0:
            os.close(self._sender)
        self._sender = -1


class _Process:
    """One mount process as its supervisor sees it: pid, lifeline, what it prints."""

    def __init__(
        self, options: MountOptions, serve: Serve, replacing: DeadMount, answer: _Answer, *, first: bool
    ) -> None:
        deadline = float(options.settings["watchdog"])
        self.news, lifeline = pair(deadline / 4 if deadline else None)
        self.output, write_end = os.pipe()
        os.set_blocking(self.output, False)
        self.device = ""
        self.failure: News | None = None
        self.exit_code: int | None = None
        self.was_stuck = False
        self.served_since: float | None = None
        self.pulse = Pulse(deadline, time.monotonic())
        self._line = b""
        self.pid = os.fork()
        if self.pid == 0:
            self.news.close()
            os.close(self.output)
            answer.close()
            _serve(options, serve, lifeline, replacing, write_end, first=first)
        lifeline.close()
        os.close(write_end)
        self.pidfd = os.pidfd_open(self.pid)

    def hear(self) -> bool:
        """Take in what it said; whether it began to serve just now."""
        began = False
        with suppress(EOFError):
            for news in receive(self.news):
                if news.kind == "failed":
                    self.failure = news
                elif news.kind == "serving":
                    self.device, self.served_since, began = news.device, time.monotonic(), True
                self.pulse.beat(time.monotonic())
        return began

    def log_output(self) -> None:
        """Put what it printed (libfuse's complaints, stacks after SIGUSR1) into the log."""
        with suppress(BlockingIOError):
            while data := os.read(self.output, 65536):
                *lines, self._line = (self._line + data).split(b"\n")
                for line in lines:
                    log.warning("mount process %d: %s", self.pid, line[:_LONGEST_LINE].decode(errors="replace"))
                self._line = self._line[:_LONGEST_LINE]

    def reap(self, patience: float) -> bool:
        """Whether it has ended within `patience` seconds; sets `exit_code`, that of a signal being negative."""
        ready, _, _ = select.select([self.pidfd], [], [], patience)
        if not ready:
            return False
        _, status = os.waitpid(self.pid, 0)
        self.exit_code = os.waitstatus_to_exitcode(status)
        return True

    def close(self) -> None:
        """Let go of everything that belongs to it."""
        self.hear()
        self.log_output()
        self.news.close()
        os.close(self.output)
        os.close(self.pidfd)

    @property
    def end(self) -> str:
        """Why it is not there any more, for a person."""
        if self.failure is not None:
            return self.failure.message
        if self.was_stuck:
            return "it gave no sign of life"
        code = self.exit_code or 0
        return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"

    @property
    def served(self) -> float:
        """For how many seconds it has served."""
        return 0.0 if self.served_since is None else time.monotonic() - self.served_since


def _serve(
    options: MountOptions, serve: Serve, lifeline: Lifeline, replacing: DeadMount, output: int, *, first: bool
) -> NoReturn:
    """What the mount process does: serve, and say why when it cannot. The first has the terminal until it serves."""
    code = int(ExitCode.FAILED)
    try:
        lifeline = _Redirecting(lifeline, output) if first else _redirected(lifeline, output)
        signal.set_wakeup_fd(-1)
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        for handler in list(logging.getLogger().handlers):
            logging.getLogger().removeHandler(handler)
        serve(options, lifeline, replacing)
        code = int(ExitCode.OK)
    except UserError as problem:
        code = int(problem.exit_code)
        lifeline.failed(code, str(problem))
    except BaseException as problem:
        log.exception("the mount process ends")
        lifeline.failed(code, f"The mount process failed: {problem!r}.")
    finally:
        os._exit(code)


def _redirected(lifeline: Lifeline, output: int) -> Lifeline:
    _redirect(output, (2,))
    return lifeline


class _Redirecting(Lifeline):
    """The lifeline of the first process: once it serves it leaves the terminal, and what it prints is logged.

    Not before: autofs lets only processes of its own group reach the mountpoint until the mount is made.
    """

    def __init__(self, lifeline: Lifeline, output: int) -> None:
        super().__init__(lifeline.detach(), lifeline.interval)
        self._output = output

    def serving(self, device: str) -> None:
        _redirect(self._output, (2,))
        os.setsid()
        super().serving(device)


_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Supervisor:
    """Keeps one mount alive until it is unmounted or told to stop."""

    def __init__(self, options: MountOptions, serve: Serve, answer: _Answer) -> None:
        self._options = options
        self._serve = serve
        self._answer = answer
        self._restarts = Restarts()
        self._process: _Process | None = None
        self._stopping = False
        self._wake, wakeup = socket.socketpair()
        for each in (self._wake, wakeup):
            each.setblocking(False)
        self._wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        for number in _FORWARDED:
            signal.signal(number, self._forward)

    def run(self, left_behind: DeadMount) -> int:
        """Serve in the place of the dead mount `left_behind`, if any; the exit code."""
        first = True
        while True:
            process = self._process = _Process(self._options, self._serve, left_behind, self._answer, first=first)
            self._watch(process)
            process.close()
            self._process = None
            if process.device:
                left_behind = DeadMount(process.device, required=True)
                self._answer(int(ExitCode.OK), "")
            elif first:
                return self._failed(process)
            first = False
            if self._is_over(process, left_behind.device):
                return int(ExitCode.OK)
            if self._is_for_autofs():
                return int(ExitCode.OK)
            delay = self._restarts.next_delay(process.served)
            log.warning(
                "mount process %d on %s: %s; the next starts in %.0f s", process.pid, self._path, process.end, delay
            )
            if not self._pause(delay, left_behind.device):
                return int(ExitCode.OK)

    @property
    def _path(self) -> str:
        return self._options.mountpoint

    def _forward(self, number: int, _: object) -> None:
        """A signal for the supervisor is meant for the mount."""
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        if self._process is not None and self._process.exit_code is None:
            os.kill(self._process.pid, number)

    def _is_over(self, process: _Process, device: str) -> bool:
        """Whether there is nothing left to be replaced: it was unmounted, or told to stop."""
        if self._stopping:
            return True
        return process.exit_code == 0 or not self._is_there(device)

    def _is_for_autofs(self) -> bool:
        """Below an autofs mount nobody else may mount: the dead one is taken away, and the next use mounts it again."""
        parents = [each.mountpoint for each in mounts() if each.fstype == "autofs"]
        if not any(self._path == parent or self._path.startswith(f"{parent}/") for parent in parents):
            return False
        log.warning("the mount process on %s has ended; autofs mounts it again when it is used", self._path)
        with suppress(OSError):
            detach(self._path, lazy=True)
        return True

    def _failed(self, process: _Process) -> int:
        """Tell whoever mounts that the first process did not get so far as to serve."""
        failure = process.failure
        if failure is None:
            failure = News(
                "failed", code=int(ExitCode.FAILED), message=f"The mount process did not serve: {process.end}."
            )
        self._answer(failure.code, failure.message)
        return failure.code

    def _is_there(self, device: str) -> bool:
        there = mount_at(self._path)
        return there is not None and there.fstype == FSTYPE and there.device == device

    # --- waiting --------------------------------------------------------------------------------------------

    def _watch(self, process: _Process) -> None:
        """Return when the process has ended, by itself or because it was stuck."""
        poll = select.poll()
        for descriptor in (process.news.fileno(), process.output, process.pidfd, self._wake.fileno()):
            poll.register(descriptor, select.POLLIN)
        while not process.reap(0):
            left = process.pulse.left(time.monotonic())
            if left == 0:
                self._replace_stuck(process)
                return
            for descriptor, events in poll.poll(None if left is None else left * 1000 + 1):
                if descriptor == self._wake.fileno():
                    self._drain_wakeups()
                elif events & select.POLLHUP and descriptor != process.pidfd:
                    poll.unregister(descriptor)
            if process.hear():
                self._answer(int(ExitCode.OK), "")
            process.log_output()

    def _replace_stuck(self, process: _Process) -> None:
        """Nobody waits for it any longer, and it is no more."""
        process.was_stuck = True
        log.error(
            "mount process %d on %s gave no sign of life for %s s: it is cut off and replaced",
            process.pid,
            self._path,
            self._options.settings["watchdog"],
        )
        os.kill(process.pid, signal.SIGUSR1)
        if not process.reap(_LAST_WORDS):
            process.log_output()
            for device in self._devices(process):
                problem = fuse_connection.abort(device)
                if problem is not None:
                    log.info("the connection of %s could not be aborted (%s), killing has to do", device, problem)
            os.kill(process.pid, signal.SIGKILL)
            if not process.reap(_DEATH):
                log.error("mount process %d cannot be killed: something else than its mount holds it", process.pid)

    def _devices(self, process: _Process) -> list[str]:
        """The mounts that may wait for it: also one that it made and did not live to tell of."""
        if process.device:
            return [process.device]
        return [each.device for each in mounts() if each.mountpoint == self._path and each.fstype == FSTYPE]

    def _pause(self, delay: float, device: str) -> bool:
        """Wait; False where somebody unmounted the dead mount or told us to stop meanwhile."""
        end = time.monotonic() + delay
        with MOUNTINFO.open(encoding="utf-8", errors="surrogateescape") as table:
            poll = select.poll()
            poll.register(table.fileno(), select.POLLPRI)  # the mount table changed
            poll.register(self._wake.fileno(), select.POLLIN)
            while True:
                if self._stopping or not self._is_there(device):
                    return False
                left = end - time.monotonic()
                if left <= 0:
                    return True
                poll.poll(left * 1000 + 1)
                self._drain_wakeups()

    def _drain_wakeups(self) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(64):
                pass
