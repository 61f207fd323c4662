"""Small reads here and there that the compiled part answers by itself: every byte, change and count, and every end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dadafs import data_channel
from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import HeadProcess, MountProcess, mounted_tree, wait_until
from tests.harness.proxy import proxy_to

pytestmark = pytest.mark.skipif(not data_channel.COMPILED, reason="the compiled part, or its checksums, are not there")

BLOCK = 64 * 1024
SIZE = 24 << 20
PAGE = 4096
FRESHNESS = 0.5


def counters(mnt: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((mnt / ".dadafs/stats.json").read_text())["counters"]
    return found


def hot(mnt: Path) -> int:
    return counters(mnt)["hot_reads"]


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor whose pages the kernel reads one by one."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        yield fd
    finally:
        os.close(fd)


def places(seed: int, count: int, size: int = SIZE) -> list[int]:
    choose = random.Random(seed)
    return [choose.randrange(1, size // PAGE) * PAGE for _ in range(count)]


def settled(path: Path) -> None:
    """Wait until the times of the file prove its state."""
    changed = path.stat().st_ctime
    wait_until(lambda: time.time() > changed + 1.2, "the file is older than a second")


def stamped(stamp: int, size: int = SIZE) -> bytes:
    """A file each of whose pages says which state it is of, and where it is."""
    return b"".join(
        (b"%012d %012d " % (stamp, number)).ljust(64, b".") * (PAGE // 64) for number in range(-(-size // PAGE))
    )[:size]


def stamp_of(page: bytes, place: int) -> int:
    """Which state a page is of; that it is that page, and whole."""
    stamp, number = page[:12], page[13:25]
    assert int(number) * PAGE == place
    assert page == (stamp + b" " + number + b" ").ljust(64, b".") * (PAGE // 64)
    return int(stamp)


@pytest.fixture
def mounted(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[Mounted]:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    options = ("-o", f"freshness={FRESHNESS}s")
    with mounted_tree(tmp_path, tree, expected_log, mount_options=options) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


def test_the_bytes_are_right_and_each_read_is_counted_once(mounted: Mounted) -> None:
    content = os.urandom(SIZE + 1234)
    (mounted.tree / "file").write_bytes(content)
    settled(mounted.tree / "file")
    before = counters(mounted.mnt)
    done = set()
    with opened(mounted.mnt / "file") as fd:
        for place in places(1, 3000, SIZE + 1234):
            assert os.pread(fd, PAGE, place) == content[place : place + PAGE]
            done.add(place)
        for place in (*range(SIZE, SIZE + 1234, 100), SIZE + 1233, SIZE + 1234, SIZE + 5000):
            assert os.pread(fd, PAGE, place) == content[place : place + PAGE]
            if place < len(content):
                done.add(place // PAGE * PAGE)
    after = counters(mounted.mnt)
    assert after["hot_reads"] > 1000
    asked = sum(after[kind] - before[kind] for kind in ("hit", "miss", "bypass"))
    assert len(done) <= asked <= len(done) + 60  # the kernel keeps pages, and reads some ahead before it knows better
    assert after["checksum_errors"] == before["checksum_errors"] == 0
    assert after["wire_bytes"] - before["wire_bytes"] <= (after["miss"] - before["miss"] + 20) * (1 << 20)


def test_a_block_is_fetched_once_for_reads_of_its_pages(mounted: Mounted) -> None:
    content = os.urandom(SIZE)
    (mounted.tree / "file").write_bytes(content)
    settled(mounted.tree / "file")
    blocks = list(range(1, 300, 3))
    pages = [(block * BLOCK + page * PAGE) for page in range(16) for block in random.Random(page).sample(blocks, 100)]
    with opened(mounted.mnt / "file") as fd:
        for place in pages:
            assert os.pread(fd, PAGE, place) == content[place : place + PAGE]
    found = counters(mounted.mnt)
    assert found["hot_reads"] > 1000
    assert found["miss"] < 400  # of 1,600 reads of 100 blocks; some were read before that was known


def test_threads_that_want_the_same_blocks_get_them(mounted: Mounted) -> None:
    content = os.urandom(SIZE)
    (mounted.tree / "file").write_bytes(content)
    settled(mounted.tree / "file")
    wrong: list[int] = []

    def read(seed: int) -> None:
        with opened(mounted.mnt / "file") as fd:
            for place in places(seed // 4, 400):
                if os.pread(fd, PAGE, place) != content[place : place + PAGE]:
                    wrong.append(place)

    in_threads(read, 8)
    assert not wrong
    assert hot(mounted.mnt) > 500


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)


def test_a_rewrite_in_place_shows_within_freshness(mounted: Mounted) -> None:
    path = mounted.tree / "file"
    path.write_bytes(stamped(0))
    settled(path)
    written: list[tuple[int, float]] = [(0, time.monotonic())]  # stamp, and when the whole file had it
    wrong: list[str] = []
    over = threading.Event()

    def read(seed: int) -> None:
        choose = random.Random(seed)
        with opened(mounted.mnt / "file") as fd:
            while not over.is_set():
                place = choose.randrange(1, SIZE // PAGE) * PAGE
                begun = time.monotonic()
                try:
                    stamp = stamp_of(os.pread(fd, PAGE, place), place)
                except (AssertionError, OSError) as error:
                    wrong.append(repr(error))
                    return
                due = [
                    each for each, at in list(written) if at + FRESHNESS + 2.0 < begun
                ]  # and what a slow machine needs
                if due and stamp < due[-1]:
                    wrong.append(f"page {place} is of state {stamp}, {due[-1]} was there long before")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for stamp in range(1, 5):
        goes_on(mounted.mnt, 50)
        with open(path, "r+b") as file:
            file.write(stamped(stamp))
        written.append((stamp, time.monotonic()))
    wait_until(lambda: time.monotonic() > written[-1][1] + FRESHNESS + 3.0, "the last state is due")
    over.set()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong[0]
    assert hot(mounted.mnt) > 200


def test_what_was_cut_is_not_read_any_more(mounted: Mounted) -> None:
    path = mounted.tree / "file"
    path.write_bytes(stamped(0))
    settled(path)
    with opened(mounted.mnt / "file") as fd:
        for place in places(3, 300):
            assert stamp_of(os.pread(fd, PAGE, place), place) == 0
        before = hot(mounted.mnt)
        assert before > 100
        os.truncate(path, SIZE // 2)
        wait_until(lambda: os.fstat(fd).st_size == SIZE // 2, "the cut is seen")
        for place in places(4, 600):
            data = os.pread(fd, PAGE, place)
            assert data == b"" if place >= SIZE // 2 else stamp_of(data, place) == 0
        wait_until(lambda: hot_after(mounted, fd, SIZE // 2) > before, "what is left is read as before")


def hot_after(mounted: Mounted, fd: int, size: int) -> int:
    """How many reads were answered so, once some more of fresh places were done."""
    for place in places(random.randrange(10**6), 100, size):
        os.posix_fadvise(fd, place, PAGE, os.POSIX_FADV_DONTNEED)
        os.pread(fd, PAGE, place)
    return hot(mounted.mnt)


def test_a_replaced_file_is_read_on_by_who_has_it_open(mounted: Mounted) -> None:
    path = mounted.tree / "file"
    path.write_bytes(stamped(0))
    settled(path)
    with opened(mounted.mnt / "file") as fd:
        for place in places(5, 300):
            assert stamp_of(os.pread(fd, PAGE, place), place) == 0
        (mounted.tree / "new").write_bytes(stamped(1))
        (mounted.tree / "new").rename(path)
        wait_until(lambda: os.stat(mounted.mnt / "file").st_ino != os.fstat(fd).st_ino, "the new file is seen")
        for place in places(6, 300):
            assert stamp_of(os.pread(fd, PAGE, place), place) == 0
        with opened(mounted.mnt / "file") as other:
            for place in places(7, 300):
                assert stamp_of(os.pread(other, PAGE, place), place) == 1


def test_what_the_ram_cache_has_is_not_fetched_again(mounted: Mounted) -> None:
    content = os.urandom(SIZE)
    (mounted.tree / "file").write_bytes(content)
    settled(mounted.tree / "file")
    with opened(mounted.mnt / "file") as fd:
        for place in places(8, 200):
            os.pread(fd, PAGE, place)
    assert (mounted.mnt / "file").read_bytes() == content
    before = counters(mounted.mnt)
    with opened(mounted.mnt / "file") as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for place in places(9, 1000):
            assert os.pread(fd, PAGE, place) == content[place : place + PAGE]
    after = counters(mounted.mnt)
    assert after["miss"] == before["miss"]
    assert after["hit"] > before["hit"]


def test_memory_is_given_back_when_nobody_reads_so(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(64 << 20))
    settled(tree / "file")
    options = ("-o", "freshness=10min")  # what is believed of the file outlives the memory for its blocks
    with mounted_tree(tmp_path, tree, expected_log, mount_options=options) as (_, mount):

        def used() -> int:
            return int(json.loads((mount.mountpoint / ".dadafs/stats.json").read_text())["ram_cache"]["used_bytes"])

        with opened(mount.mountpoint / "file") as fd:
            for place in places(10, 800, 64 << 20):
                os.pread(fd, PAGE, place)
            assert used() > 30 << 20
            wait_until(lambda: used() < 30 << 20, "the room is free again", 60.0)
            content = (tree / "file").read_bytes()
            for place in range(5 << 20, 64 << 20, 5 << 20):
                assert os.pread(fd, PAGE, place) == content[place : place + PAGE]
            assert used() > 30 << 20, "and taken again"
        assert hot(mount.mountpoint) > 500


# --- ends ------------------------------------------------------------------------------------------------------------

_READER = """
import os, random, sys
path, size = sys.argv[1], int(sys.argv[2])
fd = os.open(path, os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
print("begun", flush=True)
while True:
    place = random.randrange(1, size // 4096) * 4096
    os.posix_fadvise(fd, place, 4096, os.POSIX_FADV_DONTNEED)
    if len(os.pread(fd, 4096, place)) != 4096:
        sys.exit("a short read")
"""


def reader(path: Path) -> subprocess.Popen[str]:
    """A process that reads here and there, for ever."""
    process = subprocess.Popen(
        [sys.executable, "-c", _READER, str(path), str(SIZE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def goes_on(mnt: Path, by: int = 100) -> None:
    """Wait until so many more reads were answered."""
    before = hot(mnt)
    wait_until(lambda: hot(mnt) > before + by, "small reads go on")


@contextmanager
def through_a_proxy(tmp_path: Path, *options: str) -> Iterator[tuple[Path, MountProcess, HeadProcess, object]]:
    """A tree with `file`, its head, and a mount that reaches it through a proxy."""
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(stamped(0))
    settled(tree / "file")
    head = HeadProcess(tmp_path / "head", {"data": tree})
    with proxy_to(head.host, head.port) as proxy:
        mount = MountProcess(tmp_path / "mnt", proxy.address, "data", tmp_path / "mount.log", options=options)
        try:
            yield tree, mount, head, proxy
        finally:
            proxy.silent = False
            proxy.cut()
            mount.unmount()
            head.stop()


def test_cut_connections_are_not_noticed(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add(r"lost|closed|reconnect|reset|ended|refused")
    with through_a_proxy(tmp_path) as (_, mount, _, proxy):
        programs = [reader(mount.mountpoint / "file") for _ in range(3)]
        for _ in range(6):
            goes_on(mount.mountpoint)
            proxy.cut()  # type: ignore[attr-defined]
        goes_on(mount.mountpoint)
        for program in programs:
            assert program.poll() is None
            program.kill()
            program.communicate()
        mount.check_log(expected_log)


def test_who_waits_for_a_silent_head_can_be_killed_and_others_go_on(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add(r"EIO|lost|closed|silent|unreachable|reconnect|no answer|timed out|reset|ended|refused")
    with through_a_proxy(tmp_path, "-o", "retry=60s") as (_, mount, _, proxy):
        victim, survivor = reader(mount.mountpoint / "file"), reader(mount.mountpoint / "file")
        goes_on(mount.mountpoint)
        proxy.silent = True  # type: ignore[attr-defined]
        os.kill(survivor.pid, signal.SIGCONT)  # a signal that ends nobody
        victim.kill()
        assert victim.wait(30) == -signal.SIGKILL
        victim.communicate()
        proxy.silent = False  # type: ignore[attr-defined]
        proxy.cut()  # type: ignore[attr-defined]
        goes_on(mount.mountpoint)
        assert survivor.poll() is None
        survivor.kill()
        survivor.communicate()
        mount.check_log(expected_log)


def test_a_mount_ends_while_reads_wait(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add(
        r"EIO|lost|closed|silent|unreachable|reconnect|no answer|timed out|reset|ended|refused|in use|detached"
    )
    with through_a_proxy(tmp_path, "-o", "retry=60s") as (_, mount, _, proxy):
        programs = [reader(mount.mountpoint / "file") for _ in range(3)]
        goes_on(mount.mountpoint)
        proxy.silent = True  # type: ignore[attr-defined]
        mount.process.terminate()
        mount.process.wait(60)
        for program in programs:
            program.wait(60)
            program.communicate()
