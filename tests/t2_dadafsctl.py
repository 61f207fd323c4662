"""`dadafsctl` against a real head: each command, as text and as JSON, and each mistake as a sentence."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import trio
from rich.console import Console

from dadafs.ctl.screens import top_screen
from tests.checklogs import ExpectedLog
from tests.harness.node import connected
from tests.harness.processes import HeadProcess, wait_until

Ctl = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dadafs.ctl", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "160", **(env or {})},
    )


@pytest.fixture
def head(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[HeadProcess]:
    tree = tmp_path / "tree"
    (tree / "scan").mkdir(parents=True)
    with h5py.File(tree / "scan" / "data_000001.h5", "w") as data:
        data["entry/data/data"] = np.zeros(3 << 20, np.uint8)
    with h5py.File(tree / "scan" / "master.h5", "w") as master:
        master["entry/data/data_000001"] = h5py.ExternalLink("data_000001.h5", "/entry/data/data")
    (tree / "plain").write_bytes(os.urandom(2 << 20))
    Path(os.fsdecode(os.fsencode(tree) + b"/scan/odd\n\xff")).write_bytes(b"odd")
    head = HeadProcess(tmp_path / "head", {"data": tree})
    yield head
    head.stop()
    head.check_log(expected_log)


@pytest.fixture
def ctl(head: HeadProcess) -> Ctl:
    """Runs a command against `head` that must succeed."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        done = run("--socket", str(head.admin_socket), *words)
        assert done.returncode == 0, done.stderr
        return done

    return call


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_status_is_one_screen_with_tiers_and_exports(ctl: Ctl) -> None:
    text = ctl("status").stdout
    assert "memory" in text
    assert "data" in text
    assert "inotify" in text
    assert answer(ctl("--json", "status"))["exports"][0]["name"] == "data"


def test_warm_follows_the_links_of_a_master_file(ctl: Ctl) -> None:
    job = ctl("warm", "scan/master.h5", "--follow=50ms")
    assert "fragments" in job.stdout
    wait_until(
        lambda: sum(answer(ctl("--json", "cached", "scan/data_000001.h5"))["tiers"].values()) > 3 << 20,
        "the linked data file is on the SSD",
    )
    assert "data_000001.h5" in ctl("explain", "scan/data_000001.h5").stdout


def test_pin_unpin_and_evict(ctl: Ctl) -> None:
    ctl("pin", "plain", "--for", "1h")
    assert [pin["path"] for pin in answer(ctl("--json", "pins"))["pins"]] == ["plain"]
    assert "plain" in ctl("pins").stdout
    ctl("unpin", "plain")
    assert answer(ctl("--json", "pins"))["pins"] == []
    wait_until(lambda: answer(ctl("--json", "status"))["write_queue"]["used"] == 0, "what was pinned is on the SSD")
    assert answer(ctl("--json", "evict", "plain"))["evicted"] == 2
    assert sum(answer(ctl("--json", "cached", "plain"))["tiers"].values()) == 0


def test_settings_are_changed_for_some_time_and_name_their_source(ctl: Ctl) -> None:
    settings = answer(ctl("--json", "get"))["settings"]
    size = next(row["name"] for row in settings if row["name"].endswith(".size"))
    ctl("set", f"{size}=128MiB", "--for", "1h")
    changed = answer(ctl("--json", "get", size))["settings"][0]
    assert int(changed["value"]) == 128 << 20
    assert 0 < changed["left"] <= 3600
    shown = ctl("get").stdout
    assert "128 MiB" in shown
    assert "falls back in" in shown
    assert re.search(rf"^{re.escape(size)} .* (1h|59m\S*)\s*$", shown, re.MULTILINE)
    ctl("reset", size)
    before = answer(ctl("--json", "get", size))["settings"][0]
    assert before["source"] != changed["source"]
    assert before["left"] is None
    assert "falls back in" not in ctl("get").stdout


def test_verify_finds_a_damaged_fragment(ctl: Ctl, head: HeadProcess, expected_log: ExpectedLog) -> None:
    expected_log.add("damaged|checksum")
    ctl("warm", "plain")
    wait_until(lambda: sum(answer(ctl("--json", "cached", "plain"))["tiers"].values()) > 2 << 20, "it is on the SSD")
    record = max(
        (path for path in head.cache_dir.rglob("*") if path.is_file()),
        key=lambda path: (path.stat().st_size, path.name),
    )
    with record.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert len(answer(ctl("--json", "verify"))["problems"]) == 1
    assert answer(ctl("--json", "verify"))["problems"] == []
    text = ctl("verify", "--against-origin", "--sample", "50%", "plain").stdout
    assert "fragments are what the origin has, 0 are not" in " ".join(text.split())


def test_top_jobs_bundle_and_completion(ctl: Ctl, tmp_path: Path) -> None:
    ctl("top", "--interval", "50ms", "--count", "2")
    ctl("jobs")
    output = tmp_path / "bundle.json"
    ctl("bundle", "-o", str(output))
    bundle = json.loads(output.read_text())
    assert {"machine", "status", "settings", "counters", "tasks", "threads", "pins"} <= bundle.keys()
    assert bundle["status"]["version"]
    assert any("export data: " in line for line in bundle["log"]), bundle["log"]
    for shell in ("bash", "zsh"):
        script = ctl("completion", shell).stdout
        for program in ("DADAFS", "DADAFSD", "DADAFSCTL", "DADA"):
            assert f"_{program}_COMPLETE={shell}_complete" in script


def test_the_shell_completes_names_of_settings(head: HeadProcess) -> None:
    def completed(*words: str, socket: Path = head.admin_socket) -> list[str]:
        env = {"COMP_WORDS": " ".join(("dadafsctl", *words)), "COMP_CWORD": str(len(words))}
        env |= {"_DADAFSCTL_COMPLETE": "bash_complete", "DADAFS_ADMIN_SOCKET": str(socket)}
        return [line.partition(",")[2] for line in run(env=env).stdout.split()]

    assert completed("set", "tier.ssd.") == [f"tier.ssd.{name}=" for name in ("size", "high", "low", "floor")]
    assert completed("get", "lis") == ["listen"]
    assert completed("set", "lis") == []
    assert completed("set", "tier", socket=Path("/nonexistent")) == []


def test_completion_works_in_bash(ctl: Ctl) -> None:
    """The script is read by a shell, and names the function for each program."""
    script = ctl("completion", "bash").stdout + "\ncomplete -p dadafs dadafsctl dada"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "_dadafsctl_completion" in done.stdout


def test_json_may_stand_anywhere(ctl: Ctl) -> None:
    assert answer(ctl("pins", "--json")) == answer(ctl("--json", "pins")) == {"pins": []}


def test_paths_as_this_machine_sees_them(ctl: Ctl, tmp_path: Path) -> None:
    """What an administrator copies from a shell on the head works like a path in the export."""
    ctl("warm", str(tmp_path / "tree" / "plain"))
    by_name, by_path = (answer(ctl("cached", "--json", path)) for path in ("plain", str(tmp_path / "tree" / "plain")))
    assert by_name == by_path
    assert by_name["size"] == 2 << 20
    done = run("--socket", str(tmp_path / "head" / "admin.sock"), "warm", "nowhere")
    assert done.stderr == "dadafsctl: data:/nowhere does not exist.\n"


def test_status_and_top_say_who_reads_what(ctl: Ctl, head: HeadProcess) -> None:
    async def read() -> None:
        async with connected(head.port, name="node17") as node:
            before = answer(ctl("--json", "status"))["counters"]
            await node.read_file(await node.open(b"scan/data_000001.h5"))
            await node.read_file(await node.open(b"scan/odd\n\xff"))
            text = ctl("status").stdout
            assert "node17" in text
            assert "scan/odd\\n\\xff" in text, "the file opened last, on one line"
            after = answer(ctl("--json", "status"))["counters"]
            sessions, recent = {"sessions": []}, {"reads": []}
            console = Console(width=160, file=io.StringIO())
            console.print(top_screen(before, after, sessions, recent))
            shown = console.file.getvalue()  # type: ignore[attr-defined]
            assert re.search(r"^data\s+0\s+\S+ [KM]iB/s", shown, re.MULTILINE), "the export, which nobody has mounted"
            scan = next(row for row in after["scans"] if row["scan"] == "scan/data")
            assert sum(scan["tiers"].values()) == scan["bytes"] > 3 << 20
            assert re.search(r"node17 \(gone\)\s+data\s+\S+ [KM]iB/s", shown)
            assert re.search(r"data\s+scan/data\s+\S+ [KM]iB/s\s+\d+", shown), "the series of data files"

    trio.run(read)


def test_top_says_which_tiers_answered_a_process() -> None:
    tiers = [{"tier": name} for name in ("memory", "ssd", "origin")]
    counters = {"at": 1.0, "served": [], "scans": [], "tiers": tiers}
    told = {
        "process python3[7]": "5000000 0.25",
        "tiers of python3[7]": "ssd=12 origin=3",
        "process old[8]": "1000 0.5",
    }
    sessions = {"sessions": [{"node": "node17", "export": "data", "report": told}]}
    console = Console(width=160, file=io.StringIO())
    console.print(top_screen(counters, counters | {"at": 2.0}, sessions, {"reads": []}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"^node17\s+python3\[7\]\s+4.77 MiB/s\s+-\s+12\s+3\s+25.0%$", shown, re.MULTILINE), shown
    assert re.search(r"^node17\s+old\[8\]\s+1000 B/s\s+-\s+-\s+-\s+50.0%$", shown, re.MULTILINE), shown


def test_settings_that_cannot_change_are_shown_on_demand(ctl: Ctl) -> None:
    names = [row["name"] for row in answer(ctl("get", "--json"))["settings"]]
    assert "memory" in names
    assert "export.data.admission" in names
    assert "listen" not in names
    every = {row["name"]: row["source"] for row in answer(ctl("get", "--show-config", "--json"))["settings"]}
    assert every["listen"] == "flag --listen"
    assert every["export.data.directory"] == "flag --export"
    assert every["memory"] == "default"
    assert "256MiB for 2h" in ctl("set", "memory=256MiB", "--for", "2h").stdout
    assert "64MiB again" in ctl("reset", "memory").stdout


def test_evict_wants_to_be_told_what(ctl: Ctl, head: HeadProcess) -> None:
    ctl("warm", "plain")
    wait_until(lambda: answer(ctl("--json", "cached", "plain"))["tiers"]["ssd"] > 2 << 20, "it is on the SSD")
    done = run("--socket", str(head.admin_socket), "evict")
    assert (done.returncode, "--all" in done.stderr) == (2, True)
    assert answer(ctl("evict", "--all", "--json"))["evicted"] == 2


def test_mistakes_are_one_sentence(head: HeadProcess, tmp_path: Path) -> None:
    for words, code, said in (
        (("--socket", str(tmp_path / "nothing"), "status"), 3, "No head answers"),
        (("--socket", str(head.admin_socket), "set", "no.such.setting=1"), 1, "no.such.setting"),
        (("--socket", str(head.admin_socket), "set", "nonsense"), 1, "NAME=VALUE"),
        (("--socket", str(head.admin_socket), "cached", "../outside"), 1, "outside"),
        (("--socket", str(head.admin_socket), "verify", "--sample", "some"), 1, "1%"),
    ):
        done = run(*words)
        assert done.returncode == code, (words, done.stderr)
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_drain_ends_the_head(head: HeadProcess) -> None:
    done = run("--socket", str(head.admin_socket), "drain", "--yes")
    assert done.returncode == 0, done.stderr
    assert head.process.wait(60) == 0
