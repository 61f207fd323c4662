"""Log records reach journald with their fields, over a real datagram socket that speaks its native protocol."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs.journal import LONGEST_VALUE, JournalHandler, fields, stderr_is_the_journal
from dadafs.logs import set_up_logging


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """What journald does: a datagram socket at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(60)
        yield sock


@pytest.fixture
def log(tmp_path: Path, journal: socket.socket) -> Iterator[logging.Logger]:
    """A logger whose records go to `journal` only."""
    logger = logging.getLogger("tests.journal")
    handler = JournalHandler("dadafs", {"mountpoint": "/beamline"}, tmp_path / "socket")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def parse(packet: bytes) -> dict[str, bytes]:
    """The fields of one datagram, as journald reads it."""
    found = {}
    while packet:
        line, _, packet = packet.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(packet[:8], "little")
            value, packet = packet[8 : 8 + length], packet[8 + length + 1 :]
        found[name.decode()] = value
    return found


def received(journal: socket.socket) -> dict[str, bytes]:
    return parse(journal.recv(1 << 20))


def test_a_record_has_the_fields_of_the_journal_and_ours(log: logging.Logger, journal: socket.socket) -> None:
    log.warning("EIO for %s", "scan.h5", extra=fields(site="N04", path=b"raw/scan.h5", export="data"))
    found = received(journal)
    assert found["MESSAGE"] == b"EIO for scan.h5"
    assert found["PRIORITY"] == b"4"
    assert found["SYSLOG_IDENTIFIER"] == b"dadafs"
    assert found["DADAFS_SITE"] == b"N04"
    assert found["DADAFS_PATH"] == b"raw/scan.h5"
    assert found["DADAFS_EXPORT"] == b"data"
    assert found["DADAFS_MOUNTPOINT"] == b"/beamline"
    assert found["CODE_FUNC"] == b"test_a_record_has_the_fields_of_the_journal_and_ours"
    assert found["LOGGER"] == b"tests.journal"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, b"7"), (logging.INFO, b"6"), (logging.WARNING, b"4"), (logging.ERROR, b"3"), (50, b"2")],
)
def test_levels_are_priorities(log: logging.Logger, journal: socket.socket, level: int, priority: bytes) -> None:
    log.log(level, "words")
    assert received(journal)["PRIORITY"] == priority


def test_no_value_can_forge_another_field(log: logging.Logger, journal: socket.socket) -> None:
    """Names in the tree are anything: newlines and bytes that are no UTF-8 included."""
    name = b"a\nPRIORITY=0\nMESSAGE=\xff\x00"
    log.info("about %s", os.fsdecode(name), extra=fields(path=name))
    found = received(journal)
    assert found["DADAFS_PATH"] == name
    assert found["PRIORITY"] == b"6"
    assert found["MESSAGE"] == b"about " + name


def test_a_traceback_is_part_of_the_message(log: logging.Logger, journal: socket.socket) -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        log.exception("it failed")
    message = received(journal)["MESSAGE"]
    assert message.startswith(b"it failed\nTraceback")
    assert message.endswith(b"ValueError: the cause")


def test_long_values_are_cut(log: logging.Logger, journal: socket.socket) -> None:
    log.info("x" * 10 * LONGEST_VALUE, extra=fields(path=b"y" * 100_000))
    found = received(journal)
    assert len(found["MESSAGE"]) == LONGEST_VALUE
    assert len(found["DADAFS_PATH"]) == 4096


def test_a_journal_that_does_not_read_blocks_nobody_and_is_told_what_it_missed(
    log: logging.Logger, journal: socket.socket
) -> None:
    for _ in range(10_000):  # more than any socket buffer holds
        log.info("x" * 1000)
    journal.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            received(journal)
    log.info("there again")
    assert int(received(journal)["DADAFS_LOST"]) > 0
    log.info("and again")
    assert "DADAFS_LOST" not in received(journal)


def test_without_a_journal_records_are_plain_lines(
    log: logging.Logger, journal: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "socket").unlink()
    log.info("still said")
    assert capsys.readouterr().err == "INFO tests.journal: still said\n"


def test_systemd_says_whether_stderr_is_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not stderr_is_the_journal()
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert stderr_is_the_journal()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")  # inherited by a child with a file
    assert not stderr_is_the_journal()


@pytest.mark.parametrize("under_systemd", [True, False])
def test_where_log_lines_go(under_systemd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}" if under_systemd else "")
    (tmp_path / "socket").touch()
    monkeypatch.setattr("dadafs.journal.SOCKET", tmp_path / "socket")
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        set_up_logging("dadafs", "INFO", foreground=True, times=False)
        (added,) = [handler for handler in root.handlers if handler not in before[0]]
        assert isinstance(added, JournalHandler) == under_systemd
        if not under_systemd:
            assert isinstance(added, logging.StreamHandler)
            assert added.stream is sys.stderr
        root.removeHandler(added)
        added.close()
    finally:
        root.setLevel(before[1])
