"""The model of a cluster: it says what arithmetic says where arithmetic is enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.cluster_model import GIB, Calibration, Cluster, Server, Simulation, simulate, sweep

COSTS = Calibration(
    node_cpu_s_per_gib=0.5,
    head_cpu_s_per_gib=0.25,
    frames_per_s_per_core=300.0,
    bytes_per_frame=0.5 * 2**20,
    payload_share=1.0,
)
#: Everything so fast that only what a test slows down counts.
FREE = Cluster(1, node_link=1e13, head_link=1e13, ssd=1e13, origin=1e13, reduces=False)
NOTHING = replace(COSTS, node_cpu_s_per_gib=0.0, head_cpu_s_per_gib=0.0)


def test_one_node_is_as_fast_as_its_link() -> None:
    outcome = simulate(replace(FREE, node_link=125e6), NOTHING)
    assert outcome.bytes_per_s == pytest.approx(125e6, rel=0.01)
    assert outcome.bottleneck == "node link"
    assert outcome.utilisation["node link"] == pytest.approx(1, abs=0.01)


def test_many_nodes_share_the_head_link() -> None:
    outcome = simulate(replace(FREE, nodes=50, node_link=125e6, head_link=2.5e9), NOTHING)
    assert outcome.bytes_per_s == pytest.approx(2.5e9, rel=0.05)
    assert outcome.bottleneck == "head link"


def test_the_head_serves_what_its_cpu_allows_and_a_second_one_doubles_it() -> None:
    costs = replace(NOTHING, head_cpu_s_per_gib=0.5)
    one = simulate(replace(FREE, nodes=20), costs)
    two = simulate(replace(FREE, nodes=20, heads=2), costs)
    assert one.bytes_per_s == pytest.approx(2 * GIB, rel=0.02)
    assert two.bytes_per_s == pytest.approx(4 * GIB, rel=0.02)
    assert one.bottleneck == "head cpu"


def test_the_reduction_limits_where_compute_is_slow() -> None:
    outcome = simulate(replace(FREE, nodes=3, reduces=True, cores_per_node=4), NOTHING, batches=60)
    assert outcome.frames_per_s == pytest.approx(3 * 4 * 300, rel=0.05)
    assert outcome.bottleneck == "reduction"


def test_readers_of_one_scan_cost_the_origin_one_reading() -> None:
    cold = replace(FREE, nodes=24, cached=0.0, origin=1e9)
    alone = simulate(cold, NOTHING)
    together = simulate(replace(cold, sharing=24), NOTHING)
    assert alone.bytes_per_s == pytest.approx(1e9, rel=0.02)
    assert together.bytes_per_s == pytest.approx(24e9, rel=0.05)


def test_what_the_cache_does_not_hold_comes_from_the_origin() -> None:
    half = simulate(replace(FREE, nodes=10, cached=0.5, origin=1e9), NOTHING, batches=100)
    assert half.bytes_per_s == pytest.approx(2e9, rel=0.1)


def test_the_laboratory_shares_its_cores() -> None:
    outcome = simulate(replace(FREE, nodes=24, one_machine_cores=2), COSTS)
    assert outcome.bytes_per_s == pytest.approx(2 / 0.75 * GIB, rel=0.02)
    assert outcome.bottleneck == "machine cpu"


def test_more_nodes_are_never_slower_in_total() -> None:
    speeds = [outcome.frames_per_s for outcome in sweep(Cluster(1), COSTS, [1, 4, 24], batches=10)]
    assert speeds == sorted(speeds)
    assert speeds[1] == pytest.approx(4 * speeds[0], rel=0.05)


def test_a_server_counts_busy_time_per_slot() -> None:
    simulation = Simulation(FREE, NOTHING)
    server = Server(simulation.env, "two", 2)
    for _ in range(3):
        simulation.env.process(server.serve(1.0))
    simulation.env.run()
    assert simulation.env.now == 2.0
    assert server.utilisation() == pytest.approx(0.75)


def test_minutes_for_a_scan() -> None:
    outcome = simulate(replace(FREE, node_link=125e6), NOTHING)
    assert outcome.minutes_for(int(outcome.frames_per_s * 60)) == pytest.approx(1, rel=0.01)
