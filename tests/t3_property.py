"""The judge: random changes of a tree, random reads of its mount; both must agree.

A Hypothesis state machine changes the plain directory (the oracle) and reads the mount. Until `freshness` after a
change the mount may show an earlier state, but only one that the tree really had: whatever is read must be a state of
that path, page by page, or the beginning of one (a file caught while it was being written). In the end both must be
the same.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import mounted_tree

#: How long the mount may take to show a change: freshness, and what a noisy machine needs to be scheduled.
AGREE_WITHIN = 60.0
PAGE = 4096
HOW = ["append", "replace", "write"]
NAMES = ["a", "b", "c.h5", "d"]
SIZES = st.sampled_from([0, 1, 100, 4095, 4096, 4097, 65536, 65537, 300_000, 1_048_576, 1_048_577, 2_500_000])


def _bytes(seed: int, size: int) -> bytes:
    """`size` bytes, none of them zero, different for each seed."""
    pattern = bytes((seed * 31 + i * 7) % 255 + 1 for i in range(251))
    return (pattern * (size // len(pattern) + 1))[:size]


def _look(path: Path) -> tuple[Any, ...]:
    """What a program can see of `path` without reading contents, comparable between tree and mount."""
    try:
        found = path.lstat()
        seen = (
            stat.S_IFMT(found.st_mode),
            stat.S_IMODE(found.st_mode),
            found.st_nlink,
            found.st_mtime_ns,
            _attributes(path),
        )
        if stat.S_ISLNK(found.st_mode):
            return (*seen, os.readlink(path))
        if stat.S_ISDIR(found.st_mode):
            return (*seen, tuple(sorted(os.listdir(path))))
        return (*seen, found.st_size)
    except OSError as exc:
        return ("error", exc.errno)


def _attributes(path: Path) -> tuple[tuple[str, bytes], ...]:
    """The extended attributes of the tree; those that explain a file exist in the mount only."""
    names = sorted(
        name
        for name in os.listxattr(path, follow_symlinks=False)
        if name.startswith("user.") and not name.startswith("user.dadafs.")
    )
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        return -(exc.errno or 0)


def _read(path: Path) -> tuple[Any, ...]:
    try:
        return ("bytes", path.read_bytes())
    except OSError as exc:
        return ("error", exc.errno)


def _read_mapped(path: Path) -> tuple[Any, ...]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return ("bytes", b"")
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                return ("bytes", bytes(mapped))
    except OSError as exc:
        return ("error", exc.errno)


class Tree(RuleBasedStateMachine):
    """Writers work in `tree`; readers look at `mnt`."""

    mnt: Path
    tree: Path

    @initialize()
    def begin(self) -> None:
        for entry in list(self.tree.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (self.tree / "sub").mkdir()
        for path in [self.tree / "sub", *(self.tree / name for name in ["", *NAMES])]:
            inside = self.mnt / path.relative_to(self.tree)
            self._agree(f"lstat {inside}", lambda inside=inside: _look(inside), lambda path=path: _look(path))
        self.seed = 0
        self.history: dict[Path, list[tuple[Any, ...]]] = {}
        self.handles: list[tuple[Any, int]] = []

    def teardown(self) -> None:
        for file, _ in getattr(self, "handles", []):
            file.close()

    # --- the writer

    def _path(self, where: str, name: str) -> Path:
        return self.tree / where / name if where else self.tree / name

    def _fresh(self) -> int:
        self.seed += 1
        return self.seed

    where = st.sampled_from(["", "sub"])
    name = st.sampled_from(NAMES)

    @rule(where=where, name=name, size=SIZES)
    def write(self, where: str, name: str, size: int) -> None:
        with contextlib.suppress(IsADirectoryError, FileNotFoundError, OSError):
            self._path(where, name).write_bytes(_bytes(self._fresh(), size))

    @rule(where=where, name=name, size=SIZES)
    def append(self, where: str, name: str, size: int) -> None:
        with contextlib.suppress(OSError), self._path(where, name).open("ab") as file:
            file.write(_bytes(self._fresh(), size))

    @rule(where=where, name=name)
    def rewrite_in_place(self, where: str, name: str) -> None:
        with contextlib.suppress(OSError), self._path(where, name).open("r+b") as file:
            file.write(_bytes(self._fresh(), os.fstat(file.fileno()).st_size))

    @rule(where=where, name=name, size=SIZES)
    def truncate(self, where: str, name: str, size: int) -> None:
        path = self._path(where, name)
        with contextlib.suppress(OSError):
            os.truncate(path, min(size, path.stat().st_size))

    @rule(where=where, name=name, size=SIZES)
    def replace_by_rename(self, where: str, name: str, size: int) -> None:
        with contextlib.suppress(OSError):
            new = self.tree / "new"
            new.write_bytes(_bytes(self._fresh(), size))
            new.rename(self._path(where, name))
        with contextlib.suppress(OSError):
            (self.tree / "new").unlink()

    @rule(where=where, name=name, other=name)
    def rename(self, where: str, name: str, other: str) -> None:
        with contextlib.suppress(OSError):
            self._path(where, name).rename(self._path("", other))

    @rule(where=where, name=name)
    def delete(self, where: str, name: str) -> None:
        path = self._path(where, name)
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    @rule(where=where, name=name)
    def mkdir(self, where: str, name: str) -> None:
        with contextlib.suppress(OSError):
            self._path(where, name).mkdir()

    @rule(where=where, name=name, to=name)
    def symlink(self, where: str, name: str, to: str) -> None:
        with contextlib.suppress(OSError):
            self._path(where, name).symlink_to(to)

    @rule(where=where, name=name, other=name)
    def hard_link(self, where: str, name: str, other: str) -> None:
        with contextlib.suppress(OSError):
            os.link(self._path(where, name), self._path("", other), follow_symlinks=False)

    @rule(where=where, name=name, mode=st.sampled_from([0o600, 0o644, 0o755, 0o444]))
    def chmod(self, where: str, name: str, mode: int) -> None:
        path = self._path(where, name)
        with contextlib.suppress(OSError):
            if not path.is_symlink():
                path.chmod(mode | (0o700 if path.is_dir() else 0))

    @rule(where=where, name=name, value=st.sampled_from([b"", b"bone", b"x" * 300]))
    def set_attribute(self, where: str, name: str, value: bytes) -> None:
        path = self._path(where, name)
        with contextlib.suppress(OSError):
            if value:
                os.setxattr(path, b"user.sample", value, follow_symlinks=False)
            else:
                os.removexattr(path, b"user.sample", follow_symlinks=False)

    @rule(name=st.sampled_from(["sub", "sub2"]))
    def rename_directory(self, name: str) -> None:
        other = "sub2" if name == "sub" else "sub"
        with contextlib.suppress(OSError):
            (self.tree / name).rename(self.tree / other)

    # --- both at once

    @rule(where=where, name=name, sizes=st.lists(SIZES, min_size=2, max_size=6), how=st.sampled_from(HOW))
    def read_while_it_is_written(self, where: str, name: str, sizes: list[int], how: str) -> None:
        """A writer goes on while a program opens, reads and maps: all that it sees must have been there."""
        path = self._path(where, name)
        inside = self.mnt / path.relative_to(self.tree)
        writer = threading.Thread(target=self._write_all, args=(path, sizes, how))
        seen = []
        writer.start()
        while writer.is_alive():
            seen.append(_read(inside))
        writer.join()
        self.remember_states()
        for one in seen:
            wrong = self._never_had(path, one)
            assert not wrong, f"read {inside} while {how}: {wrong}"
        self._agree(f"read {inside}", lambda: _read(inside), lambda: _read(path), path)
        self._agree(f"lstat {inside}", lambda: _look(inside), lambda: _look(path))

    def _write_all(self, path: Path, sizes: list[int], how: str) -> None:
        write = {"append": self.append, "replace": self.replace_by_rename, "write": self.write}[how]
        where = str(path.parent.relative_to(self.tree)).removeprefix(".")
        for size in sizes:
            write(where, path.name, size)
            self.history.setdefault(path, []).append(_read(path))

    # --- the reader

    @invariant()
    def remember_states(self) -> None:
        """After every step: what each path reads as now."""
        for where in ("", "sub", "sub2"):
            for name in NAMES:
                path = self._path(where, name)
                states = self.history.setdefault(path, [])
                state = _read(path)
                if not states or states[-1] != state:
                    states.append(state)

    def _never_had(self, path: Path, seen: tuple[Any, ...]) -> str:
        """Where `seen` has a page that no state of `path` had, nor the beginning of one; empty where it has none.

        A program's read is many pages, and a change may come between two of them, as on a local disk.
        """
        if seen[0] == "error":
            return ""  # every path was absent at first, and a link may dangle
        states = [state[1] for state in self.history.get(path, []) if state[0] == "bytes"]
        for at in range(0, len(seen[1]), PAGE):
            page = seen[1][at : at + PAGE]
            if not any(state.startswith(page, at) for state in states):
                sizes = [len(state) for state in states]
                return (
                    f"page at {at} of {len(seen[1])} bytes was never there: {page[:16]!r}, {page.count(0)} zeros;"
                    f" the sizes were {sizes}, their pages {[state[at : at + 8] for state in states]}"
                )
        return ""

    def _agree(self, what: str, in_mount: Any, in_tree: Any, path: Path | None = None) -> None:
        """Wait until both functions give the same, for at most `AGREE_WITHIN` seconds."""
        end = time.monotonic() + AGREE_WITHIN
        while (seen := in_mount()) != (truth := in_tree()):
            if path is not None and (wrong := self._never_had(path, seen)):
                raise AssertionError(f"{what}: {wrong}")
            if time.monotonic() > end:
                raise AssertionError(f"{what}: the mount shows {_short(seen)}, the tree has {_short(truth)}")
            time.sleep(0.02)

    @rule(where=where, name=name)
    def attributes_that_were_there(self, where: str, name: str) -> None:
        """Before `freshness` is over, too: no size that the path never grew to, no error that it never gave."""
        path = self._path(where, name)
        seen = _size(self.mnt / path.relative_to(self.tree))
        states = self.history.get(path, [])
        errors = {-errno.ENOENT} | {-state[1] for state in states if state[0] == "error"}
        sizes = [len(state[1]) for state in states if state[0] == "bytes"]
        assert seen in errors or 0 <= seen <= max(sizes, default=-1) or -errno.EISDIR in errors, (
            f"{path} never had the size {seen}: {sizes}, {errors}"
        )

    @rule(where=where, name=name)
    def same_attributes(self, where: str, name: str) -> None:
        path = self._path(where, name)
        inside = self.mnt / path.relative_to(self.tree)
        self._agree(f"lstat {inside}", lambda: _look(inside), lambda: _look(path))

    @rule(where=where, name=name)
    def same_bytes(self, where: str, name: str) -> None:
        path = self._path(where, name)
        inside = self.mnt / path.relative_to(self.tree)
        self._agree(f"read {inside}", lambda: _read(inside), lambda: _read(path), path)

    @rule(where=where, name=name)
    def same_bytes_mapped(self, where: str, name: str) -> None:
        path = self._path(where, name)
        inside = self.mnt / path.relative_to(self.tree)
        # A map of a file that shrinks ends its reader with SIGBUS, here as on a local disk: wait for the size first.
        self._agree(f"stat {inside}", lambda: _size(inside), lambda: _size(path))
        self._agree(f"mmap {inside}", lambda: _read_mapped(inside), lambda: _read_mapped(path), path)

    @rule(where=where)
    def same_listing(self, where: str) -> None:
        path = self.tree / where
        inside = self.mnt / where
        self._agree(f"readdir {inside}", lambda: _look(inside), lambda: _look(path))

    @rule(where=where, name=name)
    def open_and_hold(self, where: str, name: str) -> None:
        """A handle goes on reading the file that it opened, by inode, whatever happens to the name."""
        path = self._path(where, name)
        inside = self.mnt / path.relative_to(self.tree)
        self._agree(f"lstat {inside}", lambda: _look(inside), lambda: _look(path))
        if len(self.handles) < 4 and path.is_file() and not path.is_symlink():
            twin = path.open("rb")
            try:
                held = inside.open("rb")
            except FileNotFoundError:
                twin.close()
                return
            self.handles += [(held, twin.fileno()), (twin, -1)]

    @rule()
    def held_handles_read_their_file(self) -> None:
        for file, twin in self.handles:
            if twin >= 0:
                self._agree(
                    f"held {file.name}",
                    lambda file=file: _held(file.fileno()),
                    lambda twin=twin: _held(twin),
                )

    @invariant()
    def nothing_hangs(self) -> None:
        os.stat(self.mnt)


def _held(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size + 10, 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:160]}... ({len(text)} characters)"


@pytest.mark.slow
def test_mount_and_tree_agree(expected_log: ExpectedLog) -> None:
    need_fuse()
    examples = int(os.environ.get("DADA_PROPERTY_EXAMPLES", "12"))
    with tempfile.TemporaryDirectory(prefix="dadafs-property-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        with mounted_tree(Path(folder), tree, expected_log) as (_, mount):
            machine = type("MountedTree", (Tree,), {"tree": tree, "mnt": mount.mountpoint})
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=40,
                    deadline=None,
                    derandomize="CI" in os.environ,
                    suppress_health_check=list(HealthCheck),
                ),
            )
