"""Every EIO has a numbered site, a counter and one throttled log line that names the cause and the file.

Over all sites there are: each handler of the node's adapter and each site of the head, made to fail in every way.
"""

from __future__ import annotations

import errno
import inspect
import logging
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pyfuse3
import pytest
import trio
import trio.testing

from dadafs.counters import Counters
from dadafs.fuse_adapter import FuseAdapter
from dadafs.guard import Throttle
from dadafs.virtual_files import VirtualFiles
from dadafs.wire.messages import Failed, Stat
from dadafsd.counters import Counters as HeadCounters
from dadafsd.service import Service
from dadafsd.sessions import Sessions
from dadafsd.sites import ErrorLog, Failure, Site
from tests.checklogs import ExpectedLog
from tests.conftest import REPOSITORY

SOURCE = (REPOSITORY / "dadafs" / "fuse_adapter.py").read_text()
#: Handler by site.
HANDLERS: dict[str, str] = dict(re.findall(r'@guarded\("(N\d+)"\)\s+async def (\w+)\(', SOURCE))
FILE, HANDLE = 5, 7
#: Who asks.
CALLER = SimpleNamespace(uid=1000, gid=1000, pid=1)
#: What each handler is called with, and how its log line names what that was about.
CALLS: dict[str, tuple[tuple[Any, ...], str]] = {
    "lookup": ((FILE, b"name"), "/object5/name"),
    "getattr": ((FILE,), "/object5"),
    "forget": (([(FILE, 1)],), "/object5"),
    "readlink": ((FILE,), "/object5"),
    "opendir": ((FILE,), "/object5"),
    "readdir": ((HANDLE, 0, None), "/open7"),
    "releasedir": ((HANDLE,), "/open7"),
    "open": ((FILE, 0), "/object5"),
    "read": ((HANDLE, 4096, 100), r"/open7 \(100 bytes at 4096\)"),
    "release": ((HANDLE,), "/open7"),
    "statfs": ((), "/"),
    "getxattr": ((FILE, b"user.x"), "/object5"),
    "listxattr": ((FILE,), "/object5"),
}


class Broken:
    """Operations, open directories and explainer in one: nothing is known, and `fail` is called for the rest."""

    def __init__(self, fail: Callable[[], object]) -> None:
        self._fail = fail

    session = SimpleNamespace(mapping=None)

    @property
    def directories(self) -> Broken:
        return self

    def name_of(self, node_id: int) -> str:
        return f"/object{node_id}"

    def name_of_handle(self, handle: int) -> str:
        return f"/open{handle}"

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.endswith("_known"):
            return lambda *arguments: None
        return lambda *arguments: self._fail()


def adapter_that_fails(fail: Callable[[], object], counters: Counters) -> FuseAdapter:
    broken: Any = Broken(fail)
    return FuseAdapter(broken, VirtualFiles({}), broken, counters, patience=5.0)


def outcome(adapter: FuseAdapter, call: str, times: int = 1) -> int:
    """The errno that `call` is answered with, each time."""

    async def main() -> int:
        numbers = set()
        for _ in range(times):
            with pytest.raises(pyfuse3.FUSEError) as refusal:
                handler = getattr(adapter, call)
                caller = {"ctx": CALLER} if "ctx" in inspect.signature(handler).parameters else {}
                await handler(*CALLS[call][0], **caller)
            numbers.add(refusal.value.errno)
        (number,) = numbers
        return int(number)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def raising(problem: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise problem

    return fail


WAYS = {
    "an error of the head": (raising(OSError(errno.EIO, "the head is on fire")), "the head is on fire"),
    "no descriptors": (raising(OSError(errno.EMFILE, "Too many open files")), "Too many open files"),
    "a defect": (raising(KeyError("oops")), "a defect in dadafs, please report it"),
    "no answer": (trio.sleep_forever, "no answer within 5 s"),
}


#: Handlers that ask nobody have nobody to wait for.
ASK_NOBODY = {"forget", "release", "releasedir"}
CASES = [
    (site, way)
    for site, call in sorted(HANDLERS.items())
    for way in WAYS
    if way != "no answer" or call not in ASK_NOBODY
]


@pytest.mark.parametrize(("site", "way"), CASES)
def test_every_site_of_the_node(
    site: str, way: str, expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    call = HANDLERS[site]
    fail, cause = WAYS[way]
    expected_log.add(r"EIO \(N\d\d\)")
    counters = Counters()
    assert outcome(adapter_that_fails(fail, counters), call, times=5) == errno.EIO
    assert counters.eio_sites == {site: 5}
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.fullmatch(rf"EIO \({site}\) {call} {CALLS[call][1]}: {re.escape(cause)}", lines[0])
    assert len(lines) == 1, "throttled: the other four are only counted"


def test_the_next_line_says_how_many_were_held_back(
    expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log.add(r"EIO \(N05\)")
    now = [0.0]
    adapter = adapter_that_fails(raising(OSError(errno.EIO, "broken")), Counters())
    adapter.guard._throttle = Throttle(10.0, clock=lambda: now[0])
    outcome(adapter, "read", times=4)
    now[0] = 11.0
    outcome(adapter, "read")
    assert caplog.records[-1].getMessage().endswith("broken (3 more since the last such line)")


def test_no_handler_is_without_a_guard() -> None:
    """Whatever the kernel may ask is guarded, refused as a whole, or left to the binding, which says ENOSYS."""
    for name, handler in vars(FuseAdapter).items():
        if inspect.iscoroutinefunction(handler) and not name.startswith("_"):
            assert name in HANDLERS.values() or handler.__name__ == "handler", name
    assert set(HANDLERS.values()) == set(CALLS)


# --- the head -----------------------------------------------------------------------------------------------------

SITES = sorted(set(Site) - {Site.NONE, Site.INTERNAL})


def ask(service: Service, fail: Callable[[], object]) -> Failed:
    """The service's answer to a request that fails so."""

    async def method(session: object, request: object) -> None:
        fail()

    service._methods[Stat] = method
    session: Any = SimpleNamespace(exported=SimpleNamespace(name="data"), handles={})
    reply = trio.run(service.answer, session, Stat(b"scan/file.h5"))
    assert reply is not None
    assert isinstance(reply.message, Failed)
    return reply.message


@pytest.mark.parametrize("site", SITES)
def test_every_site_of_the_head(site: Site, expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture) -> None:
    expected_log.add(rf"site {int(site)} ")
    service = Service(Sessions(), HeadCounters())
    for _ in range(5):
        failed = ask(service, raising(Failure(errno.EIO, site, "the filer is on fire")))
        assert (failed.errno, failed.site, failed.message) == (errno.EIO, int(site), "the filer is on fire")
    assert service.errors.counts == {site: 5}
    assert [record.getMessage() for record in caplog.records] == [
        f"site {int(site)} ({site.name.lower()}): 'data:/scan/file.h5': [Errno 5] the filer is on fire"
    ]


@pytest.mark.parametrize(
    ("problem", "site"),
    [
        (OSError(errno.EIO, "Input/output error"), Site.ORIGIN_ERROR),
        (OSError(errno.EREMOTEIO, "Remote I/O error"), Site.ORIGIN_ERROR),
        (OSError(errno.EMFILE, "Too many open files"), Site.DESCRIPTORS),
        (OSError(errno.ENFILE, "Too many open files in system"), Site.DESCRIPTORS),
        (ValueError("a defect"), Site.INTERNAL),
    ],
)
def test_what_the_origin_says_gets_its_site(problem: Exception, site: Site, expected_log: ExpectedLog) -> None:
    expected_log.add(rf"site {int(site)} \({site.name.lower()}\): 'data:/scan/file.h5'")
    service = Service(Sessions(), HeadCounters())
    assert ask(service, raising(problem)).site == int(site)
    assert service.errors.counts == {site: 1}


def test_the_head_says_how_many_were_held_back(expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture) -> None:
    expected_log.add("site 103")
    now = [0.0]
    log = ErrorLog(lambda: now[0], interval=30.0)
    for _ in range(4):
        log.failed(Site.ORIGIN_ERROR, "data", b"a", "broken")
    now[0] = 31.0
    log.failed(Site.ORIGIN_ERROR, "data", b"b", "broken")
    assert [record.getMessage() for record in caplog.records] == [
        "site 103 (origin_error): 'data:/a': broken",
        "site 103 (origin_error): 'data:/b': broken (3 more of these since the last line)",
    ]
