"""Key files: what is a key, and what is said about files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dadafs.errors import ExitCode, UserError
from dadafs.wire.keys import KeyRing, load_key_file, parse_keys

SECRET = bytes(range(32))


def write(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_key_file(path)
    assert caught.value.exit_code == ExitCode.USAGE
    return str(caught.value)


@pytest.mark.parametrize("text", [SECRET.hex(), SECRET.hex().upper(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="])
def test_secrets_are_hex_or_base64(tmp_path: Path, text: str) -> None:
    ring = load_key_file(write(tmp_path, f"beamtime: {text}\n"))
    key = ring.get("beamtime")
    assert key is not None
    assert key.secret == SECRET


def test_a_bare_secret_gets_a_name_that_both_sides_agree_on(tmp_path: Path) -> None:
    (first,) = load_key_file(write(tmp_path, SECRET.hex() + "\n")).ids()
    (second,) = parse_keys(SECRET.hex().upper().encode()).ids()
    assert first == second
    assert first not in SECRET.hex()
    assert parse_keys(b"another secret of some length!").ids() != [first]


def test_a_pass_phrase_is_taken_as_it_is() -> None:
    ring = parse_keys(b"k: a long pass phrase, not base64")
    key = ring.get("k")
    assert key is not None
    assert key.secret == b"a long pass phrase, not base64"


def test_several_keys_keep_their_order_and_comments_are_skipped() -> None:
    ring = parse_keys(f"# rotation\n\n new : {SECRET.hex()} \nold:{'ab' * 16}\n".encode())
    assert ring.ids() == ["new", "old"]
    chosen = ring.choose(["old", "new", "x"])
    assert chosen is not None
    assert chosen.id == "new"
    assert ring.choose(["x"]) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601])
def test_a_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    assert "chmod 600" in complaint(write(tmp_path, SECRET.hex(), mode))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key in it"),
        ("# nothing\n\n", "no key in it"),
        ("k: short", "line 1 is shorter than 16 bytes"),
        ("ok: " + "ab" * 16 + "\nbad name: " + "cd" * 16, "key name in line 2"),
        (f"a: {SECRET.hex()}\na: {SECRET.hex()}", "line 2 repeats"),
        (b"\xff\xfe\x00\x01", "not text"),
        ("a" * 70_000, "larger than"),
        ("\n".join(f"k{i}: {i:032x}" for i in range(17)), "more than 16 keys"),
    ],
)
def test_what_is_no_key_file(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert says in complaint(write(tmp_path, text))


def test_a_complaint_never_quotes_the_secret(tmp_path: Path) -> None:
    assert "hunter2" not in complaint(write(tmp_path, "k: hunter2"))
    assert "hunter2" not in complaint(write(tmp_path, "hunter2 has spaces: aaaa"))


def test_missing_files_and_things_that_are_no_file(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "nothing")
    assert "not a regular file" in complaint(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not a regular file" in complaint(tmp_path / "pipe")


def test_an_empty_ring_cannot_be() -> None:
    with pytest.raises(ValueError):
        KeyRing([])
