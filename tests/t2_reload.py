"""SIGHUP: the configuration is read again; what may change does, the rest is named, and a mistake changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.checklogs import ExpectedLog
from tests.harness.admin import Socket
from tests.harness.node import connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20


class Place:
    """A head with a configuration file that a test rewrites."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "dadafsd.toml"
        self.folder = folder
        (folder / "tree").mkdir()
        self.write()
        options = ("--config", str(self.file), "--cache-dir", "")
        self.head = HeadProcess(folder / "head", {}, options=options)
        self.admin = Socket(self.head.admin_socket)

    def write(self, plain: str = "", export: str = "", tier: str = 'size = "64MiB"') -> None:
        self.file.write_text(f"""
            {plain}
            [[export]]
            name = "data"
            directory = "{self.folder}/tree"
            {export}
            [[tier]]
            name = "ssd"
            directory = "{self.folder}/cache"
            {tier}
        """)

    def reload(self) -> str:
        """The line that the head logs about it."""

        def lines() -> list[str]:
            return [line for line in self.head.text().splitlines() if "reload" in line]

        before = len(lines())
        self.head.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(lines()) > before, "the head says what became of it")
        return lines()[-1]

    def value(self, name: str) -> str:
        return str(self.admin.ask("get", name=name)["settings"][0]["value"])


@pytest.fixture
def place(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.head.stop()
    place.head.check_log(expected_log)


def test_what_may_change_changes(place: Place) -> None:
    place.write(
        'memory = "8MiB"\nlog_level = "DEBUG"', 'admission = ["*.log=never"]', 'size = "32MiB"\nhigh = 0.95\nlow = 0.9'
    )
    assert place.reload().endswith("reloaded")
    assert place.value("memory") == "8MiB"
    assert place.admin.ask("status")["memory"]["limit"] == 8 * MIB
    assert place.value("export.data.admission") == "*.log=never"
    assert place.admin.ask("status")["exports"][0]["admission"] == ["*.log=never"]
    assert place.value("tier.ssd.size") == str(32 * MIB)
    assert place.admin.ask("status")["tiers"][0]["size"] == 32 * MIB
    place.write()
    assert place.reload().endswith("reloaded")
    assert place.value("memory") == "64MiB", "what is no longer in the file is the default again"
    assert place.value("tier.ssd.high") == "0.97"


def test_what_was_set_while_running_stays_until_it_is_reset(place: Place) -> None:
    place.admin.ask("set", name="memory", value="16MiB")
    place.admin.ask("set", name="tier.ssd.size", value="16MiB")
    place.write('memory = "8MiB"', "", 'size = "32MiB"')
    place.reload()
    assert (place.value("memory"), place.value("tier.ssd.size")) == ("16MiB", str(16 * MIB))
    place.admin.ask("reset", name="memory")
    place.admin.ask("reset", name="tier.ssd.size")
    assert (place.value("memory"), int(float(place.value("tier.ssd.size")))) == ("8MiB", 32 * MIB)


def test_what_needs_a_restart_is_named(place: Place, expected_log: ExpectedLog) -> None:
    expected_log.add("a restart is needed for")
    place.write('listen = "127.0.0.1:7"\nmemory = "8MiB"', 'watch = "poll"', 'size = "64MiB"\nsync = "data"')
    said = place.reload()
    assert said.endswith("a restart is needed for export.data.watch, tier.ssd.sync") or "export.data.watch" in said
    assert place.value("memory") == "8MiB", "the rest has changed"
    assert place.value("export.data.watch") == "auto"


def test_a_mistake_changes_nothing(place: Place, expected_log: ExpectedLog) -> None:
    expected_log.add("reload failed, going on as before")
    for mistake in (
        {"plain": 'memory = "8MiB"\nmemroy = 1'},
        {"plain": 'memory = "8MiB"\n[['},
        {"export": 'admission = ["*"]'},
        {"export": 'tiers = ["tape"]'},
        {"tier": 'size = "64MiB"\nhigh = 0.9'},
    ):
        place.write(**({"plain": 'memory = "8MiB"'} | mistake))
        assert "reload failed" in place.reload()
        assert place.value("memory") == "64MiB"


def test_a_node_that_is_no_longer_admitted_is_cut_off(place: Place) -> None:
    async def main() -> None:
        async with connected(place.head.port) as node:
            await node.stat(b"")
            place.admin.ask("set", name="export.data.nodes", value="127.0.0.0/8")
            await node.stat(b"")
            place.write("", 'nodes = ["10.0.0.0/8"]')
            place.admin.ask("reset", name="export.data.nodes")
            await trio.to_thread.run_sync(place.reload)
            with trio.fail_after(60):
                while node.control.closed is None or node.data.closed is None:
                    await trio.sleep(0.01)

    trio.run(main)
    assert place.admin.ask("sessions")["sessions"] == []
