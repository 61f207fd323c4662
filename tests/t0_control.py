"""What a mount answers on its socket, and to whom: names of files, what is cached, settings for a while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dadafs.activity import Activity
from dadafs.control import Control
from dadafs.errors import UserError
from dadafs.mount_options import SCHEMA
from dadafs.settings import Settings
from tests.t0_activity import status

MIB = 1 << 20


class Mount:
    """A control, and what it did: `applied` has the sizes of the RAM cache that it set."""

    def __init__(self, proc: Path, nursery: trio.Nursery) -> None:
        status(proc, 10, 10, uid=1000)
        status(proc, 20, 20, uid=1001)
        processes = Activity(proc)
        for thread in (10, 20):
            processes.waited(processes.process(thread), b"scan/%d" % thread, 0, 1, 0.1, "ssd")
        self.applied: list[int] = []
        apply = {"ram_cache": self.applied.append}
        self.control = Control(processes, Settings(SCHEMA), lambda: b"line\n", apply, self.held, nursery)

    def held(self, path: bytes) -> dict[str, Any]:
        return {"asked": path}

    def ask(self, command: str, user: int = 0, **fields: object) -> dict[str, Any]:
        return self.control.answer({"command": command, **fields}, user)

    def ram_cache(self) -> tuple[str, str]:
        """The value that is told, and its source."""
        (row,) = self.ask("get", name="ram_cache")["settings"]
        return row["value"], row["source"]

    def left(self) -> float | None:
        """After how many seconds it falls back."""
        (row,) = self.ask("get", name="ram_cache")["settings"]
        found: float | None = row["left"]
        return found


def run(tmp_path: Path, test: Callable[[Mount], Any]) -> None:
    """Run `test`, which may be a coroutine, with a mount and a clock that jumps."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            result = test(Mount(tmp_path, nursery))
            if result is not None:
                await result
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- who may ------------------------------------------------------------------------------------------------------


def test_names_of_files_are_for_their_readers_and_for_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 500)

    def test(mount: Mount) -> None:
        def paths(user: int, **fields: object) -> list[str]:
            answer = mount.ask("activity", user, **fields)
            assert len(answer["processes"]) == 2, "statistics are for all"
            return [read["path"] for read in answer["reads"]]

        assert paths(0) == paths(500) == ["scan/20", "scan/10"]
        assert paths(1000) == ["scan/10"]
        assert paths(1002) == []
        assert paths(0, path="/scan/20/") == ["scan/20"]
        assert paths(0, path="scan", limit=1) == ["scan/20"]
        assert mount.ask("cached", 500, path="/scan/") == {"asked": b"scan"}
        with pytest.raises(UserError, match="Only root"):
            mount.ask("cached", 1000, path="scan")

    run(tmp_path, test)


def test_only_the_owner_changes_settings(tmp_path: Path) -> None:
    def test(mount: Mount) -> None:
        assert mount.ask("log", 54_321) == {"lines": ["line"]}
        for command in ("set", "reset"):
            with pytest.raises(UserError, match="Only root"):
                mount.ask(command, 54_321, name="ram_cache", value="64MiB")
        assert mount.ask("set", name="ram-cache", value="64MiB")["setting"]["value"] == "64MiB"
        assert mount.ask("get", 54_321, name="ram_cache")["settings"][0]["source"] == "set while running"
        assert mount.ask("reset", name="ram_cache")["setting"]["source"] == "default"
        with pytest.raises(UserError, match="cannot be changed"):
            mount.ask("set", name="retry", value="1s")
        with pytest.raises(UserError, match="unknown command"):
            mount.ask("explode")

    run(tmp_path, test)


# --- for a while --------------------------------------------------------------------------------------------------


def test_a_setting_falls_back_by_itself(tmp_path: Path) -> None:
    async def test(mount: Mount) -> None:
        mount.ask("set", name="ram_cache", value="64MiB", seconds=7200)
        assert mount.left() == 7200
        await trio.sleep(7199)
        assert mount.ram_cache() == ("64MiB", "set while running")
        assert mount.left() == 1
        await trio.sleep(2)
        assert mount.left() is None
        assert mount.ram_cache() == ("128MiB", "default")
        assert mount.applied == [64 * MIB, 128 * MIB]

    run(tmp_path, test)


def test_what_is_set_or_reset_again_does_not_fall_back_later(tmp_path: Path) -> None:
    async def test(mount: Mount) -> None:
        mount.ask("set", name="ram-cache", value="64MiB", seconds=10)
        mount.ask("set", name="ram_cache", value="32MiB")
        assert mount.left() is None, "it stays now"
        await trio.sleep(100)
        assert mount.ram_cache()[0] == "32MiB"
        mount.ask("set", name="ram_cache", value="64MiB", seconds=10)
        mount.ask("reset", name="ram-cache")
        mount.ask("set", name="ram_cache", value="16MiB", seconds=20)
        await trio.sleep(15)
        assert mount.ram_cache()[0] == "16MiB"
        await trio.sleep(10)
        assert mount.applied[-1] == 128 * MIB

    run(tmp_path, test)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "soon", []])
def test_a_wrong_time_changes_nothing(tmp_path: Path, seconds: object) -> None:
    def test(mount: Mount) -> None:
        with pytest.raises((UserError, ValueError, TypeError)):
            mount.ask("set", name="ram_cache", value="64MiB", seconds=seconds)
        assert (mount.applied, mount.ram_cache()[1]) == ([], "default")

    run(tmp_path, test)
