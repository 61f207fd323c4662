"""Small files that the compiled part opens, reads and closes: the right bytes, whatever happens to them meanwhile."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dadafs.handed_files import MOST
from dadafs.native import fuse_session
from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import HeadProcess, MountProcess, mounted_tree, wait_until

pytestmark = pytest.mark.skipif(fuse_session is None, reason="the compiled part was not built")

COUNT = 200
#: So many files are read before one is looked at: those behind it have been opened ahead by then.
FIRST = 40

#: Opens, reads and closes the files of a directory again and again, and is killed in the middle of it.
_HAMMER = """
import os, sys
print("begun", flush=True)
while True:
    for name in sorted(os.listdir(sys.argv[1])):
        fd = os.open(os.path.join(sys.argv[1], name), os.O_RDONLY)
        os.pread(fd, 4096, 0)
        os.close(fd)
"""


@pytest.fixture(params=["10min"])
def mounted(tmp_path: Path, expected_log: ExpectedLog, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A mount that forgets nothing by itself: a file stays with the compiled part until something happens to it."""
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    options = ("-o", f"freshness={request.param},lease=20min")
    with mounted_tree(tmp_path, tree, expected_log, mount_options=options) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


def statistics(mnt: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mnt / ".dadafs/stats.json").read_text())
    return found


def handed(mnt: Path) -> int:
    """How many files the compiled part has."""
    return int(statistics(mnt)["open"]["handed_files"])


def open_files(mnt: Path) -> int:
    return int(statistics(mnt)["open"]["open_files"])


def all_closed(mnt: Path) -> None:
    """Nothing is open: a close is told to a file system some time after it."""
    wait_until(lambda: open_files(mnt) == 0, "everything is closed")


def content(number: int, version: int = 0) -> bytes:
    return f"{number} {version} ".encode() * (1 + number % 400)


def filled(directory: Path, count: int = COUNT) -> None:
    """Files whose times prove their state: what was written this very moment may be written again."""
    directory.mkdir()
    for number in range(count):
        (directory / f"{number:04d}").write_bytes(content(number))
    newest = max(entry.stat().st_ctime for entry in os.scandir(directory))
    wait_until(lambda: time.time() > newest + 1.0, "the files are older than a second")


def gone_through(mounted: Mounted, first: int = 0, stop: int = FIRST) -> None:
    """A program went through the first files of `dir`; those behind them are in the compiled part's hands."""
    if not (mounted.tree / "dir").exists():
        filled(mounted.tree / "dir")
    os.listdir(mounted.mnt / "dir")
    for number in range(first, stop):
        assert (mounted.mnt / "dir" / f"{number:04d}").read_bytes() == content(number)
    ahead = lambda: statistics(mounted.mnt)["counters"]["opened_ahead"]  # noqa: E731
    wait_until(lambda: ahead() >= min(COUNT, stop + 60) and handed(mounted.mnt) > 30, "the next files are opened ahead")


def forget_pages(fd: int) -> None:
    """The kernel has no page of an open file afterwards, so that it has to ask."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def reads_as(path: Path, wanted: bytes) -> Callable[[], bool]:
    def look() -> bool:
        with suppress(FileNotFoundError):
            return path.read_bytes() == wanted
        return False

    return look


def test_they_are_opened_read_and_closed_without_a_request(mounted: Mounted) -> None:
    gone_through(mounted)
    before = statistics(mounted.mnt)
    for number in range(FIRST, FIRST + 20):
        with (mounted.mnt / f"dir/{number:04d}").open("rb") as file:
            assert file.read() == content(number)
            forget_pages(file.fileno())
            assert os.pread(file.fileno(), 10_000, 0) == content(number)
            assert os.pread(file.fileno(), 4, 1) == content(number)[1:5]
            assert os.pread(file.fileno(), 10, 1 << 40) == b""
    after = statistics(mounted.mnt)
    used = {key: after["counters"][key] - before["counters"][key] for key in ("hit", "hit_bytes", "ahead_used")}
    assert used["ahead_used"] == 20
    assert used["hit"] >= 20
    assert used["hit_bytes"] >= sum(len(content(number)) for number in range(FIRST, FIRST + 20))
    assert after["open"]["nodes"] == before["open"]["nodes"], "none of them had to become an object"


def test_an_open_one_counts_as_open_and_a_closed_one_does_not(mounted: Mounted) -> None:
    gone_through(mounted)
    all_closed(mounted.mnt)
    with (mounted.mnt / f"dir/{FIRST:04d}").open("rb"):
        assert open_files(mounted.mnt) == 1
    all_closed(mounted.mnt)


def test_who_reads_them_is_known(mounted: Mounted) -> None:
    gone_through(mounted)
    script = f"import sys; [open(f'{{sys.argv[1]}}/{{n:04d}}', 'rb').read() for n in range({FIRST}, {FIRST + 20})]"
    subprocess.run([sys.executable, "-c", script, str(mounted.mnt / "dir")], check=True)
    words = ("top", str(mounted.mnt), "--count", "1", "--interval", "50ms", "--json")
    told = subprocess.run([sys.executable, "-m", "dadafs.ctl", *words], capture_output=True, text=True, check=True)
    processes = json.loads(told.stdout)["after"]["processes"]
    (reader,) = (one for one in processes if one["bytes"] and one["pid"] != os.getpid())
    assert reader["bytes"] == sum(len(content(number)) for number in range(FIRST, FIRST + 20))


def test_one_that_changes_in_place_is_read_as_it_is_now(mounted: Mounted) -> None:
    gone_through(mounted)
    closed, held, mapped, untouched = (mounted.mnt / f"dir/{number:04d}" for number in range(FIRST, FIRST + 4))
    assert closed.read_bytes() == content(FIRST)
    with (
        held.open("rb") as file,
        mapped.open("rb") as other,
        mmap.mmap(other.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        assert view[:] == content(FIRST + 2)
        assert file.read() == content(FIRST + 1)
        for number in range(FIRST, FIRST + 4):
            (mounted.tree / f"dir/{number:04d}").write_bytes(content(number, 1))
        wait_until(reads_as(closed, content(FIRST, 1)), "what was opened and closed shows the change")
        wait_until(reads_as(untouched, content(FIRST + 3, 1)), "what nobody had opened shows it")
        wait_until(
            lambda: os.pread(file.fileno(), 10_000, 0) == content(FIRST + 1, 1), "the open handle shows the change"
        )
        wait_until(lambda: view[:] == content(FIRST + 2, 1), "so do mapped pages")


def test_one_that_is_replaced_or_removed_is_read_on(mounted: Mounted) -> None:
    gone_through(mounted)
    replaced, removed = (mounted.mnt / f"dir/{number:04d}" for number in range(FIRST, FIRST + 2))
    with replaced.open("rb") as first, removed.open("rb") as second:
        (mounted.tree / "aside").write_bytes(content(FIRST, 1))
        os.rename(mounted.tree / "aside", mounted.tree / f"dir/{FIRST:04d}")
        (mounted.tree / f"dir/{FIRST + 1:04d}").unlink()
        wait_until(reads_as(replaced, content(FIRST, 1)), "the new file is there")
        wait_until(lambda: not removed.exists(), "the other one is gone")
        for number, file in ((FIRST, first), (FIRST + 1, second)):
            forget_pages(file.fileno())
            assert os.pread(file.fileno(), 10_000, 0) == content(number), "the old bytes"


def test_those_in_a_directory_that_is_renamed_are_found_there(mounted: Mounted) -> None:
    gone_through(mounted)
    with (mounted.mnt / f"dir/{FIRST:04d}").open("rb") as file:
        (mounted.tree / "dir").rename(mounted.tree / "moved")
        wait_until((mounted.mnt / "moved").exists, "the new name is there")
        wait_until(lambda: not (mounted.mnt / "dir").exists(), "the old one is gone")
        forget_pages(file.fileno())
        assert os.pread(file.fileno(), 10_000, 0) == content(FIRST)
        assert os.fstat(file.fileno()).st_size == len(content(FIRST))
    for number in range(FIRST, FIRST + 20):
        assert (mounted.mnt / f"moved/{number:04d}").read_bytes() == content(number)


def test_attributes_that_change_are_seen(mounted: Mounted) -> None:
    gone_through(mounted)
    path = mounted.mnt / f"dir/{FIRST:04d}"
    with path.open("rb") as file:
        os.chmod(mounted.tree / f"dir/{FIRST:04d}", 0o600)
        wait_until(lambda: path.stat().st_mode & 0o777 == 0o600, "stat shows the mode")
        wait_until(lambda: os.fstat(file.fileno()).st_mode & 0o777 == 0o600, "so does fstat")
        assert file.read() == content(FIRST)
    os.link(mounted.tree / f"dir/{FIRST + 1:04d}", mounted.tree / "other name")
    wait_until(lambda: (mounted.mnt / f"dir/{FIRST + 1:04d}").stat().st_nlink == 2, "the second name is seen")
    (mounted.tree / "other name").write_bytes(content(FIRST + 1, 1))
    wait_until(reads_as(mounted.mnt / f"dir/{FIRST + 1:04d}", content(FIRST + 1, 1)), "a write through it as well")


def test_many_may_have_one_open(mounted: Mounted) -> None:
    gone_through(mounted)
    path = mounted.mnt / f"dir/{FIRST:04d}"
    files = [path.open("rb") for _ in range(10)]
    try:
        for file in files:
            forget_pages(file.fileno())
            assert os.pread(file.fileno(), 10_000, 0) == content(FIRST)
    finally:
        for file in files:
            file.close()
    all_closed(mounted.mnt)


def test_who_wants_to_write_is_refused(mounted: Mounted) -> None:
    gone_through(mounted)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(OSError):
            os.close(os.open(mounted.mnt / f"dir/{FIRST:04d}", flags))
    assert (mounted.mnt / f"dir/{FIRST:04d}").read_bytes() == content(FIRST)


@pytest.mark.parametrize("mounted", ["500ms"], indirect=True)
def test_one_that_is_open_for_long_is_looked_at_like_any_other(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    os.listdir(mounted.mnt / "dir")
    for number in range(FIRST + 1):
        (mounted.mnt / f"dir/{number:04d}").read_bytes()
    with (mounted.mnt / f"dir/{FIRST + 1:04d}").open("rb") as file:
        opened_at = time.monotonic()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == content(FIRST + 1)
            wait_until(lambda: time.monotonic() > opened_at + 1.5, "it is long past what was believed")
            forget_pages(file.fileno())
            assert os.pread(file.fileno(), 10_000, 0) == content(FIRST + 1)
            (mounted.tree / f"dir/{FIRST + 1:04d}").write_bytes(content(FIRST + 1, 1))
            wait_until(lambda: view[:] == content(FIRST + 1, 1), "the mapped pages show the change")


def test_they_go_on_when_the_head_comes_back(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add("lost|refused|reconnect")
    tree = tmp_path / "tree"
    tree.mkdir()
    head = HeadProcess(tmp_path / "head", {"data": tree})
    options = ("-o", "freshness=10min,lease=20min,retry=5min")
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=options)
    try:
        gone_through(Mounted(tree, mount.mountpoint, head, mount))
        with (mount.mountpoint / f"dir/{FIRST:04d}").open("rb") as file:
            assert handed(mount.mountpoint)
            head.kill()
            wait_until(lambda: handed(mount.mountpoint) == 0, "all came back when the connection was lost")
            head = HeadProcess(tmp_path / "head", {"data": tree}, port=head.port)
            forget_pages(file.fileno())
            assert os.pread(file.fileno(), 10_000, 0) == content(FIRST)
            for number in range(FIRST, FIRST + 20):
                assert (mount.mountpoint / f"dir/{number:04d}").read_bytes() == content(number)
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)


def test_no_more_than_so_many_are_kept(mounted: Mounted) -> None:
    filled(mounted.tree / "dir", MOST + 400)
    os.listdir(mounted.mnt / "dir")
    for number in range(MOST + 400):
        assert (mounted.mnt / f"dir/{number:04d}").read_bytes() == content(number)
        if not number % 100:
            assert handed(mounted.mnt) <= MOST
    assert statistics(mounted.mnt)["counters"]["ahead_used"] > MOST, "most were opened ahead"


def test_readers_and_a_writer_agree(mounted: Mounted) -> None:
    """Whatever is read is a state that the file has had lately, and in the end it is the last one."""
    filled(mounted.tree / "dir")
    last = dict.fromkeys(range(COUNT), 0)

    def written() -> None:
        for version in range(1, 4):
            for number in range(0, COUNT, 3):
                aside = mounted.tree / "aside"
                aside.write_bytes(content(number, version))
                os.rename(aside, mounted.tree / f"dir/{number:04d}")
                last[number] = version

    def read(_: int) -> None:
        for number in range(COUNT):
            before = last[number]
            found = reading(mounted.mnt / f"dir/{number:04d}")
            states = {content(number, version) for version in range(max(0, before - 1), 4)}
            assert found in states | {None}, f"{number} after {before}: {found[:40] if found else found!r}"

    with ThreadPoolExecutor(4) as pool:
        writer = pool.submit(written)
        for _ in range(3):
            list(pool.map(read, range(3)))
        writer.result()
    for number in range(COUNT):
        wait_until(reads_as(mounted.mnt / f"dir/{number:04d}", content(number, last[number])), f"{number} is the last")


def reading(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, OSError):  # replaced between two looks (ESTALE)
        return None


def test_readers_that_are_killed_leave_nothing_open(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    for _ in range(8):
        reader = subprocess.Popen([sys.executable, "-c", _HAMMER, str(mounted.mnt / "dir")], stdout=subprocess.PIPE)
        assert reader.stdout is not None
        reader.stdout.readline()
        time.sleep(0.05)
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        reader.stdout.close()
    all_closed(mounted.mnt)
    gone_through(mounted)
