"""Fixtures every layer may use: the real detector data, and a head with a mount on a fresh tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.harness.processes import HeadProcess, MountProcess, mounted_tree

REPOSITORY = Path(__file__).resolve().parent.parent


def in_ci() -> bool:
    """Whether this is a continuous-integration run, where nothing the promises rest on may be skipped."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def need_fuse() -> None:
    """Skip where there is no /dev/fuse, except in CI, where that is a failure."""
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return
    if in_ci():
        pytest.fail("/dev/fuse is not usable, and CI must mount for real")
    pytest.skip("/dev/fuse is not usable by this user")


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's caches (results, chunk indices)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("DADA_STORE", "DADA_INDEX_DIR", "DADA_STORE_LIMIT"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder with real detector files: $DADA_REALDATA, or `shared/realdata` beside the checkout."""
    for folder in (os.environ.get("DADA_REALDATA"), REPOSITORY.parent / "shared" / "realdata"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no real detector data: set DADA_REALDATA to the folder that holds it")


@dataclass
class Mounted:
    """A tree, the head that serves it and a mount of it."""

    tree: Path
    mnt: Path
    head: HeadProcess
    mount: MountProcess


@pytest.fixture
def mounted(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[Mounted]:
    """A fresh empty tree, served and mounted with default options."""
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    with mounted_tree(tmp_path, tree, expected_log) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)
