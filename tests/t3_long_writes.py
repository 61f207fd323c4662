"""A write in place that takes long: the file has its new times from the beginning and its new bytes in the end.

Whoever reads in between finds old bytes under times that do not change any more. The writer here writes from a memory
map of another mount, whose head is stopped meanwhile: one system call that takes as long as the test wants.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dadafs.ctl import client
from dadafs.wire.messages import Attr, Version
from dadafsd import long_writes
from dadafsd.open_files import OpenFile
from tests.checklogs import ExpectedLog
from tests.conftest import Mounted
from tests.harness.processes import HeadProcess, MountProcess, mounted_tree, wait_until

SIZE = 1 << 20
OLD, NEW = b"a" * SIZE, b"b" * SIZE
_WRITER = """
import mmap, os, sys
source = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
target = os.open(sys.argv[2], os.O_RDWR)
print("ready", flush=True)
sys.stdin.readline()
print(os.pwrite(target, source, 0), flush=True)
"""


@contextmanager
def writing(path: Path, source: Path, source_head: HeadProcess) -> Iterator[None]:
    """One write of the whole of `source` to `path` is under way; it ends when this does."""
    argv = [sys.executable, "-c", _WRITER, str(source), str(path)]
    before = path.stat().st_mtime_ns
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(source_head.pid, signal.SIGSTOP)
        try:
            writer.stdin.write("now\n")
            writer.stdin.flush()
            wait_until(lambda: path.stat().st_mtime_ns != before, "the write has begun")
            yield
        finally:
            os.kill(source_head.pid, signal.SIGCONT)
        assert writer.stdout.readline() == f"{SIZE}\n"


def store_writes(head: HeadProcess) -> int:
    """How many fragments the head has put into its cache."""
    with closing(client.Head(str(head.admin_socket))) as admin:
        return int(admin.ask("counters")["events"].get("store_writes", 0))


def test_what_was_read_while_it_was_written_is_not_kept(
    mounted: Mounted, tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log.add("head|connection|session")
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "source").write_bytes(NEW)
    file, mirrored = mounted.tree / "file", mounted.mnt / "file"
    file.write_bytes(OLD)
    wait_until(lambda: mirrored.exists() and mirrored.read_bytes() == OLD, "the file is known")
    slow = tmp_path / "other"
    with (
        mounted_tree(slow, tmp_path / "slow", expected_log, mount_options=("-o", "retry=5min")) as (other_head, other),
        mirrored.open("rb", buffering=0) as reader,
        mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        with writing(file, other.mountpoint / "source", other_head):
            wait_until(lambda: mirrored.stat().st_mtime_ns == file.stat().st_mtime_ns, "the new times are seen")
            kept = store_writes(mounted.head)
            wait_until(
                lambda: mirrored.read_bytes() == OLD and store_writes(mounted.head) > kept, "the head keeps it as it is"
            )
            assert view[:] == OLD
        wait_until(lambda: mirrored.read_bytes() == NEW, "what the write came to, by a program that opens it")
        wait_until(lambda: os.pread(reader.fileno(), SIZE, 0) == NEW, "by one that has it open")
        wait_until(lambda: view[:] == NEW, "by one that has it mapped")
    mounted.head.kill()
    options = ("--cache-dir", str(mounted.head.cache_dir), "--cache-size", "256MiB")
    head = HeadProcess(tmp_path / "again", {"data": mounted.tree}, port=mounted.head.port, options=options)
    second = MountProcess(tmp_path / "second", head.address, "data", tmp_path / "second.log")
    try:
        assert (second.mountpoint / "file").read_bytes() == NEW, "after a restart, which knows nothing of it"
        wait_until(lambda: mirrored.read_bytes() == NEW, "by the node that has seen it")
    finally:
        second.unmount()
        head.stop()


def test_a_state_that_was_overtaken_has_a_change_time_of_its_own() -> None:
    before = Version(1, 2, 100, 5_000, 6_000)
    assert long_writes.change_time(1, 2, 6_000) == 6_000
    long_writes.overtake(before)
    long_writes.overtake(before)
    assert long_writes.change_time(1, 2, 6_000) == 6_001, "once for one state"
    after = Version(1, 2, 100, 5_000, 6_001)
    assert (long_writes.overtaken(before), long_writes.overtaken(after)) == (True, False)
    long_writes.overtake(after)
    assert long_writes.change_time(1, 2, 6_000) == 6_002, "read once more before the end of another write"
    assert long_writes.overtaken(before)
    assert long_writes.overtaken(after)
    assert long_writes.change_time(1, 2, 7_000) == 7_000, "written since"
    assert not long_writes.overtaken(Version(1, 2, 100, 7_000, 7_000))
    assert long_writes.change_time(1, 3, 6_000) == 6_000


def test_a_reader_that_is_behind_hides_nobody() -> None:
    attr = Attr(1, 2, 0o100644, 1, 0, 0, 0, 100, 8, 4096, 0, 5_000, 6_000)
    file = OpenFile(b"file", attr)
    assert file.read_as is None
    file.note_read(attr.version)
    file.note_read(Version(1, 2, 100, 4_000, 4_000))
    assert file.read_as == attr.version
    file.note_read(Version(1, 2, 100, 7_000, 7_000))
    assert file.read_as == Version(1, 2, 100, 7_000, 7_000)


def test_what_is_remembered_is_bounded() -> None:
    for number in range(2 * long_writes.LIMIT):
        long_writes.overtake(Version(9, number, 1, 1, 1))
    told = [long_writes.change_time(9, number, 1) for number in range(2 * long_writes.LIMIT)]
    assert sum(time == 2 for time in told) == long_writes.LIMIT
