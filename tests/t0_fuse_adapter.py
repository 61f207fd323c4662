"""Every call that the kernel makes ends in the wrapper, is refused as a write, or is left to the kernel on purpose."""

from __future__ import annotations

import errno
import inspect

import pyfuse3
import pytest
import trio

from dadafs.counters import Counters
from dadafs.fuse_adapter import FuseAdapter
from dadafs.guard import Guard
from tests.checklogs import ExpectedLog

#: Not answered: the kernel then stops asking. `init` and `stacktrace` are no calls of a program.
LEFT_OUT = {"flush", "fsync", "fsyncdir", "access", "poll", "init", "stacktrace"}
CALLS = sorted(
    name
    for name, call in vars(pyfuse3.Operations).items()
    if inspect.isfunction(call) and not name.startswith("_") and name not in LEFT_OUT
)


def test_there_are_as_many_calls_as_expected() -> None:
    assert len(CALLS) > 20
    assert not LEFT_OUT & vars(FuseAdapter).keys()


@pytest.mark.parametrize("call", CALLS)
def test_whatever_a_handler_does_the_kernel_gets_an_answer(call: str, expected_log: ExpectedLog) -> None:
    """An adapter with nothing behind it: each handler fails in a way that nobody foresaw, and says EIO or EROFS."""
    expected_log.add("a defect in dadafs, please report it")
    adapter = FuseAdapter.__new__(FuseAdapter)
    adapter.guard = Guard(Counters(), patience=5, error=pyfuse3.FUSEError, describe=lambda *_: "?")
    handler = getattr(adapter, call)
    parameters = inspect.signature(handler).parameters.values()
    arguments = [None] * sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    with pytest.raises(pyfuse3.FUSEError) as answer:
        trio.run(handler, *arguments)
    assert answer.value.errno in {errno.EIO, errno.EROFS}
