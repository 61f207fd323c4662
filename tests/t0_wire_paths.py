"""Which bytes are a path on the wire."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.wire.paths import BadPath, check, check_name, join, split


@pytest.mark.parametrize(
    "path",
    [b"", b"a", b"a/b/c", b"...", b".hidden", b"a..b/..c", b"new\nline", b"\xff\xfe", b"a" * 255, b" ", b"a\\b"],
)
def test_good_paths(path: bytes) -> None:
    assert check(path) == path


@pytest.mark.parametrize(
    "path",
    [
        b"/", b"/a", b"a/", b"a//b", b".", b"..", b"../a", b"a/..", b"a/./b", b"a/../b", b"a\0b", b"\0",
        b"a" * 256, b"a/" + b"b" * 256, b"/".join([b"a" * 100] * 41),
    ],
)  # fmt: skip
def test_bad_paths(path: bytes) -> None:
    with pytest.raises(BadPath):
        check(path)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"n" * 256])
def test_bad_names(name: bytes) -> None:
    with pytest.raises(BadPath):
        check_name(name)
    with pytest.raises(BadPath):
        join(b"a", name)


def test_join_and_split_undo_each_other() -> None:
    assert join(b"", b"a") == b"a"
    assert join(b"a/b", b"c") == b"a/b/c"
    assert split(b"a/b/c") == (b"a/b", b"c")
    assert split(b"a") == (b"", b"a")


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b"b\n", b"/", b"\0", b"c" * 255]), max_size=6).map(b"/".join))
def test_an_accepted_path_stays_below_its_root_and_is_canonical(path: bytes) -> None:
    try:
        check(path)
    except BadPath:
        return
    whole = b"/root/" + path
    assert os.path.normpath(whole) == whole.rstrip(b"/")
