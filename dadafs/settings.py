"""Layered configuration: default < TOML file < environment < flag; every value remembers where it came from.

A program declares its settings as a `Schema`; `load` merges the layers and refuses what it does not know,
naming the nearest known name. Sizes, durations and the rest are parsed by kind, so that a wrong value is
refused at the start with its source. `Settings.change` and `reset` serve live tuning.
"""

from __future__ import annotations

import difflib
import enum
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dadafs.errors import ExitCode, UserError
from dadafs.quantity import format_duration, format_size, parse_duration, parse_size

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class Kind(enum.Enum):
    """How a value is written and what it becomes."""

    SIZE = "a size like 128MiB"  # int, bytes
    DURATION = "a duration like 1s or 2h"  # float, seconds
    BOOL = "true or false"  # bool
    INT = "a whole number"  # int
    FLOAT = "a number"  # float
    STR = "a text"  # str
    LIST = "a list of texts"  # list[str]; in the environment and in flags separated by commas


@dataclass(frozen=True)
class Setting:
    """One setting: its name (words joined by underscores), kind, default (already parsed) and one line of help.

    `choices` are the only texts allowed; `minimum` the smallest number. `live`: may be changed while running.
    `secret`: `explain` does not show the value.
    """

    name: str
    kind: Kind
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    live: bool = False
    secret: bool = False

    def parse(self, raw: object) -> Any:
        """The value that `raw`, from any layer, stands for. Raises ValueError with a sentence for a person."""
        value = _PARSERS[self.kind](raw)
        if self.choices and value not in self.choices:
            raise ValueError(f"{raw!r} is none of {', '.join(self.choices)}")
        if self.minimum is not None and value is not None and value < self.minimum:
            raise ValueError(f"{raw!r} is too small; the smallest is {self.format(type(value)(self.minimum))}")
        return value

    def format(self, value: Any) -> str:
        """`value` as a person would write it."""
        if self.secret and value:
            return "(secret)"
        if value is None:
            return ""
        if self.kind is Kind.SIZE:
            return format_size(value).replace(" ", "")
        if self.kind is Kind.DURATION:
            return format_duration(value)
        if self.kind is Kind.BOOL:
            return "true" if value else "false"
        return ", ".join(value) if self.kind is Kind.LIST else str(value)


def _parse_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    text = str(raw).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{raw!r} is neither true nor false")


def _parse_int(raw: object) -> int:
    if isinstance(raw, int | str) and not isinstance(raw, bool):
        try:
            return int(raw)
        except ValueError:
            pass
    raise ValueError(f"{raw!r} is not a whole number")


def _parse_float(raw: object) -> float:
    if isinstance(raw, int | float | str) and not isinstance(raw, bool):
        try:
            return float(raw)
        except ValueError:
            pass
    raise ValueError(f"{raw!r} is not a number")


def _parse_text(raw: object) -> str:
    if isinstance(raw, str | os.PathLike):
        return os.fspath(raw)
    raise ValueError(f"{raw!r} is not a text; put it in quotes")


def _parse_list(raw: object) -> list[str]:
    if isinstance(raw, str):
        return [part.strip() for part in raw.split(",") if part.strip()]
    if isinstance(raw, list | tuple):
        return [_parse_text(part) for part in raw]
    raise ValueError(f"{raw!r} is not a list of texts")


def _parse_size(raw: object) -> int:
    return parse_size(raw if isinstance(raw, str | int) else repr(raw))


def _parse_duration(raw: object) -> float:
    return parse_duration(raw if isinstance(raw, str | int | float) else repr(raw))


_PARSERS: dict[Kind, Callable[[object], Any]] = {
    Kind.SIZE: _parse_size,
    Kind.DURATION: _parse_duration,
    Kind.BOOL: _parse_bool,
    Kind.INT: _parse_int,
    Kind.FLOAT: _parse_float,
    Kind.STR: _parse_text,
    Kind.LIST: _parse_list,
}


@dataclass(frozen=True)
class Row:
    """One line of `--show-config`."""

    name: str
    value: str
    source: str


class Schema:
    """The settings of one program; `tables` are arrays of tables such as `[[tier]]`, each with its own
    settings.
    """

    def __init__(self, settings: Iterable[Setting], tables: Mapping[str, Iterable[Setting]] | None = None) -> None:
        self.settings = {setting.name: setting for setting in settings}
        self.tables = {name: Schema(table) for name, table in (tables or {}).items()}

    def find(self, name: str, source: str) -> Setting:
        """The setting `name`; `-` and `_` are the same. Raises UserError with the nearest known name."""
        setting = self.settings.get(name.replace("-", "_"))
        if setting is None:
            raise UserError(f"Unknown setting {name!r} ({source}){self.nearest(name) or '.'}", ExitCode.USAGE)
        return setting

    def nearest(self, name: str) -> str:
        """The end of a sentence that suggests the known name most like `name`; empty where none is."""
        known = [*self.settings, *self.tables]
        close = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1, cutoff=0.6)
        return f"; did you mean {close[0]!r}?" if close else ""


@dataclass
class Settings:
    """Effective values by name, each with its source; `tables` holds one `Settings` for each table of an
    array.
    """

    schema: Schema
    name: str = ""
    tables: dict[str, list[Settings]] = field(default_factory=dict)
    _values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    _changes: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """The effective value of the setting `name`. Raises KeyError where there is no such setting."""
        return self._effective(name)[0]

    def source(self, name: str) -> str:
        """Where the effective value comes from: `default`, a file, `environment NAME`, `flag --name`."""
        return self._effective(name)[1]

    def _effective(self, name: str) -> tuple[Any, str]:
        if name in self._changes:
            return self._changes[name]
        return self._layered(name)

    def put(self, name: str, raw: object, source: str) -> None:
        """Set `name` in this layer; later layers call later. Raises UserError for an unknown name or wrong
        value.
        """
        setting = self.schema.find(name, source)
        self._values[setting.name] = (_parsed(setting, raw, source), source)

    def change(self, name: str, raw: object, source: str = "set while running") -> Any:
        """Override `name` while running, above all layers; returns the value. Raises UserError, also if not
        `live`.
        """
        setting = self.schema.find(name, source)
        if not setting.live:
            raise UserError(f"{setting.name} cannot be changed while running; change the file and restart.")
        value = _parsed(setting, raw, source)
        self._changes[setting.name] = (value, source)
        return value

    def reset(self, name: str) -> Any:
        """Undo `change`; returns the value that is effective now."""
        setting = self.schema.find(name, "reset")
        self._changes.pop(setting.name, None)
        return self[setting.name]

    def adopt(self, other: Settings) -> tuple[list[str], list[str]]:
        """Take over what the layers of `other`, read later, say of settings that may change while running.

        The names of those that changed so, and of those that would have and may not. What `change` did stays.
        """
        changed, fixed = [], []
        for name, setting in self.schema.settings.items():
            if self._layered(name)[0] == other._layered(name)[0]:
                continue
            if not setting.live:
                fixed.append(name)
                continue
            changed.append(name)
            self._values[name] = other._layered(name)
        return changed, fixed

    def _layered(self, name: str) -> tuple[Any, str]:
        if name in self._values:
            return self._values[name]
        return self.schema.settings[name].default, "default"

    def explain(self) -> list[Row]:
        """Every effective value with its source, tables after plain settings as `tier[0].size`."""
        prefix = f"{self.name}." if self.name else ""
        rows = [
            Row(prefix + name, setting.format(self[name]), self.source(name))
            for name, setting in self.schema.settings.items()
        ]
        for tables in self.tables.values():
            for table in tables:
                rows += table.explain()
        return rows


def _parsed(setting: Setting, raw: object, source: str) -> Any:
    try:
        return setting.parse(raw)
    except ValueError as error:
        raise UserError(f"The setting {setting.name} ({source}) is wrong: {error}.", ExitCode.USAGE) from None


def load(
    schema: Schema,
    *,
    files: Sequence[str | os.PathLike[str]] = (),
    environ: Mapping[str, str] | None = None,
    prefix: str = "DADAFS_",
    flags: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
) -> Settings:
    """Merge all layers. Raises UserError for an unreadable file, an unknown name or a wrong value.

    Of `files`, later ones override earlier ones and all must exist (see `existing`). Variables are the
    setting's name in capitals after `prefix`. `options` come from `mount -o`; `flags` override them. Values
    of None were not given.
    """
    settings = Settings(schema)
    for path in files:
        _load_file(settings, Path(path))
    _load_environment(settings, os.environ if environ is None else environ, prefix)
    for name, raw in (options or {}).items():
        if raw is not None:
            settings.put(name, raw, f"option -o {name}")
    for name, raw in (flags or {}).items():
        if raw is not None:
            settings.put(name, raw, f"flag --{name.replace('_', '-')}")
    return settings


def existing(*paths: str | os.PathLike[str]) -> list[Path]:
    """Those of the default configuration files that exist; one that a person named must not be filtered so."""
    return [Path(path) for path in paths if Path(path).exists()]


def _load_file(settings: Settings, path: Path) -> None:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"Cannot read the configuration file {path}: {error.strerror}."
        raise UserError(message, ExitCode.USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}.", ExitCode.USAGE) from None
    for name, raw in data.items():
        if name in settings.schema.tables:
            settings.tables[name] = _load_tables(settings.schema.tables[name], name, raw, path)
        else:
            settings.put(name, raw, str(path))


def _load_tables(schema: Schema, name: str, raw: object, path: Path) -> list[Settings]:
    if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
        raise UserError(f"{name} in {path} must be written as tables: [[{name}]].", ExitCode.USAGE)
    tables = []
    for index, table in enumerate(raw):
        settings = Settings(schema, f"{name}[{index}]")
        for key, value in table.items():
            settings.put(key, value, f"{path} [[{name}]]")
        tables.append(settings)
    return tables


def _load_environment(settings: Settings, environ: Mapping[str, str], prefix: str) -> None:
    for variable, raw in environ.items():
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix).lower()
        if name in settings.schema.settings:
            settings.put(name, raw, f"environment {variable}")
        elif settings.schema.nearest(name):
            # A variable that resembles no setting belongs to something else; one that nearly does is a slip.
            settings.schema.find(name, f"environment {variable}")
