"""Settings that change while the head runs, some of them for a while only.

There are plain settings, and those of tiers and exports, called `tier.NAME.size` and `export.NAME.admission`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from dadafs.errors import ExitCode, UserError
from dadafs.quantity import parse_size
from dadafs.settings import Settings
from dadafsd.config import HeadConfig, export_options

if TYPE_CHECKING:
    from dadafsd.head import Head

log = logging.getLogger(__name__)
_TIER_SETTINGS = ("size", "high", "low", "floor")
_TIER_FIXED = ("directory", "kind", "sync")
#: The source of a value that was changed.
SOURCE = "set while running"


class LiveSettings:
    """`set`, `set --for` and `reset`."""

    def __init__(self, head: Head, nursery: trio.Nursery) -> None:
        self._head = head
        self._nursery = nursery
        self._settings = head.config.settings
        self._exports = {export.name: export for export in head.config.exports}
        self._apply: dict[str, Callable[[Any], None]] = {
            "memory": self._memory,
            "write_queue": self._write_queue,
            "touches": self._touches,
            "log_level": logging.getLogger().setLevel,
        }
        self._timers: dict[str, trio.CancelScope] = {}
        self._tiers: dict[str, float] = {}  # what tier settings were at the start

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Every effective value with its source, or one. Raises UserError for an unknown name."""
        rows = _rows("", self._settings) + self._tier_rows()
        for export, config in self._exports.items():
            rows += _rows(f"export.{export}.", config.settings)
        for row in rows:
            timer = self._timers.get(row["name"])
            row["left"] = None if timer is None else max(timer.deadline - trio.current_time(), 0.0)
        if name is None:
            return rows
        chosen = [row for row in rows if row["name"] in (name, name.replace("-", "_"))]
        if not chosen:
            self._unknown(name)
        return chosen

    def _unknown(self, name: str) -> None:
        """Raises the UserError that helps most."""
        if name.startswith("tier."):
            self._split(name)
        elif name.startswith("export."):
            self._export_setting(name)
        else:
            self._settings.schema.find(name, "get")

    def _canonical(self, name: str) -> str:
        """The one name of a setting that may be written with `-` for `_`. Raises UserError for an unknown one."""
        if name.startswith("tier."):
            return name
        if name.startswith("export."):
            return "export.{}.{}".format(*self._export_setting(name))
        return self._settings.schema.find(name, "set").name

    def change(self, name: str, raw: object, seconds: float | None = None) -> dict[str, Any]:
        """Change a value, for `seconds` where given. Raises UserError."""
        if seconds is not None and not seconds > 0:
            raise UserError("How long must be more than 0 seconds.", ExitCode.USAGE)
        name = self._canonical(name)
        self._put(name, raw)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if seconds is not None:
            scope = self._timers[name] = trio.CancelScope(deadline=trio.current_time() + seconds)
            self._nursery.start_soon(self._fall_back, name, scope)
        log.info("%s is now %s%s", name, raw, f" for {seconds:g} s" if seconds else "")
        return self.rows(name)[0]

    def adopt(self, config: HeadConfig) -> list[str]:
        """Go by a configuration that was read anew; the names of what needs a restart. Raises UserError.

        What was set while running stays until it is reset.
        """
        self._check_tiers(config)
        changed, fixed = self._settings.adopt(config.settings)
        for name in changed:
            self._apply.get(name, _nothing)(self._settings[name])
        fixed += self._adopt_exports(config) + self._adopt_tiers(config)
        return fixed

    def _check_tiers(self, config: HeadConfig) -> None:
        """Raises UserError before anything was changed."""
        store = self._head.store
        running = {tier.name for tier in store.store.tiers} if store is not None else set()
        for tier in config.tiers:
            tier.check()
        for export in config.exports:
            unknown = set(export.options.tiers) - running
            if unknown:
                names = ", ".join(sorted(unknown))
                raise UserError(
                    f"Export {export.name} uses tier {names}, which this head does not have yet: restart it."
                )

    def _adopt_exports(self, config: HeadConfig) -> list[str]:
        exports = {export.name: export for export in config.exports}
        fixed = [f"export.{name}" for name in sorted(exports.keys() ^ self._exports.keys())]
        for name in exports.keys() & self._exports.keys():
            changed, others = self._exports[name].settings.adopt(exports[name].settings)
            fixed += [f"export.{name}.{other}" for other in others]
            if changed:
                self._serve_as_set(name)
        return fixed

    def _adopt_tiers(self, config: HeadConfig) -> list[str]:
        store = self._head.store
        tiers = {tier.name: tier for tier in config.tiers}
        running = {tier.name: tier.settings for tier in store.store.tiers} if store is not None else {}
        fixed = [f"tier.{name}" for name in sorted(tiers.keys() ^ running.keys())]
        for name in tiers.keys() & running.keys():
            changes: dict[str, int | float] = {}
            for what in (*_TIER_SETTINGS, *_TIER_FIXED):
                setting, value = f"tier.{name}.{what}", getattr(tiers[name], what)
                if setting in self._tiers:
                    self._tiers[setting] = value
                elif getattr(running[name], what) != value:
                    if what in _TIER_FIXED:
                        fixed.append(setting)
                    else:
                        changes[what] = value
            if changes and store is not None:
                store.store.resize(name, **changes)
        return fixed

    def reset(self, name: str) -> dict[str, Any]:
        """Back to what the configuration says."""
        name = self._canonical(name)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if name.startswith("tier."):
            if name in self._tiers:
                self._resize(name, self._tiers.pop(name))
        elif name.startswith("export."):
            export, what = self._export_setting(name)
            self._exports[export].settings.reset(what)
            self._serve_as_set(export)
        else:
            value = self._settings.reset(name)
            self._apply.get(name, _nothing)(value)
        return self.rows(name)[0]

    async def _fall_back(self, name: str, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep_forever()
        if self._timers.get(name) is scope:
            self.reset(name)
            log.info("%s is what it was again", name)

    def _put(self, name: str, raw: object) -> None:
        if name.startswith("tier."):
            before = self._tier_value(name)
            self._resize(name, raw)
            self._tiers.setdefault(name, before)
            return
        if name.startswith("export."):
            self._change_export(name, raw)
            return
        value = self._settings.change(name, raw)
        self._apply.get(name, _nothing)(value)

    # --- what a change does ---------------------------------------------------------------------------------

    def _memory(self, value: int) -> None:
        self._head.memory.limit = value
        self._head.memory.shrink()

    def _write_queue(self, value: int) -> None:
        if self._head.store is not None:
            self._head.store.writes.limit = value

    def _touches(self, value: int) -> None:
        for exported in self._head.exports.values():
            exported.fragments.admission.touches = value

    # --- exports --------------------------------------------------------------------------------------------

    def _export_setting(self, name: str) -> tuple[str, str]:
        """The export and the setting that `export.EXPORT.SETTING` names; names of exports may have dots."""
        export, _, what = name.removeprefix("export.").rpartition(".")
        if export not in self._exports:
            names = ", ".join(sorted(self._exports))
            raise UserError(f"Unknown setting {name!r}; write export.NAME.SETTING, NAME being one of {names}.")
        return export, self._exports[export].settings.schema.find(what, name).name

    def _change_export(self, name: str, raw: object) -> None:
        export, what = self._export_setting(name)
        settings = self._exports[export].settings
        before = settings.source(what), settings[what]
        settings.change(what, raw)
        try:
            self._serve_as_set(export)
        except UserError:
            if before[0] == SOURCE:
                settings.change(what, before[1])
            else:
                settings.reset(what)
            raise

    def _serve_as_set(self, export: str) -> None:
        exported = self._head.exports[export]
        exported.apply(export_options(self._exports[export].settings))
        self._head.turn_out(exported)

    # --- tiers ----------------------------------------------------------------------------------------------

    def _tier_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for tier in self._head.store.store.tiers if self._head.store is not None else ():
            for what in (*_TIER_SETTINGS, *_TIER_FIXED):
                name = f"tier.{tier.name}.{what}"
                source = SOURCE if name in self._tiers else self._head.config.tier_source(tier.name, what)
                value = str(getattr(tier.settings, what))
                rows.append({"name": name, "value": value, "source": source, "live": what in _TIER_SETTINGS})
        return rows

    def _split(self, name: str) -> tuple[str, str]:
        parts = name.split(".")
        tiers = [tier.name for tier in self._head.store.store.tiers] if self._head.store is not None else []
        if len(parts) != 3 or parts[2] not in _TIER_SETTINGS or parts[1] not in tiers:
            names = ", ".join(f"tier.{tier}.{{{','.join(_TIER_SETTINGS)}}}" for tier in tiers) or "no tiers"
            raise UserError(f"Unknown setting {name!r}; of tiers there are: {names}.", ExitCode.USAGE)
        return parts[1], parts[2]

    def _tier_value(self, name: str) -> float:
        tier_name, what = self._split(name)
        assert self._head.store is not None
        tier = next(tier for tier in self._head.store.store.tiers if tier.name == tier_name)
        return float(getattr(tier.settings, what))

    def _resize(self, name: str, raw: object) -> None:
        tier_name, what = self._split(name)
        try:
            value: int | float = float(str(raw)) if what in ("high", "low") else parse_size(_size_text(raw))
        except ValueError as error:
            raise UserError(f"The setting {name} is wrong: {error}.", ExitCode.USAGE) from None
        assert self._head.store is not None
        self._head.store.store.resize(tier_name, **{what: value})


def _rows(prefix: str, settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "name": prefix + name,
            "value": setting.format(settings[name]),
            "source": settings.source(name),
            "live": setting.live,
        }
        for name, setting in settings.schema.settings.items()
    ]


def _size_text(raw: object) -> str | int:
    return int(raw) if isinstance(raw, int | float) else str(raw)


def _nothing(_: object) -> None:
    """A setting that is looked up each time it is used."""
