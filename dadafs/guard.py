"""The one wrapper around every handler: a deadline, expected errors to errno, `EIO` and one log line for the rest.

An exception that escapes a handler leaves its caller waiting for ever and ends the mount; nothing may get past here.
Each call has a numbered site (docs/error-sites.md), which stands in the log line and in the counters.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast

import trio

from dadafs.counters import Counters
from dadafs.interrupts import Interrupts
from dadafs.journal import fields

log = logging.getLogger(__name__)

R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., Coroutine[Any, Any, Any]])

#: Errors that say that something does not work, as against what a healthy file system answers every day.
_FAILURES = {errno.EIO, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_QUIET = 10.0


class Throttle:
    """Lets one line a site and ten seconds through, and counts what it held back."""

    def __init__(self, quiet: float = _QUIET, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def passes(self, site: str) -> int | None:
        """How many lines of `site` were held back since the last that passed; None: hold this one back too."""
        now = self._clock()
        if now - self._last.get(site, float("-inf")) < self._quiet:
            self._held[site] = self._held.get(site, 0) + 1
            return None
        self._last[site] = now
        return self._held.pop(site, 0)


class Guard:
    """Deadline, counters and log lines of one mount's handlers.

    `patience` is how long a handler may take, in seconds (inf: for ever); `error` makes the exception that tells
    the binding an errno; `describe` names what a call was about, from its arguments.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        patience: float,
        error: Callable[[int], Exception],
        describe: Callable[[str, tuple[Any, ...]], str],
        interrupts: Interrupts | None = None,
    ) -> None:
        self._counters = counters
        self._patience = patience
        self._describe = describe
        self._throttle = Throttle()
        self.error = error
        self.interrupts = interrupts or Interrupts(_nobody)

    async def within(self, work: Awaitable[R]) -> R:
        """The result of `work`. Raises TimeoutError where it takes longer than the patience."""
        with trio.CancelScope(deadline=trio.current_time() + self._patience) as scope:
            return await work
        if scope.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {self._patience:.0f} s")
        raise AssertionError("unreachable")

    def refused(self, site: str, call: str, problem: OSError, arguments: tuple[Any, ...]) -> Exception:
        """What to raise for an OSError; failures are counted and logged, and become EIO."""
        number = problem.errno or errno.EIO
        if number not in _FAILURES:
            return self.error(number)
        cause = problem.strerror or str(problem) or os.strerror(number)
        self._log(logging.WARNING, site, call, arguments, cause)
        return self.error(errno.EIO)

    def unexpected(self, site: str, call: str, arguments: tuple[Any, ...]) -> Exception:
        """What to raise for an exception nobody foresaw; call it while that is being handled."""
        self._log(logging.ERROR, site, call, arguments, "a defect in dadafs, please report it", exc_info=True)
        return self.error(errno.EIO)

    def _log(
        self, level: int, site: str, call: str, arguments: tuple[Any, ...], cause: str, *, exc_info: bool = False
    ) -> None:
        self._counters.eio(site)
        held = self._throttle.passes(site)
        if held is None:
            return
        try:
            what = self._describe(call, arguments)
        except Exception:
            what = "?"
        more = f" ({held} more since the last such line)" if held else ""
        about = fields(site=site, call=call, path=what)
        log.log(level, "EIO (%s) %s %s: %s%s", site, call, what, cause, more, exc_info=exc_info, extra=about)


def _nobody() -> tuple[int, int]:
    """No request is known."""
    return 0, 0


class Guarded(Protocol):
    """An object whose handlers are guarded."""

    @property
    def guard(self) -> Guard:
        """Its guard."""


def guarded(site: str) -> Callable[[H], H]:
    """Decorate a handler: whatever it raises becomes an error that the binding understands."""

    def wrap(handler: H) -> H:
        call = handler.__name__

        @functools.wraps(handler)
        async def inner(self: Guarded, *args: Any, **kwargs: Any) -> Any:
            try:
                with self.guard.interrupts.waiting():
                    return await handler(self, *args, **kwargs)
                raise self.guard.error(errno.EINTR)  # whoever asked is being killed
            except OSError as problem:
                raise self.guard.refused(site, call, problem, args) from None
            except trio.Cancelled:
                # The mount is being taken down; the kernel still wants an answer for this request.
                raise self.guard.error(errno.EINTR) from None
            except Exception as problem:
                if isinstance(problem, type(self.guard.error(0))):
                    raise
                raise self.guard.unexpected(site, call, args) from None

        return cast(H, inner)

    return wrap
