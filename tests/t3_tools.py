"""Ordinary programs on a mounted tree see exactly what they see on the tree itself, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import REPOSITORY, Mounted, need_fuse
from tests.harness.processes import mounted_tree


def _run(*command: str, cwd: Path) -> str:
    env = {**os.environ, "LC_ALL": "C.UTF-8", "GIT_CONFIG_COUNT": "1"}
    env |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="surrogateescape")


def _scan(folder: Path) -> None:
    """A master file with external links to two data files, as an EIGER writes them."""
    folder.mkdir()
    frames = np.random.default_rng(5).poisson(0.05, (6, 128, 130)).astype(np.uint32)
    for number in (1, 2):
        with h5py.File(folder / f"scan_data_{number:06d}.h5", "w") as data:
            data.create_dataset(
                "/entry/data/data",
                data=frames[3 * (number - 1) : 3 * number],
                chunks=(1, 128, 130),
                **hdf5plugin.Bitshuffle(cname="lz4"),
            )
    with h5py.File(folder / "scan_master.h5", "w") as master:
        for number in (1, 2):
            master[f"/entry/data/data_{number:06d}"] = h5py.ExternalLink(
                f"scan_data_{number:06d}.h5", "/entry/data/data"
            )


def _fill(tree: Path) -> None:
    _scan(tree / "scan")
    _run("git", "init", "-q", "repo", cwd=tree)
    shutil.copytree(REPOSITORY / "dadafs", tree / "repo" / "dadafs")
    _run("git", "add", "-A", cwd=tree / "repo")
    _run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "t", cwd=tree / "repo")
    (tree / "big").write_bytes(np.random.default_rng(6).bytes(5 * 1024 * 1024 + 12345))
    (tree / "empty").write_bytes(b"")
    (tree / "sparse").write_bytes(b"")
    os.truncate(tree / "sparse", 3_000_000)
    os.link(tree / "big", tree / "second name")
    (tree / "link").symlink_to("scan/scan_master.h5")
    (tree / "dangling").symlink_to("/nowhere/at all")
    os.mkfifo(tree / "pipe")
    name = os.fsencode(tree) + b"/new\nline and \xff\xfe"
    with open(name, "wb") as file:
        file.write(b"odd name")
    os.chmod(tree / "big", 0o4711)
    if os.geteuid() == 0:
        os.chown(tree / "empty", 12345, 54321)
    os.setxattr(tree / "big", b"user.sample", b"bone")
    subprocess.run(["setfacl", "-m", "u:12345:rx", tree / "scan", tree / "scan" / "scan_master.h5"], check=True)
    os.utime(tree / "empty", ns=(1, -5_000_000_001))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One tree for all tools."""
    need_fuse()
    folder = tmp_path_factory.mktemp("tools")
    tree = folder / "tree"
    tree.mkdir()
    _fill(tree)
    with mounted_tree(folder, tree, ExpectedLog()) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


def test_find_ls_agrees(served: Mounted) -> None:
    def listed(place: Path) -> list[list[str]]:
        """Words, because find widens its columns as it meets longer ones: the padding depends on the order."""
        return sorted(line.split() for line in _run("find", ".", "-ls", cwd=place).splitlines())

    there, here = listed(served.tree), listed(served.mnt)
    assert here == there
    assert len(there) > 50


def test_find_sees_every_attribute(served: Mounted) -> None:
    command = ("find", ".", "-printf", r"%p %i %m %n %U %G %s %b %T@ %C@ %y %l\0")
    there, here = (sorted(_run(*command, cwd=place).split("\0")) for place in (served.tree, served.mnt))
    assert here == there


def test_ls_la_agrees(served: Mounted) -> None:
    command = ("ls", "-la", "--time-style=full-iso", ".", "repo/dadafs")
    there, here = (_run(*command, cwd=place).splitlines() for place in (served.tree, served.mnt))
    parents = [line for line in there if line.endswith(" ..")]
    assert len(parents) == 2
    # the parent of a mount's root is on another file system
    assert [line for line in here if not line.endswith(" ..")] == [line for line in there if line not in parents]


def test_sha256sum_agrees(served: Mounted) -> None:
    command = ("sh", "-c", "find . -type f -print0 | sort -z | xargs -0 sha256sum")
    there, here = (_run(*command, cwd=place) for place in (served.tree, served.mnt))
    assert here == there


def test_rsync_by_checksum_finds_no_difference(served: Mounted, tmp_path: Path) -> None:
    changes = _run("rsync", "-aHXc", "-n", "--itemize-changes", f"{served.tree}/", f"{served.mnt}/", cwd=tmp_path)
    assert changes == ""


def test_cp_r_makes_a_true_copy(served: Mounted, tmp_path: Path) -> None:
    _run("cp", "-a", f"{served.mnt}/.", str(tmp_path / "copy"), cwd=tmp_path)
    changes = _run(
        "rsync", "-aHXc", "-n", "--delete", "--itemize-changes", f"{served.tree}/", f"{tmp_path}/copy/", cwd=tmp_path
    )
    assert changes == ""


def test_tar_agrees(served: Mounted) -> None:
    command = ("sh", "-c", "tar -c --sort=name --xattrs --pax-option=delete=atime . | sha256sum")
    there, here = (_run(*command, cwd=place) for place in (served.tree, served.mnt))
    assert here == there


def test_git_fsck_and_status_are_content(served: Mounted) -> None:
    assert _run("git", "fsck", "--full", "--strict", cwd=served.mnt / "repo") == ""
    assert _run("git", "status", "--porcelain", cwd=served.mnt / "repo") == ""
    command = ("git", "log", "--stat", "--format=%H")
    assert _run(*command, cwd=served.mnt / "repo") == _run(*command, cwd=served.tree / "repo")


def test_getfattr_and_getfacl_agree(served: Mounted) -> None:
    for command in (("getfattr", "-R", "-h", "-d", "-m", "-", "."), ("getfacl", "-R", "-P", ".")):
        there, here = (_run(*command, cwd=place) for place in (served.tree, served.mnt))
        assert sorted(here.split("\n\n")) == sorted(there.split("\n\n"))
        assert "bone" in there or "user:12345:r-x" in there


def test_du_and_df(served: Mounted) -> None:
    command = ("du", "-s", "--block-size=1", ".")
    assert _run(*command, cwd=served.mnt) == _run(*command, cwd=served.tree)
    there, here = os.statvfs(served.tree), os.statvfs(served.mnt)
    assert here.f_namemax == there.f_namemax
    assert here.f_blocks * here.f_frsize == there.f_blocks * there.f_frsize


@pytest.mark.parametrize("locking", ["true", "false", "best-effort"])
def test_h5py_reads_a_scan_through_its_links(served: Mounted, locking: str) -> None:
    script = (
        "import h5py, hdf5plugin, hashlib, sys\n"
        "with h5py.File(sys.argv[1]) as master:\n"
        "    for name in ('data_000001', 'data_000002'):\n"
        "        print(hashlib.sha256(master['/entry/data'][name][()].tobytes()).hexdigest())\n"
    )
    env = {**os.environ, "HDF5_USE_FILE_LOCKING": locking}
    results = [
        subprocess.run(
            [sys.executable, "-c", script, str(place / "scan" / "scan_master.h5")],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        for place in (served.tree, served.mnt)
    ]
    assert results[1].returncode == 0, results[1].stderr
    assert results[1].stdout == results[0].stdout
    assert len(results[0].stdout.split()) == 2
