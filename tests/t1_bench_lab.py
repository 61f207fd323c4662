"""The laboratory of the benchmarks: data that can be checked anywhere, processes that are accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import loads
from bench.lab import data, needs, report
from bench.lab.network import Network, network, node_address
from bench.lab.side import NotReady, Side

BUSY = (
    "import sys, time\nprint('up', flush=True)\nwhile time.process_time() < 0.3: pass\nsys.stdin.read(); time.sleep(60)"
)


@pytest.fixture
def tree(tmp_path: Path) -> data.Tree:
    return data.make_tree(tmp_path / "tree", data.QUICK)


def test_content_is_the_same_wherever_one_begins_to_read() -> None:
    whole = data.content(7, 0, 4096)
    assert data.content(7, 13, 1000) == whole[13:1013]
    assert data.content(8, 0, 4096) != whole
    assert len(set(whole)) > 200  # noise, not a pattern


def test_a_tree_is_made_once_and_made_anew_for_other_sizes(tmp_path: Path) -> None:
    tree = data.make_tree(tmp_path / "tree", data.QUICK)
    before = (tree.root / tree.BIG).stat().st_mtime_ns
    data.make_tree(tmp_path / "tree", data.QUICK)
    assert (tree.root / tree.BIG).stat().st_mtime_ns == before
    assert data.make_tree(tmp_path / "tree", data.QUICK).sums == tree.sums
    (tree.root / "made.json").write_text("{}")
    data.make_tree(tmp_path / "tree", data.QUICK)
    assert (tree.root / tree.BIG).stat().st_mtime_ns > before


@pytest.mark.parametrize("name", sorted(loads.LOADS))
def test_every_load_accepts_the_right_bytes(tree: data.Tree, name: str) -> None:
    figures = loads.LOADS[name](tree, loads.Bound())
    assert figures["seconds"] > 0


@pytest.mark.parametrize(
    "name", [*(name for name in loads.LOADS if name.startswith("random")), "stats", "small_files", "frames", "chunks"]
)
def test_a_load_of_many_items_ends_when_it_has_done_enough(tree: data.Tree, name: str) -> None:
    whole = loads.LOADS[name](tree, loads.Bound())
    assert whole["items"] == whole["planned"] > 1
    assert 0 < whole["p50 us"] <= whole["p95 us"] <= whole["p99 us"]
    few = loads.LOADS[name](tree, loads.Bound(seconds=0.0))
    assert few["items"] == (min(8, few["planned"]) if name.endswith("_8") else 1)
    assert few["planned"] == whole["planned"]
    assert loads.LOADS[name](tree, loads.Bound(items=1))["items"] == few["items"]


def test_what_was_done_is_checked_also_where_a_load_ended_early(tree: data.Tree) -> None:
    flip(tree.root / tree.small(0, 0), 0)
    with pytest.raises(loads.WrongBytes, match="d000/f000"):
        loads.small_files(tree, loads.Bound(items=1))
    flip(tree.root / tree.small(0, 0), 0)
    flip(tree.root / tree.small(0, 1), 0)
    loads.small_files(tree, loads.Bound(items=1))  # the second was not read


def test_a_load_that_does_not_end_is_cut_off_with_what_it_started(tree: data.Tree) -> None:
    with pytest.raises(loads.CutOff, match="cut off after 0 s"):
        loads.run("metadata", tree, cut_off=0.0)
    running = [Path(entry, "cmdline") for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    assert not [path for path in running if path.exists() and str(tree.root).encode() in path.read_bytes()]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("name", ["sequential", "random_1m_1", "random_64k_8", "mapped"])
def test_a_flipped_bit_of_the_big_file_is_seen(tree: data.Tree, name: str) -> None:
    for offset in range(0, data.QUICK.big_bytes, 4096):
        flip(tree.root / tree.BIG, offset)
    with pytest.raises(loads.WrongBytes):
        loads.LOADS[name](tree, loads.Bound())


def test_wrong_small_files_and_frames_are_seen(tree: data.Tree) -> None:
    flip(tree.root / tree.small(1, 2), 4095)
    with pytest.raises(loads.WrongBytes, match="d001/f002"):
        loads.small_files(tree, loads.Bound())
    flip(tree.root / tree.data_file(2), (tree.root / tree.data_file(2)).stat().st_size - 100)
    with pytest.raises(loads.WrongBytes, match="frame"):
        loads.frames(tree, loads.Bound())


def test_a_missing_file_is_seen_by_the_metadata_walk(tree: data.Tree) -> None:
    (tree.root / tree.small(0, 0)).unlink()
    with pytest.raises(loads.WrongBytes, match="19 files"):
        loads.metadata(tree, loads.Bound())


def test_a_load_that_fails_in_its_process_says_so_here(tree: data.Tree) -> None:
    (tree.root / tree.BIG).unlink()
    with pytest.raises(loads.WrongBytes, match="No such file"):
        loads.run("sequential", tree)


def test_cpu_seconds_and_peak_memory_of_a_side_count_children(tmp_path: Path) -> None:
    side = Side(None, tmp_path)
    try:
        script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"
        side.start("parent", side.python("-c", script), lambda: side.cpu_seconds() > 0.25)
        assert side.peak_bytes() > 5 * 2**20
        assert side.cpu_seconds() < 30
    finally:
        side.close()
    assert side.cpu_seconds() == 0
    assert side.peak_bytes() == 0


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    side = Side(None, tmp_path)
    with pytest.raises(NotReady, match=r"ended with 3.*no such luck"):
        side.start("server", side.python("-c", "print('no such luck'); raise SystemExit(3)"), "ready")


def test_namespaces_reach_each_other_and_go_away() -> None:
    reason = needs.reason_without_namespaces()
    if reason:
        pytest.skip(reason)
    with network(2, "100mbit") as net:
        side = Side(net.node_names[1], Path("/tmp"))
        for address in ("10.77.0.1", node_address(0)):
            code = f"import socket; socket.create_connection(({address!r}, 9), 20)"
            answer = subprocess.run(side.command(side.python("-c", code)), capture_output=True, text=True, check=False)
            assert "ConnectionRefusedError" in answer.stderr  # somebody is there, and nobody listens
        shaped = ["nsenter", f"--net=/run/netns/{net.head}", "tc", "qdisc"]
        shown = subprocess.run(shaped, capture_output=True, text=True, check=True).stdout
        assert shown.count("tbf") == 2
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert net.head not in listed
    assert net.node_names[0] not in listed


def test_a_network_that_cannot_be_made_leaves_nothing() -> None:
    reason = needs.reason_without_namespaces()
    if reason:
        pytest.skip(reason)
    net = Network(1, "no-such-rate")
    with pytest.raises(RuntimeError, match="no-such-rate"):
        net.open()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert net.head not in listed


def test_medians_percentiles_and_numbers() -> None:
    assert report.median_rows([{"a": 1.0, "b": 4.0}, {"a": 3.0}, {"a": 2.0}]) == {"a": 2.0, "b": 4.0}
    assert report.percentiles([float(value) for value in range(100)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert [report.number(value) for value in (None, 1234.5, 0.12345, "x")] == ["-", "1,234", "0.123", "x"]
    assert report.markdown(["a", "b"], [["x", 1]]).splitlines() == ["| a | b |", "|---|---|", "| x | 1 |"]


def test_json_describes_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "figures.json"
    report.write_json(path, report.document("why", [{"peer": "x"}], rate=None))
    content = json.loads(path.read_text())
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["packages"]["numpy"]
    assert content["rows"] == [{"peer": "x"}]


def test_without_root_the_reason_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in (needs.reason_without_namespaces() or "")


def test_the_laboratory_imports_nothing_of_the_product() -> None:
    code = "import sys, bench.lab.data, bench.lab.side, bench.lab.network, bench.lab.report\n"
    code += "sys.exit(any(name.split('.')[0] in {'dadafs', 'dadafsd', 'dada'} for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0
