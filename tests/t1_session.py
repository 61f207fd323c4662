"""A session over real sockets with a scripted head: requests, outages, silence, leases and pushes."""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dadafs.counters import Counters
from dadafs.errors import ExitCode, UserError
from dadafs.head_errors import HeadError
from dadafs.policy.lease import NEVER
from dadafs.policy.retry import GRACE
from dadafs.session import Session, SessionOptions
from dadafs.wire.auth import ClientAuth, ServerAuth
from dadafs.wire.keys import Key, KeyRing
from dadafs.wire.messages import (
    Changes,
    Goodbye,
    LeasesLost,
    List,
    Message,
    Open,
    RefusalCode,
    Refused,
    Stat,
)
from tests.checklogs import ExpectedLog
from tests.harness.scripted_head import (
    REAL_DEADLINE,
    Connection,
    ScriptedHead,
    after,
    failing,
    ignored,
    reset,
    scripted_node,
    settle,
    until,
    until_passing_time,
    wrong_byte,
)

FILES = {b"a": b"hello", b"b": b"x" * 100_000}


def run(test: Callable[..., Awaitable[Any]], *args: Any, clock: trio.abc.Clock | None = None) -> None:
    """Run `test`, which must end in time."""
    started = time.monotonic()
    trio.run(test, *args, clock=clock)
    assert time.monotonic() - started < REAL_DEADLINE


# --- requests -----------------------------------------------------------------------------------------------------


def test_the_head_decides_how_fresh_what_it_says_stays(expected_log: ExpectedLog) -> None:
    """What an export allows instead of the mount's wish holds from the next session on."""
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES, freshness=1.0) as (head, node):
            assert node.session.leases.freshness == 1.0
            head.freshness_ns = 20 * 10**9
            head.cut()
            await until(lambda: node.session.generation == 2, "a second session")
            assert node.session.leases.freshness == 20.0
            assert node.session.leases.keepalive_interval() == 5.0

    run(test)


def test_every_request_is_answered() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (_, node):
            session = node.session
            assert session.connected
            assert session.generation == 1
            answer = await session.stat(b"a")
            assert answer.value.attr is not None
            assert answer.value.attr.size == 5
            assert answer.generation == 1
            assert 0 <= session.now() - answer.asked_at < 10
            assert (await session.stat(b"nothing")).value.attr is None
            listed = await session.list_directory(b"")
            assert [item.name for item in listed.value.items] == [b"a", b"b"]
            assert (await session.statfs()).namemax == 255
            opened, content = await session.open(b"a")
            assert content == b"hello"
            assert (await session.resolve(opened.value.handle, b"a")).value.attr == opened.value.attr
            await session.release([opened.value.handle])

    run(test)


def test_an_error_of_the_head_keeps_its_errno_and_site() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            head.misbehave(Open, failing(errno.EACCES))
            with pytest.raises(HeadError) as caught:
                await node.session.open(b"a")
            assert caught.value.errno == errno.EACCES
            assert caught.value.site == 7

    run(test)


def test_damaged_inline_content_is_not_used() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            head.misbehave(Open, wrong_byte)
            _, content = await node.session.open(b"a")
            assert content is None
            assert node.counters.checksum_errors == 1

    run(test)


def test_pages_of_a_listing_are_handed_over_as_they_come() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (_, node):
            pages: list[tuple[int, int]] = []
            listed = await node.session.list_directory(b"", lambda page, items: pages.append((page, len(items))))
            assert pages == [(0, 2)]
            assert listed.value.items == []

    run(test)


def test_an_expired_listing_begins_again() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            head.misbehave(List, _paged, failing(errno.ESTALE))
            pages: list[int] = []
            await node.session.list_directory(b"", lambda page, items: pages.append(page))
            assert pages == [0, 0]

    run(test)


async def _paged(connection: Connection, request_id: int, request: Message) -> bool:
    """The first page of a listing that has another."""
    listing, _ = connection.head.answer(request)
    await connection.reply(request_id, type(listing)(listing.attr, listing.items, 1, True))  # type: ignore[attr-defined,call-arg]
    return True


# --- outages ------------------------------------------------------------------------------------------------------


def test_a_request_that_loses_its_connection_is_sent_again(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            head.misbehave(Stat, reset, reset)
            answer = await node.session.stat(b"a")
            assert answer.value.attr is not None
            assert answer.generation == 3
            assert node.counters.retried_requests == 2
            assert head.count(Stat) == 3

    run(test)


def test_requests_wait_for_a_head_that_restarts(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES) as (head, node), trio.open_nursery() as nursery:
            changes: list[bool] = []
            node.session.on_connection(changes.append)
            await head.stop()
            await until(lambda: not node.session.connected, "the loss is noticed")
            results: list[int] = []

            async def ask() -> None:
                results.append((await node.session.stat(b"a")).generation)

            for _ in range(5):
                nursery.start_soon(ask)
            await head.start(nursery)
            await until(lambda: len(results) == 5, "all are answered")
            assert results == [2] * 5
            assert changes == [False, True]
            nursery.cancel_scope.cancel()

    run(test)


def test_an_outage_longer_than_retry_is_eio_and_then_fails_fast(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with scripted_node(FILES, retry=30.0) as (head, node), trio.open_nursery() as nursery:
            await head.stop()
            await until(lambda: not node.session.connected, "the loss is noticed")
            errors: list[int | None] = []

            async def ask() -> None:
                try:
                    await node.session.stat(b"a")
                except OSError as error:
                    errors.append(error.errno)

            nursery.start_soon(ask)
            await until(lambda: node.counters.requests, "it asks")
            clock.jump(29.0)
            await settle()
            assert errors == []
            clock.jump(2.0)
            await until(lambda: errors, "retry is over")
            assert errors == [errno.EIO]
            clock.jump(GRACE)
            nursery.start_soon(ask)
            await settle()
            clock.jump(1.0)
            await until(lambda: len(errors) == 2, "it fails fast")
            assert node.counters.failed_requests == 2

    run(test, clock=trio.testing.MockClock())


def test_hard_waits_on(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with scripted_node(FILES, retry=30.0, hard=True) as (head, node), trio.open_nursery() as nursery:
            await head.stop()
            await until(lambda: not node.session.connected, "the loss is noticed")
            answers: list[object] = []

            async def ask() -> None:
                answers.append(await node.session.stat(b"a"))

            nursery.start_soon(ask)
            for _ in range(10):
                await settle()
                clock.jump(1000.0)
            await head.start(nursery)
            await until_passing_time(lambda: answers, "it is answered in the end")
            nursery.cancel_scope.cancel()

    run(test, clock=trio.testing.MockClock())


def test_a_silent_head_is_left_and_its_requests_are_asked_again(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head .* silent")

    async def test() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with scripted_node(FILES, retry=30.0) as (head, node), trio.open_nursery() as nursery:
            head.silent = True
            answers: list[object] = []

            async def ask() -> None:
                answers.append(await node.session.stat(b"a"))

            nursery.start_soon(ask)
            await until(lambda: head.count(Stat), "it asks")
            for _ in range(4):
                clock.jump(1.0)
                await settle()
            assert node.session.connected
            await until_passing_time(lambda: not node.session.connected, "the silence is noticed")
            assert node.counters.silent_heads == 1
            head.silent = False
            await until_passing_time(lambda: answers, "it is answered by the next connection")
            nursery.cancel_scope.cancel()

    run(test, clock=trio.testing.MockClock())


def test_a_head_that_answers_keepalives_but_not_the_request_is_eio_at_the_deadline() -> None:
    async def test() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with scripted_node(FILES, retry=3.0) as (head, node), trio.open_nursery() as nursery:
            head.misbehave(Stat, ignored)
            errors: list[int | None] = []

            async def ask() -> None:
                with pytest.raises(OSError) as caught:
                    await node.session.stat(b"a")
                errors.append(caught.value.errno)

            nursery.start_soon(ask)
            await until(lambda: head.count(Stat), "it asks")
            await until_passing_time(lambda: errors, "retry is over")
            assert errors == [errno.EIO]
            assert node.session.connected
            assert (await node.session.stat(b"a")).value.attr is not None

    run(test, clock=trio.testing.MockClock())


def test_nothing_is_left_waiting_when_the_session_stops() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node), trio.open_nursery() as nursery:
            head.misbehave(Stat, ignored)
            errors: list[OSError] = []

            async def ask() -> None:
                try:
                    await node.session.stat(b"a")
                except OSError as error:
                    errors.append(error)

            nursery.start_soon(ask)
            await until(lambda: head.count(Stat), "it asks")
            await node.session.stop()
            await until(lambda: errors, "it fails at once")
            assert errors[0].errno == errno.EIO

    run(test)


def test_a_draining_head_is_given_the_pause_it_asks_for(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            await head.push(Goodbye(10_000_000))
            await until(lambda: node.counters.pushes and node.session._links._pause == 0.01, "it is told")
            head.cut()
            assert (await node.session.stat(b"a")).generation == 2

    run(test)


# --- the first connection -----------------------------------------------------------------------------------------


def _start(options: SessionOptions) -> UserError:
    """The error that a mount would show."""

    async def test() -> UserError:
        async with trio.open_nursery() as nursery:
            with pytest.raises(UserError) as caught:
                await Session(options, Counters()).start(nursery)
            return caught.value

    return trio.run(test)


def test_no_head_there(unused_port: int) -> None:
    error = _start(SessionOptions("127.0.0.1", unused_port, "data"))
    assert error.exit_code == ExitCode.UNREACHABLE
    assert "No head answers" in str(error)


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""

    async def find() -> int:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listeners[0].socket.getsockname()[1]
        await listeners[0].aclose()
        return port

    return trio.run(find)


def test_a_key_file_that_is_not_there(tmp_path: Path, unused_port: int) -> None:
    error = _start(SessionOptions("127.0.0.1", unused_port, "data", key_file=tmp_path / "key"))
    assert error.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("code", "exit_code", "hint"),
    [
        (RefusalCode.UNKNOWN_EXPORT, ExitCode.REFUSED, "name of the export"),
        (RefusalCode.NOT_ALLOWED, ExitCode.REFUSED, "administrator"),
        (RefusalCode.VERSION, ExitCode.REFUSED, "same version"),
        (RefusalCode.DRAINING, ExitCode.UNREACHABLE, "moment"),
    ],
)
def test_a_refusal_says_what_to_do(code: RefusalCode, exit_code: ExitCode, hint: str) -> None:
    async def test() -> None:
        async with trio.open_nursery() as nursery:
            head = ScriptedHead({})
            head.refusal = Refused(code, "no")
            await head.start(nursery)
            with pytest.raises(UserError) as caught:
                await Session(SessionOptions("127.0.0.1", head.port, "data"), Counters()).start(nursery)
            assert caught.value.exit_code == exit_code
            assert hint in str(caught.value)
            nursery.cancel_scope.cancel()

    run(test)


RIGHT = KeyRing([Key("one", b"k" * 32)])
WRONG = KeyRing([Key("one", b"w" * 32)])


def test_a_wrong_key() -> None:
    async def test() -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with scripted_node(FILES, auth=ServerAuth(keys=RIGHT), client_auth=ClientAuth(keys=WRONG)):
                pass
        matched = caught.value.subgroup(UserError)
        assert matched is not None
        assert "--key-file" in str(matched.exceptions[0])

    run(test)


def test_a_key_changed_on_the_head_is_logged_once_and_tried_again(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head|cannot reconnect")

    async def test() -> None:
        auth, mine = ServerAuth(keys=RIGHT), ClientAuth(keys=RIGHT)
        async with scripted_node(FILES, auth=auth, client_auth=mine, retry=60.0) as (head, node):
            head.auth = ServerAuth(keys=WRONG)
            head.cut()
            await until(lambda: node.counters.connect_failures >= 2, "it tries")
            head.auth = auth
            assert (await node.session.stat(b"a")).generation == 2

    run(test)


# --- leases and pushes --------------------------------------------------------------------------------------------


def test_passes_keep_leases_alive_and_late_ones_do_not() -> None:
    async def test() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with scripted_node(FILES, leases=True, freshness=1.0) as (head, node):
            session = node.session
            answer = await session.stat(b"a")
            asked_at, generation = answer.asked_at, answer.generation

            def live() -> bool:
                return session.leases.live(asked_at, generation, answer.value.leased, session.now())

            for _ in range(20):
                clock.jump(0.25)
                sent = session.now()
                await until(lambda sent=sent: session.leases.horizon >= sent, "a pass comes")  # type: ignore[misc]
                assert live()
            head.passing = False
            for _ in range(4):
                clock.jump(0.25)
                await settle()
            assert not live()

    run(test, clock=trio.testing.MockClock())


def test_a_new_session_voids_leases(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES, leases=True) as (head, node):
            session = node.session
            answer = await session.stat(b"a")
            head.cut()
            await until(lambda: session.generation == 2, "a new session")
            await until(lambda: session.leases.horizon > answer.asked_at, "its first pass")
            later = answer.asked_at + 1.5
            assert not session.leases.live(answer.asked_at, answer.generation, True, later)
            assert session.leases.live(answer.asked_at, 2, True, session.leases.horizon + 0.5)

    run(test)


def test_pushes_reach_everybody_in_order() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            seen: list[Changes | LeasesLost] = []
            node.session.on_changes(seen.append)
            await head.push_change(b"a")
            await head.push(LeasesLost([b"b"]))
            await until(lambda: len(seen) == 2, "both come")
            assert isinstance(seen[0], Changes)
            assert seen[1] == LeasesLost([b"b"])
            assert node.counters.leases_lost == 1

    run(test)


def test_an_answer_that_a_push_overtakes_is_not_believed() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True) as (head, node), trio.open_nursery() as nursery:
            gate = trio.Event()
            head.misbehave(Stat, after(gate), after(gate))
            answers = {}

            async def ask(path: bytes) -> None:
                answers[path] = await node.session.stat(path)

            for path in (b"a", b"b"):
                nursery.start_soon(ask, path)
            await until(lambda: head.count(Stat) == 2, "both ask")
            await head.push_change(b"a")
            await until(lambda: node.counters.pushes, "the push comes first")
            gate.set()
            await until(lambda: len(answers) == 2, "both are answered")
            assert answers[b"a"].asked_at == NEVER
            assert answers[b"b"].asked_at > 0

    run(test)


def test_a_listing_that_a_push_overtakes_is_not_believed() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True) as (head, node), trio.open_nursery() as nursery:
            gate = trio.Event()
            head.misbehave(List, after(gate))
            answers = []

            async def ask() -> None:
                answers.append(await node.session.list_directory(b""))

            nursery.start_soon(ask)
            await until(lambda: head.count(List), "it asks")
            await head.push_change(b"new")
            await until(lambda: node.counters.pushes, "the push comes first")
            gate.set()
            await until(lambda: answers, "it is answered")
            assert answers[0].asked_at == NEVER

    run(test)
