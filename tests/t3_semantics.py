"""docs/semantics.md, line by line: each numbered promise has its test here, or names the file that has it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import REPOSITORY, Mounted, need_fuse
from tests.harness.processes import HeadProcess, MountProcess, mounted_tree, wait_until

PAGE = (REPOSITORY / "docs" / "semantics.md").read_text()
CONTENT = np.random.default_rng(3).bytes(3 * 1024 * 1024 + 4321)
#: Promises whose tests are in files that the page does not name.
ELSEWHERE = {"S3": "t1_reader_trouble.py", "S5": "t3_property.py", "S12": "t3_following.py", "S14": "t4_silent_head.py"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One tree for all promises about reading."""
    need_fuse()
    folder = tmp_path_factory.mktemp("semantics")
    tree = folder / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "file").write_bytes(CONTENT)
    (tree / "folder" / "inside").write_bytes(b"inside")
    (tree / "outside").symlink_to("/etc/hostname")
    (tree / "within").symlink_to("folder/inside")
    (tree / "up").symlink_to("../" * 20 + "etc/hostname")
    os.setxattr(tree / "file", b"user.sample", b"bone")
    with mounted_tree(folder, tree, ExpectedLog()) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


def test_every_promise_has_its_test() -> None:
    promises = dict(re.findall(r"^- \*\*(S\d+)\*\* (.*?)(?=^- \*\*|^#|\Z)", PAGE, re.MULTILINE | re.DOTALL))
    assert len(promises) >= 16
    here = {name.split("_")[1].upper() for name in globals() if re.match(r"test_s\d+_", name)}
    for number, text in promises.items():
        named = re.findall(r"`tests/(\w+\.py)`", text) + ([ELSEWHERE[number]] if number in ELSEWHERE else [])
        assert number in here or named, f"{number} has no test"
        for file in named:
            assert (REPOSITORY / "tests" / file).exists(), f"{number} names {file}"


def test_s1_names_are_bytes(served: Mounted) -> None:
    name = b"caf\xe9\nand \x01\xff"
    with open(os.path.join(os.fsencode(served.tree), name), "wb") as file:
        file.write(b"odd")
    odd = os.path.join(os.fsencode(served.mnt), name)
    wait_until(lambda: os.path.exists(odd), "the odd name is seen")
    wait_until(lambda: name in os.listdir(os.fsencode(served.mnt)), "the odd name is listed")
    with open(odd, "rb") as file:
        assert file.read() == b"odd"
    os.unlink(os.path.join(os.fsencode(served.tree), name))


def test_s1_a_name_that_is_too_long(served: Mounted) -> None:
    with pytest.raises(OSError) as refused:
        (served.mnt / ("x" * 256)).stat()
    assert refused.value.errno == errno.ENAMETOOLONG


def test_s4_reads_are_as_long_as_asked_for(served: Mounted) -> None:
    rng = np.random.default_rng(4)
    descriptor = os.open(served.mnt / "file", os.O_RDONLY)
    try:
        for _ in range(300):
            offset, length = int(rng.integers(0, len(CONTENT) + 100)), int(rng.integers(1, 1 << 20))
            assert os.pread(descriptor, length, offset) == CONTENT[offset : offset + length]
    finally:
        os.close(descriptor)


def test_s4_direct_reads_too(served: Mounted) -> None:
    descriptor = os.open(served.mnt / "file", os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 20)
    try:
        got = os.preadv(descriptor, [buffer], 1 << 20)
        assert got == 1 << 20
        assert buffer[:] == CONTENT[1 << 20 : 2 << 20]
    finally:
        os.close(descriptor)
        buffer.close()


def test_s6_links_are_shown_as_they_are_and_followed_by_the_node(served: Mounted) -> None:
    for name in ("outside", "within", "up"):
        assert os.readlink(served.mnt / name) == os.readlink(served.tree / name)
    assert (served.mnt / "within").read_bytes() == b"inside"
    assert (served.mnt / "outside").exists() == Path("/etc/hostname").exists()


def test_s7_memory_maps(served: Mounted) -> None:
    with (served.mnt / "file").open("rb") as file:
        for kind in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            mapped = mmap.mmap(file.fileno(), 0, kind, mmap.PROT_READ)
            assert mapped[1_000_000:1_000_100] == CONTENT[1_000_000:1_000_100]
            assert mapped[:] == CONTENT
            mapped.close()
    assert (np.memmap(served.mnt / "file", dtype=np.uint8, mode="r") == np.frombuffer(CONTENT, np.uint8)).all()


def test_s7_locks_work_within_the_node(served: Mounted) -> None:
    script = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with (served.mnt / "file").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        taken = subprocess.run([sys.executable, "-c", script, served.mnt / "file"], check=False, capture_output=True)
        assert taken.returncode != 0
        assert b"BlockingIOError" in taken.stderr
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    free = subprocess.run([sys.executable, "-c", script, served.mnt / "file"], check=False)
    assert free.returncode == 0


def test_s8_extended_attributes(served: Mounted) -> None:
    path = served.mnt / "file"
    assert os.listxattr(path) == ["user.sample"]
    assert os.getxattr(path, "user.sample") == b"bone"
    found = os.stat(served.tree / "file")
    version = rf"\d+:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
    assert re.fullmatch(version, os.getxattr(path, "user.dadafs.version").decode())
    assert os.getxattr(path, "user.dadafs.head").decode() == served.head.address
    assert os.getxattr(path, "user.dadafs.export") == b"data"
    assert os.getxattr(path, "user.dadafs.growing") in {b"yes", b"no"}
    path.read_bytes()
    assert re.fullmatch(rb"node-ram=\d+/%d" % len(CONTENT), os.getxattr(path, "user.dadafs.tiers"))
    for foreign in ("user.other", "trusted.overlay.opaque", "user.dadafs.nonsense"):
        with pytest.raises(OSError) as none:
            os.getxattr(path, foreign)
        assert none.value.errno == errno.ENODATA


def test_s8_foreign_attributes_do_not_switch_others_off(served: Mounted) -> None:
    for name in ("security.selinux", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError) as none:
            os.getxattr(served.mnt / "file", name)
        assert none.value.errno in {errno.ENODATA, errno.ENOTSUP}
    assert os.getxattr(served.mnt / "file", "user.sample") == b"bone"


def test_s11_an_open_file_is_never_another_file(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add("head|connection|session")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "replaced").write_bytes(CONTENT)
    (tree / "deleted").write_bytes(CONTENT)
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(
        tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=("--ram-cache", "16MiB")
    )
    try:
        opened = [os.open(mount.mountpoint / name, os.O_RDONLY) for name in ("replaced", "deleted")]
        assert [os.pread(file, 100, 0) for file in opened] == [CONTENT[:100]] * 2
        (tree / "new").write_bytes(b"other" * 1_000_000)
        os.rename(tree / "new", tree / "replaced")
        os.unlink(tree / "deleted")
        wait_until(lambda: (mount.mountpoint / "replaced").stat().st_size == 5_000_000, "the new file is seen")
        wait_until(lambda: not (mount.mountpoint / "deleted").exists(), "the deletion is seen")
        assert [os.pread(file, len(CONTENT), 0) for file in opened] == [CONTENT] * 2
        assert stat.S_ISREG(os.fstat(opened[0]).st_mode)
        port = head.port
        head.kill()
        head = HeadProcess(tmp_path / "head", {"data": tree}, port=port)
        for file in opened:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            wait_until(lambda file=file: _reads_old_or_stale(file), "the old bytes, or ESTALE")
            os.close(file)
    finally:
        mount.unmount()
        head.stop()


def _reads_old_or_stale(file: int) -> bool:
    """Whether the reader is told that its file is gone; fails where it gets other bytes."""
    try:
        data = os.pread(file, 1000, 2_000_000)
    except OSError as problem:
        return problem.errno == errno.ESTALE
    assert data == CONTENT[2_000_000:2_001_000]
    return True


def test_s15_a_killed_node_gives_errors(mounted: Mounted) -> None:
    (mounted.tree / "file").write_bytes(b"x")
    wait_until(lambda: (mounted.mnt / "file").exists(), "the file is seen")
    mounted.mount.kill()
    with pytest.raises(OSError) as dead:
        os.listdir(mounted.mnt)
    assert dead.value.errno == errno.ENOTCONN


def test_s16_every_eio_is_counted_where_everybody_can_see_it(mounted: Mounted) -> None:
    assert "eio_sites" in (mounted.mnt / ".dadafs" / "stats").read_text()
    assert (mounted.mnt / ".dadafs" / "log").read_text()
    assert (REPOSITORY / "docs" / "error-sites.md").exists()
