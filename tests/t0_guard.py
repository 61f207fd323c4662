"""Whatever a handler does, the kernel gets an errno: expected errors, deadlines, defects and cancellation."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dadafs.counters import Counters
from dadafs.guard import Guard, Throttle, guarded
from tests.checklogs import ExpectedLog


class Refusal(Exception):
    """As a binding would have it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Handlers:
    """One handler that does what it is given."""

    def __init__(self, patience: float = 5.0) -> None:
        self.counters = Counters()
        self.guard = Guard(
            self.counters, patience=patience, error=Refusal, describe=lambda call, arguments: f"/a/{arguments[-1]}"
        )

    @guarded("N05")
    async def read(self, work: Callable[[], Awaitable[object]], name: str = "file") -> object:
        return await self.guard.within(work())


def outcome(work: Callable[[], Awaitable[object]], handlers: Handlers | None = None) -> object:
    """What the handler returns, or the errno it refuses with."""
    handlers = handlers or Handlers()

    async def main() -> object:
        try:
            return await handlers.read(work, "file")
        except Refusal as refusal:
            return refusal.number

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def fine() -> object:
    return b"data"


def failing(problem: BaseException) -> Callable[[], Awaitable[object]]:
    async def work() -> object:
        raise problem

    return work


def test_a_result_passes() -> None:
    assert outcome(fine) == b"data"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EROFS, errno.ESTALE, errno.ENODATA, errno.EACCES])
def test_an_everyday_errno_passes_quietly(number: int) -> None:
    handlers = Handlers()
    assert outcome(failing(OSError(number, "x")), handlers) == number
    assert handlers.counters.eio_sites == {}


def test_a_failure_is_counted_at_its_site_and_names_cause_and_file(
    expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log.add(r"EIO \(N05\) read /a/file: the head is on fire")
    handlers = Handlers()
    assert outcome(failing(OSError(errno.EIO, "the head is on fire")), handlers) == errno.EIO
    assert handlers.counters.eio_sites == {"N05": 1}
    assert "EIO (N05) read /a/file: the head is on fire" in caplog.text


def test_an_error_without_errno_is_eio(expected_log: ExpectedLog) -> None:
    expected_log.add("strange")
    assert outcome(failing(OSError("strange"))) == errno.EIO


def test_a_deadline_is_eio(expected_log: ExpectedLog) -> None:
    expected_log.add(r"EIO \(N05\) .*no answer within 5 s")
    assert outcome(trio.sleep_forever) == errno.EIO


def test_without_end_of_patience_there_is_no_deadline() -> None:
    async def long() -> object:
        await trio.sleep(80_000)
        return b"at last"

    assert outcome(long, Handlers(patience=float("inf"))) == b"at last"


@pytest.mark.parametrize("problem", [ValueError("x"), KeyError(1), AssertionError(), RecursionError(), MemoryError()])
def test_a_defect_is_eio_with_a_traceback(
    problem: Exception, expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log.add(r"EIO \(N05\) .*a defect in dadafs")
    assert outcome(failing(problem)) == errno.EIO
    assert "Traceback" in caplog.text


def test_a_description_that_fails_does_not_matter(expected_log: ExpectedLog) -> None:
    expected_log.add(r"EIO \(N05\) read \?: broken")
    handlers = Handlers()
    handlers.guard._describe = lambda call, arguments: str(1 / 0)
    assert outcome(failing(OSError(errno.EIO, "broken")), handlers) == errno.EIO


def test_when_the_mount_ends_the_caller_gets_an_answer() -> None:
    handlers = Handlers()
    numbers = []

    async def waiting() -> None:
        try:
            await handlers.read(trio.sleep_forever)
        except Refusal as refusal:
            numbers.append(refusal.number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert numbers == [errno.EINTR]


def test_one_line_in_ten_seconds_says_how_many_were_held_back() -> None:
    now = 0.0
    throttle = Throttle(10.0, clock=lambda: now)
    assert throttle.passes("N01") == 0
    assert [throttle.passes("N01") for _ in range(3)] == [None, None, None]
    assert throttle.passes("N02") == 0
    now = 10.5
    assert throttle.passes("N01") == 3
    now = 21.0
    assert throttle.passes("N01") == 0
