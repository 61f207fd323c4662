"""The pages' tables come from the JSON files: what is committed is what the files say, and nothing is left over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import tables
from bench.lab import report

RESULTS = tables.BENCH / "results"


def row(peer: str, **figures: object) -> dict[str, object]:
    return {"peer": peer, "load": "random_4k_1", "state": "cold", **figures}


def test_the_pages_say_what_the_stored_figures_say() -> None:
    done = CliRunner().invoke(tables.main, ["--check", str(RESULTS)])
    assert done.exit_code == 0, done.output


def test_every_block_is_on_a_page_and_every_page_knows_its_blocks() -> None:
    assert tables.names_in(tables.PAGES) == {"runs", *tables.BLOCKS}


def test_only_what_is_between_the_markers_is_written() -> None:
    page = "before\n<!-- a b -->\nold\n<!-- end a b -->\nafter\n<!-- c -->\nkept\n<!-- end c -->\n"
    after = tables.filled(page, {"a b": "| new |"})
    assert after == "before\n<!-- a b -->\n\n| new |\n\n<!-- end a b -->\nafter\n<!-- c -->\nkept\n<!-- end c -->\n"
    assert tables.filled(after, {"a b": "| new |"}) == after


def test_a_stale_page_is_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- head -->\n<!-- end head -->\n")
    monkeypatch.setattr(tables, "PAGES", (page,))
    figures = tmp_path / "results"
    rows = [{"row": "list", "cpu s": 0.5, "per": "1,000"}]
    report.write_json(figures / "head.json", report.document("head", rows))
    stale = CliRunner().invoke(tables.main, ["--check", str(figures)])
    assert stale.exit_code == 1
    assert str(page) in stale.output
    assert CliRunner().invoke(tables.main, [str(figures)]).exit_code == 0
    assert "| list | 0.5 | 1,000 |" in page.read_text()
    assert CliRunner().invoke(tables.main, ["--check", str(figures)]).exit_code == 0


def test_peers_stand_side_by_side_and_who_ended_early_is_marked() -> None:
    rows = [
        row("sshfs", **{"reads/s": 100.0, "items": 3, "planned": 10}),
        row("dadafs", **{"reads/s": 200.0, "items": 10, "planned": 10}),
        {"peer": "rclone-http", "load": "random_4k_1", "state": "cold", "cut": "cut off after 20 s"},
        {"peer": "samba", "problem": "not installed (smbd; Debian: samba)"},
    ]
    lines = tables.side_by_side({"rows": rows}).splitlines()
    assert lines[0] == "| load | state | dadafs | sshfs | rclone-http |"
    assert lines[2] == r"| random_4k_1, reads/s | cold | 200 | 100 \* | cut off after 20 s |"
    assert lines[-1].startswith(r"\* ended early")


def test_when_and_on_what_each_file_was_measured() -> None:
    document = report.document("mounts", [], rate="1gbit", repeat=3)
    said = tables.runs({"mounts": document})
    assert document["date"].replace("T", " ")[:16] in said
    assert document["machine"]["kernel"] in said
    assert "rate 1gbit, repeat 3" in said


def test_what_is_wanted_of_kernels_is_judged_by_the_fastest_one() -> None:
    def kernel(what: str, times: float, speed: float) -> dict[str, object]:
        return {"frames": "0.06 counts uint16", "what": what, "times_lz4": times, "frames_per_second": speed}

    rows = [
        kernel("dada, full set, portable", 3.0, 50.0),
        kernel("dada, full set, avx512", 1.4, 100.0),
        kernel("dada, full set, two threads", 0.8, 170.0),
    ]
    said = tables.kernel_wishes({"rows": rows})
    assert "full set (avx512), times LZ4 alone | 1.4 | at most 1.5 | reached" in said
    assert "two threads, times the frames of one | 1.7 | at least 1.8 | not reached" in said


def test_the_stored_files_are_json_with_a_machine() -> None:
    for name in tables.FILES:
        found = json.loads((RESULTS / f"{name}.json").read_text())
        assert found["machine"]["cores"] >= 1
        assert found["date"]
