"""Only what ends a process interrupts its requests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from dadafs.interrupts import Interrupts, is_dying
from tests.harness.processes import wait_until


@contextmanager
def stopped(disposition: str) -> Iterator[subprocess.Popen[str]]:
    """A process that does not run, so that signals wait for it."""
    program = f"import signal, sys; signal.signal(signal.SIGTERM, {disposition}); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _state(process.pid) == "T", "it is stopped")
        yield process
        process.kill()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("disposition", "sent", "dying"),
    [
        ("signal.SIG_DFL", signal.SIGTERM, True),
        ("signal.SIG_DFL", signal.SIGALRM, True),
        ("signal.SIG_DFL", signal.SIGCHLD, False),
        ("signal.SIG_DFL", signal.SIGWINCH, False),
        ("signal.SIG_IGN", signal.SIGTERM, False),
        ("print", signal.SIGTERM, False),
    ],
)
def test_who_is_dying(disposition: str, sent: signal.Signals, dying: bool) -> None:
    with stopped(disposition) as process:
        assert not is_dying(process.pid)
        process.send_signal(sent)
        assert is_dying(process.pid) == dying


def test_nobody_is_not_dying() -> None:
    assert not is_dying(0)
    assert not is_dying(2**22 + 1)


def test_a_request_that_is_answered_later() -> None:
    """It is known from when it is put off until it is answered, or until a handler takes it over."""
    with stopped("signal.SIG_DFL") as process:
        interrupts = Interrupts(lambda: (7, process.pid))
        answered = interrupts.later()
        interrupts.done(answered)
        asked = interrupts.later()
        assert interrupts.claim(asked)
        asked = interrupts.later()
        interrupts.interrupted(7)
        assert interrupts.claim(asked)  # it lives with whatever that was
        asked = interrupts.later()
        process.send_signal(signal.SIGTERM)
        interrupts.interrupted(7)
        assert not interrupts.claim(asked)


def test_a_handler_is_cancelled_when_its_process_is_killed() -> None:
    with stopped("signal.SIG_DFL") as process:
        trio.run(_killed_while_it_waits, process)


async def _killed_while_it_waits(process: subprocess.Popen[str]) -> None:
    numbers = iter(range(1, 3))
    interrupts = Interrupts(lambda: (next(numbers), process.pid))
    async with trio.open_nursery() as nursery:
        interrupts.start(nursery)
        with trio.fail_after(30):
            with interrupts.waiting() as first:
                interrupts.interrupted(1)
                interrupts.interrupted(99)  # nobody's
                await trio.lowlevel.checkpoint()
                process.send_signal(signal.SIGTERM)  # the kernel does not tell of a second one
                await trio.sleep_forever()
            assert first.cancelled_caught
        with interrupts.waiting() as second:
            interrupts.interrupted(1)  # that one is over
            await trio.lowlevel.checkpoint()
        assert not second.cancelled_caught
