"""Who may read what on a real mount: POSIX ACLs through the kernel, squashing, maps, each tried by a second user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until

ALICE, BOB, CAROL, LAB = 54_001, 54_002, 54_003, 54_100
NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a test")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="dadafs-permissions-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "tree").mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


class Place:
    """Exports of one tree and mounts of them."""

    def __init__(self, folder: Path, expected: ExpectedLog) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self._expected = expected
        self.heads: list[HeadProcess] = []
        self.mounts: list[MountProcess] = []

    def mount(self, settings: str = "", *, options: tuple[str, ...] = ("-o", "allow_other")) -> Path:
        """The tree, mounted through a head whose export has these settings."""
        number = len(self.heads)
        config = self.folder / f"head{number}.toml"
        config.write_text(f'[[export]]\nname = "data"\ndirectory = "{self.tree}"\n{settings}\n')
        head = HeadProcess(self.folder / f"head{number}", {}, options=("--config", str(config)))
        self.heads.append(head)
        log = self.folder / f"mount{number}.log"
        mount = MountProcess(self.folder / f"mnt{number}", head.address, "data", log, options=options)
        self.mounts.append(mount)
        return mount.mountpoint

    def close(self) -> None:
        for mount in self.mounts:
            mount.unmount()
        for head in self.heads:
            head.stop()
        for process in (*self.mounts, *self.heads):
            process.check_log(self._expected)

    def file(self, name: str, mode: int, user: int = ALICE, group: int = LAB, acl: str = "") -> None:
        """A file with content; `acl` as setfacl(1) takes it."""
        path = self.tree / name
        path.parent.mkdir(exist_ok=True, mode=0o755)
        path.write_bytes(name.encode())
        os.chown(path, user, group)
        path.chmod(mode)
        if acl:
            subprocess.run(["setfacl", "-m", acl, str(path)], check=True)


@pytest.fixture
def place(folder: Path, expected_log: ExpectedLog) -> Iterator[Place]:
    need_fuse()
    place = Place(folder, expected_log)
    yield place
    place.close()


def as_user(user: int, *command: str, groups: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command as `user`, whose only groups are his own and `groups`."""
    return subprocess.run(
        command, user=user, group=user, extra_groups=groups, capture_output=True, text=True, timeout=60, check=False
    )


def reads(user: int, path: Path, groups: tuple[int, ...] = ()) -> bool:
    """Whether `user` can read the file; anything but success and "permission denied" is a failure of the test."""
    done = as_user(user, "/bin/cat", str(path), groups=groups)
    if done.returncode == 0:
        assert done.stdout.endswith(path.name)
        return True
    assert "Permission denied" in done.stderr, done.stderr
    return False


def test_mode_bits_decide_where_others_are_let_in(place: Place) -> None:
    place.file("mine", 0o600)
    place.file("ours", 0o640)
    mnt = place.mount()
    assert "default_permissions" in Path("/proc/mounts").read_text().split(str(mnt))[1].splitlines()[0]
    assert [reads(user, mnt / "mine") for user in (ALICE, BOB, 0)] == [True, False, True]
    assert reads(BOB, mnt / "ours", groups=(LAB,))
    assert not reads(BOB, mnt / "ours")


def test_acls_are_enforced_by_the_kernel_and_shown_by_getfacl(place: Place) -> None:
    place.file("given", 0o600, acl=f"u:{BOB}:r")
    place.file("taken", 0o644, acl=f"u:{BOB}:-")
    place.file("masked", 0o600, acl=f"u:{BOB}:r,m:-")
    place.file("group", 0o600, acl=f"g:{LAB}:r")
    place.file("deep/file", 0o644)
    subprocess.run(["setfacl", "-m", f"u:{BOB}:-", str(place.tree / "deep")], check=True)
    mnt = place.mount()
    answers = {name: [reads(user, mnt / name) for user in (BOB, CAROL)] for name in ("given", "taken", "masked")}
    assert answers == {"given": [True, False], "taken": [False, True], "masked": [False, False]}
    assert [reads(CAROL, mnt / "group", groups=(LAB,)), reads(CAROL, mnt / "group")] == [True, False]
    assert [reads(user, mnt / "deep" / "file") for user in (BOB, CAROL)] == [False, True]
    shown, there = (
        subprocess.run(["getfacl", "-n", "given", "taken"], cwd=where, capture_output=True, check=True).stdout
        for where in (mnt, place.tree)
    )
    assert shown == there
    assert f"user:{BOB}:r--".encode() in shown


def test_an_acl_that_changes_is_enforced_within_freshness(place: Place) -> None:
    place.file("file", 0o600)
    mnt = place.mount()
    assert not reads(BOB, mnt / "file")
    subprocess.run(["setfacl", "-m", f"u:{BOB}:r", str(place.tree / "file")], check=True)
    wait_until(lambda: reads(BOB, mnt / "file"), "the ACL gives")
    subprocess.run(["setfacl", "-b", str(place.tree / "file")], check=True)
    wait_until(lambda: not reads(BOB, mnt / "file"), "the ACL is gone")


def test_a_squashed_root_reads_what_the_anonymous_user_may(place: Place) -> None:
    place.file("open", 0o644)
    place.file("shut", 0o600)
    place.file("for nobody", 0o600, acl=f"u:{NOBODY}:r")
    place.file("not for nobody", 0o644, acl=f"u:{NOBODY}:-")
    place.file("closed/open", 0o644)
    (place.tree / "closed").chmod(0o711)
    place.file("private/open", 0o644)
    (place.tree / "private").chmod(0o700)
    os.chown(place.tree / "private", ALICE, LAB)
    mnt = place.mount("root_squash = true")
    names = ("open", "shut", "for nobody", "not for nobody", "closed/open")
    assert {name: reads(0, mnt / name) for name in names} == {
        "open": True,
        "shut": False,
        "for nobody": True,
        "not for nobody": False,
        "closed/open": True,
    }
    assert reads(ALICE, mnt / "shut")
    assert reads(ALICE, mnt / "private" / "open"), "and now the kernel knows the way"
    assert not reads(0, mnt / "private" / "open")
    assert as_user(0, "/bin/ls", str(mnt / "closed")).returncode != 0
    assert as_user(0, "/bin/ls", str(mnt)).returncode == 0
    assert as_user(0, "/usr/bin/stat", str(mnt / "shut")).returncode == 0
    assert as_user(0, "/bin/cat", str(mnt / ".dadafs" / "stats")).returncode == 0


def test_a_file_follows_its_changes_for_a_squashed_root(place: Place) -> None:
    """What the node asks its own mount about is not squashed, or the kernel would keep an old size."""
    place.file("log", 0o644)
    mnt = place.mount("root_squash = true")
    with (mnt / "log").open("rb") as file:
        assert file.read() == b"log"
        os.truncate(place.tree / "log", 1)
        wait_until(lambda: os.pread(file.fileno(), 10, 0) == b"l", "the cut is seen")


def test_everybody_is_the_anonymous_user(place: Place) -> None:
    """Even a node whose kernel lets root read everything gets no more than that user's from the head."""
    place.file("his", 0o600, user=CAROL)
    place.file("for all", 0o644)
    place.file("shut", 0o600)
    place.file("for the group", 0o640)
    place.file("private/file", 0o644)
    (place.tree / "private").chmod(0o700)
    os.chown(place.tree / "private", ALICE, LAB)
    mnt = place.mount(f"all_squash = true\nanonuid = {CAROL}\nanongid = {LAB}")
    for user in (ALICE, BOB, 0):
        assert {name: reads(user, mnt / name) for name in ("his", "for all", "shut", "for the group")} == {
            "his": True,
            "for all": True,
            "shut": False,
            "for the group": True,
        }
        assert not reads(user, mnt / "private" / "file")
    assert (mnt / "his").stat().st_mode & 0o777 == 0o666


def test_owners_are_mapped_and_so_are_acls(place: Place) -> None:
    place.file("mine", 0o600)
    place.file("given", 0o600, user=0, group=0, acl=f"u:{ALICE}:r,g:{LAB}:r")
    mnt = place.mount(f'uid_map = ["{ALICE}={BOB}"]\ngid_map = ["{LAB}={LAB + 1}"]')
    found = (mnt / "mine").stat()
    assert (found.st_uid, found.st_gid) == (BOB, LAB + 1)
    assert [reads(user, mnt / "mine") for user in (ALICE, BOB)] == [False, True]
    assert [reads(user, mnt / "given") for user in (ALICE, BOB)] == [False, True]
    assert [reads(CAROL, mnt / "given", groups=(group,)) for group in (LAB, LAB + 1)] == [False, True]
    listed = subprocess.run(["/bin/ls", "-ln", str(mnt)], capture_output=True, text=True, check=True).stdout
    assert str(BOB) in listed
    assert str(ALICE) not in listed


def test_without_acls_of_the_export_mode_bits_decide(place: Place) -> None:
    place.file("given", 0o600, acl=f"u:{BOB}:r")
    mnt = place.mount("acl = false")
    assert not reads(BOB, mnt / "given")
