"""The other benchmarks with `--quick`: the head under full load, the whole job, eviction on recorded traces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import _dada_kernels
import pytest

from bench import eviction, full_load, policies, traces, wire
from bench.lab.needs import reason_without_fuse, reason_without_namespaces

REPOSITORY = Path(__file__).resolve().parents[1]


def quick(module: str, figures: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", module, "--quick", "--json", str(figures)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(figures.read_text())["rows"]
    return rows


@pytest.fixture
def _machine() -> None:
    reason = reason_without_namespaces() or reason_without_fuse()
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("_machine")
def test_many_clients_of_one_file_cost_one_reading_of_the_origin(tmp_path: Path) -> None:
    rows = {(row["pattern"], row["state"]): row for row in quick("bench.full_load", tmp_path / "figures.json")}
    assert set(rows) == {(pattern, state) for pattern in ("same", "different") for state in ("cold", "warm")}
    assert rows["same", "cold"]["origin per unique byte"] == 1
    assert rows["same", "warm"]["origin bytes"] == 0
    assert all(row["cores busy"] > 0 and row["machine cpu s/GiB"] > 0 for row in rows.values())


@pytest.mark.usefixtures("_machine")
def test_the_full_load_is_repeated_with_a_fresh_head_each_time(tmp_path: Path) -> None:
    crowd = full_load.Crowd(2, None, 2**20, None)
    cold, warm = full_load.measure(crowd, ["same"], tmp_path / "tree", tmp_path / "scratch", repeat=2)
    assert (cold["repetitions"], len(cold["MB/s each"])) == (2, 2)
    assert cold["MB/s"] == pytest.approx(sum(cold["MB/s each"]) / 2)
    assert cold["origin per unique byte"] == 1  # the second head had nothing either
    assert warm["origin bytes"] == 0


@pytest.mark.usefixtures("_machine")
def test_the_whole_job_in_every_state(tmp_path: Path) -> None:
    rows = {row["state"]: row for row in quick("bench.whole_job", tmp_path / "figures.json")}
    assert list(rows) == ["local", "cold", "warm head", "warm node", "results store"]
    assert rows["results store"]["from store"] == 9
    assert all(row["repetitions"] == 1 and row["cores busy"] > 0 for row in rows.values())


def test_the_kernels_beside_numpy(tmp_path: Path) -> None:
    rows = quick("bench.kernels", tmp_path / "figures.json")
    assert {row["frames"] for row in rows} == {"0.06 counts uint16", "5 counts uint16"}
    for frames in ("0.06 counts uint16", "5 counts uint16"):
        times = {row["what"]: row["times_lz4"] for row in rows if row["frames"] == frames}
        assert times["LZ4 alone"] == 1
        assert {f"dada, full set, {kernel}" for kernel in _dada_kernels.kernels()} < set(times)
        assert "h5py + NumPy, full set" in times


def test_the_wire_alone_costs_both_sides_something(tmp_path: Path) -> None:
    rows = quick("bench.wire", tmp_path / "figures.json")
    assert [row["row"] for row in rows] == [row.name for row in wire.ROWS]
    assert all(row["calls/s"] > 0 and row["node cpu us/call"] > 0 for row in rows)
    assert all(("MB/s" in row) == (not str(row["row"]).startswith("stat")) for row in rows)


def test_eviction_on_short_traces(tmp_path: Path) -> None:
    rows = quick("bench.eviction", tmp_path / "figures.json")
    assert {row["trace"] for row in rows} == set(traces.TRACES)
    assert all(row["best bytes"] >= row["node bytes"] - 1e-9 for row in rows)


def test_link_limit_counts_file_content_only() -> None:
    crowd = full_load.Crowd(24, "1gbit", 1, None)
    assert full_load.link_limit(crowd) == pytest.approx(24 * 125e6 * 1448 / 1538)
    assert full_load.link_limit(full_load.Crowd(24, None, 1, None)) is None


def test_what_is_recorded_of_hdf5_is_what_a_frame_needs() -> None:
    layout = traces.record_layout()
    assert len(layout.data) == traces.FRAMES_PER_FILE
    assert 0 in layout.master
    assert all(0 in fragments for fragments in layout.data)
    chunk = layout.data_size / traces.FRAMES_PER_FILE
    for frame, fragments in enumerate(layout.data):
        assert int((frame + 0.5) * chunk) // traces.FRAGMENT in fragments


def test_fragments_of_reads() -> None:
    assert traces.fragments_of([(0, 8), (100, 8), (traces.FRAGMENT - 4, 8), (5, 0)]) == [0, 1, 0]


@pytest.mark.parametrize("name", sorted(policies.POLICIES))
def test_policies_keep_within_their_bytes_and_below_the_optimum(name: str) -> None:
    layout = traces.record_layout()
    trace = traces.four_users(layout, 400)
    capacity = eviction.footprint(trace) // 5
    hits, _ = policies.replay(policies.POLICIES[name](capacity), trace)
    assert 0 < hits <= policies.optimum(trace, capacity)[0]
    everything = policies.POLICIES[name](eviction.footprint(trace))
    assert policies.replay(everything, trace) == policies.optimum(trace, eviction.footprint(trace))


def test_a_loop_larger_than_the_cache_has_hits_for_who_knows_the_future() -> None:
    loop = [(key, 1) for key in range(20)] * 3
    assert policies.replay(policies.Lru(10), loop) == (0, 0)
    assert policies.optimum(loop, 10)[0] == pytest.approx(18 / 60, abs=0.05)


def test_a_key_larger_than_the_cache_is_never_held() -> None:
    for kind in policies.POLICIES.values():
        policy = kind(10)
        assert not policy.access("big", 11)
        assert not policy.access("big", 11)


def test_scan_resistance_tells_lru_from_the_others() -> None:
    hot = [(("hot", key), 1) for key in range(5)]
    trace = hot * 4 + [(("once", key), 1) for key in range(100)] + hot
    last = {name: replay_tail(kind(20), trace, 5) for name, kind in policies.POLICIES.items()}
    assert last["LRU"] == 0
    assert last["SLRU"] == last["ARC"] == last["S3-FIFO"] == 5


def test_what_node_and_head_run_beats_lru_on_a_scan_that_is_repeated() -> None:
    """And loses to it nowhere: hits in a row do not count."""
    layout = traces.record_layout()
    for name, make in traces.TRACES.items():
        trace = make(layout, 2000)
        capacity = eviction.footprint(trace) // 2
        ratios = {
            policy: policies.replay(policies.POLICIES[policy](capacity), trace)[1] for policy in ("LRU", "node", "head")
        }
        assert ratios["node"] > ratios["LRU"] - 0.002
        assert ratios["head"] > ratios["LRU"] - 0.002
        if name in ("repeated scan", "metadata storm"):
            assert ratios["node"] > ratios["LRU"] + 0.01
            assert ratios["head"] > ratios["LRU"] + 0.01


def replay_tail(policy: policies.Policy, trace: list[policies.Access], count: int) -> int:
    return [policy.access(*access) for access in trace][-count:].count(True)


def test_the_committed_calibration_can_be_simulated(tmp_path: Path) -> None:
    rows = quick("bench.simulate", tmp_path / "figures.json")
    assert {row["nodes"] for row in rows} == {1, 4}
    assert all(row["frames/s"] > 0 for row in rows)
    content = json.loads((tmp_path / "figures.json").read_text())
    assert {line["load"].split(",")[0] for line in content["check"]} >= {"100mbit", "unshaped"}
    assert set(content["costs"]) == {"node", "head", "other"}
