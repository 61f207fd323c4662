"""Layered settings: precedence, sources, tables, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dadafs.errors import ExitCode, UserError
from dadafs.settings import Kind, Row, Schema, Setting, existing, load

SCHEMA = Schema(
    [
        Setting("retry", Kind.DURATION, 30.0, live=True),
        Setting("ram_cache", Kind.SIZE, 128 * 2**20, minimum=2**20),
        Setting("hard", Kind.BOOL, False),
        Setting("streams", Kind.INT, 4, minimum=1),
        Setting("share", Kind.FLOAT, 0.5),
        Setting("policy", Kind.STR, "strict", choices=("strict", "append")),
        Setting("listen", Kind.LIST, ["127.0.0.1:7070"]),
        Setting("token", Kind.STR, None, secret=True),
    ],
    {"tier": [Setting("path", Kind.STR, None), Setting("size", Kind.SIZE, 0)]},
)


def toml(folder: Path, text: str, name: str = "dadafs.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def complaint(folder: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> str:
    """What the user is told about a wrong configuration."""
    with pytest.raises(UserError) as caught:
        load(SCHEMA, files=[toml(folder, text)], environ=environ or {}, flags=flags)
    assert caught.value.exit_code == ExitCode.USAGE
    return str(caught.value)


def test_defaults() -> None:
    settings = load(SCHEMA, environ={})
    assert settings["retry"] == 30.0
    assert settings.source("retry") == "default"
    assert settings.tables == {}


def test_each_layer_overrides_the_one_below_and_is_remembered(tmp_path: Path) -> None:
    path = toml(tmp_path, 'retry = "1s"\nram_cache = "2MiB"\nhard = true\nstreams = 7\nshare = 0.25\n')
    settings = load(
        SCHEMA,
        files=[path],
        environ={"DADAFS_RETRY": "2s", "DADAFS_RAM_CACHE": "3MiB", "DADAFS_HARD": "no", "HOME": "/"},
        options={"ram_cache": "4MiB", "retry": "3s"},
        flags={"retry": "4s", "hard": None},
    )
    assert (settings["retry"], settings.source("retry")) == (4.0, "flag --retry")
    assert (settings["ram_cache"], settings.source("ram_cache")) == (4 * 2**20, "option -o ram_cache")
    assert (settings["hard"], settings.source("hard")) == (False, "environment DADAFS_HARD")
    assert (settings["streams"], settings.source("streams")) == (7, str(path))
    assert settings["share"] == 0.25


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    first, second = toml(tmp_path, "streams = 1\nhard = true", "a"), toml(tmp_path, "streams = 2", "b")
    settings = load(SCHEMA, files=[first, second], environ={})
    assert (settings["streams"], settings["hard"]) == (2, True)
    assert settings.source("streams") == str(second)


def test_a_bare_number_is_bytes_or_seconds(tmp_path: Path) -> None:
    settings = load(SCHEMA, files=[toml(tmp_path, "retry = 5\nram_cache = 2097152")], environ={})
    assert (settings["retry"], settings["ram_cache"]) == (5.0, 2097152)


def test_lists_come_as_lists_or_with_commas(tmp_path: Path) -> None:
    assert load(SCHEMA, files=[toml(tmp_path, 'listen = ["a:1", "b:2"]')], environ={})["listen"] == ["a:1", "b:2"]
    assert load(SCHEMA, environ={"DADAFS_LISTEN": "a:1, b:2"})["listen"] == ["a:1", "b:2"]


def test_arrays_of_tables(tmp_path: Path) -> None:
    path = toml(tmp_path, '[[tier]]\npath = "/a"\nsize = "1GiB"\n[[tier]]\npath = "/b"\n')
    settings = load(SCHEMA, files=[path], environ={})
    first, second = settings.tables["tier"]
    assert (first["path"], first["size"], second["path"], second["size"]) == ("/a", 2**30, "/b", 0)
    assert Row("tier[0].size", "1GiB", f"{path} [[tier]]") in settings.explain()
    assert Row("tier[1].size", "0B", "default") in settings.explain()


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    text = complaint(tmp_path, 'rettry = "1s"')
    assert "rettry" in text
    assert "did you mean 'retry'?" in text
    assert str(tmp_path) in text
    assert "did you mean 'ram_cache'?" in complaint(tmp_path, **{"ram-cash": "1MiB"})
    assert "did you mean" not in complaint(tmp_path, "zzz = 1")
    assert "did you mean 'path'?" in complaint(tmp_path, '[[tier]]\npaht = "/a"')
    assert "did you mean 'tier'?" in complaint(tmp_path, '[[teir]]\npath = "/a"')


def test_a_slip_in_the_environment_is_refused_and_strange_variables_are_not(tmp_path: Path) -> None:
    assert "did you mean 'retry'?" in complaint(tmp_path, environ={"DADAFS_RETRYS": "1s"})
    load(SCHEMA, environ={"DADAFS_X_UNRELATED": "1", "DADAFSD_RETRYS": "1"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('retry = "1 parsec"', "parsec"),
        ("hard = 3", "neither true nor false"),
        ("streams = 0", "too small; the smallest is 1"),
        ('ram_cache = "4KiB"', "the smallest is 1MiB"),
        ("streams = 1.5", "not a whole number"),
        ("streams = true", "not a whole number"),
        ('share = "x"', "not a number"),
        ("policy = 5", "not a text"),
        ('policy = "lax"', "none of strict, append"),
        ("listen = 5", "not a list"),
        ("retry = [1]", "not a duration"),
        ("tier = 5", r"[[tier]]"),
        ("retry = ", "not a TOML file"),
    ],
)
def test_wrong_values_are_refused_with_their_source(tmp_path: Path, text: str, says: str) -> None:
    message = complaint(tmp_path, text)
    assert says in message
    assert "dadafs.toml" in message


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothere\.toml: No such file"):
        load(SCHEMA, files=[tmp_path / "nothere.toml"], environ={})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="not a TOML file"):
        load(SCHEMA, files=[tmp_path / "binary"], environ={})
    assert existing(tmp_path / "nothere.toml", tmp_path / "binary") == [tmp_path / "binary"]


def test_live_changes_lie_above_all_layers_and_can_be_undone() -> None:
    settings = load(SCHEMA, environ={}, flags={"retry": "9s"})
    assert settings.change("retry", "1m", "dadafsctl set") == 60.0
    assert (settings["retry"], settings.source("retry")) == (60.0, "dadafsctl set")
    assert settings.reset("retry") == 9.0
    assert settings.source("retry") == "flag --retry"
    with pytest.raises(UserError, match="cannot be changed while running"):
        settings.change("hard", "true")
    with pytest.raises(UserError, match="parsec"):
        settings.change("retry", "1 parsec")
    assert settings["retry"] == 9.0


def test_explain_shows_every_setting_once_and_no_secret() -> None:
    rows = load(SCHEMA, environ={"DADAFS_TOKEN": "hunter2"}).explain()
    assert [row.name for row in rows] == list(SCHEMA.settings)
    assert Row("token", "(secret)", "environment DADAFS_TOKEN") in rows
    assert Row("ram_cache", "128MiB", "default") in rows
    assert Row("retry", "30s", "default") in rows
    assert Row("hard", "false", "default") in rows
    assert Row("listen", "127.0.0.1:7070", "default") in rows
