"""The store in Aerospike when the server is full, too small, frozen, gone, or late: counted, never raised."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import numpy as np
import pytest

from dada.errors import UsageError
from dada.results.aerospike import DEFAULT_TTL_S, AerospikeStore, parse_url
from dada.results.breaker import Breaker
from dada.results.records import pack
from tests.harness.aerospike_node import AerospikeNode, join
from tests.harness.processes import wait_until

pytest.importorskip("aerospike")
RECORD = pack({}, {"x": np.arange(50)})
BIG = pack({}, {"x": np.random.default_rng(1).integers(0, 2**62, 400_000)})


def opened(node: AerospikeNode, breaker: Breaker | None = None, query: str = "") -> AerospikeStore:
    return AerospikeStore(parse_url(node.url + query), breaker)


def test_addresses() -> None:
    address = parse_url("aerospike://one,two:4000,[::1]:3001/ns/set?ttl=2h")
    assert address.hosts == (("one", 3000), ("two", 4000), ("::1", 3001))
    assert (address.namespace, address.set, address.ttl_s) == ("ns", "set", 7200)
    assert parse_url("aerospike://one/ns/set").ttl_s == DEFAULT_TTL_S


@pytest.mark.parametrize("limit", [20_000, 1 << 20, 8 << 20])
def test_a_record_is_cut_into_what_the_server_takes(limit: int) -> None:
    with AerospikeNode(max_record_size=limit) as node:
        store = opened(node)
        assert store.put("ab", BIG)
        assert store.record_limit == limit
        assert store.get("ab") == BIG
        assert (len(node.records) > 1) == (len(BIG) > limit)
        assert all(record.expires for record in node.records.values())
        store.close()


def test_a_piece_that_is_gone_makes_a_miss() -> None:
    with AerospikeNode() as node:
        store = opened(node)
        store.put("ab", BIG)
        del node.records[next(digest for digest, record in node.records.items() if b"n" not in record.bins)]
        assert store.get("ab") is None
        assert store.counters.misses == 1
        store.close()


def test_pieces_of_two_writings_do_not_mix() -> None:
    with AerospikeNode() as node:
        store = opened(node)
        store.put("ab", BIG)
        old = dict(node.records)
        store.put("ab", BIG)
        digest = next(digest for digest, record in node.records.items() if b"n" not in record.bins)
        node.records[digest] = old[digest]
        assert store.get("ab") is None
        store.close()


def test_a_damaged_record_is_a_miss() -> None:
    with AerospikeNode() as node:
        store = opened(node)
        store.put("ab", RECORD)
        (record,) = node.records.values()
        kind, value = record.bins[b"d"]
        record.bins[b"d"] = kind, value[:-1] + bytes([value[-1] ^ 1])
        assert store.get("ab") is None
        assert store.counters.damaged == 1
        store.close()


@pytest.mark.parametrize("code", [8, 13, 18, 22])
@pytest.mark.parametrize("record", [RECORD, BIG])
def test_a_server_that_refuses_is_asked_again_next_time(code: int, record: bytes) -> None:
    with AerospikeNode() as node:
        store = opened(node)
        node.write_code = code
        for _ in range(5):
            assert not store.put("ab", record)
        assert store.counters.refused == 5
        node.write_code = 0
        assert store.put("ab", record)
        assert store.get("ab") == record
        store.close()


def test_a_namespace_without_expiry_is_given_no_ttl() -> None:
    with AerospikeNode(nsup_period=0) as node:
        store = opened(node)
        assert store.put("ab", RECORD)
        (record,) = node.records.values()
        assert record.expires == 0
        store.close()


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = AerospikeStore(parse_url(f"aerospike://127.0.0.1:{port}/test/results"))
    assert not store.put("ab", RECORD)
    assert store.get("ab") is None
    assert store.runs() == {}
    assert store.size() == (0, 0)
    assert store.counters.failures >= 1
    store.close()


def test_a_server_that_vanishes_and_one_that_comes_back() -> None:
    node = AerospikeNode()
    store = opened(node, Breaker(failures=2, pause_s=0.0))
    assert store.put("ab", RECORD)
    node.stop()
    assert store.get("ab") is None
    assert not store.put("ab", RECORD)
    with AerospikeNode(port=node.port):
        wait_until(lambda: store.put("ab", RECORD), "the client finds the server again")
        assert store.get("ab") == RECORD
    store.close()


def test_a_frozen_server_is_left_alone_after_a_few_tries() -> None:
    with AerospikeNode() as node:
        store = opened(node, Breaker(failures=2, pause_s=1000))
        assert store.put("ab", RECORD)
        node.freeze()
        for _ in range(2):
            assert not store.put("ab", RECORD)
        asked = node.requests
        start = time.monotonic()
        for _ in range(1000):
            assert store.get("ab") is None
        assert time.monotonic() - start < 60  # a thousand time-outs would take ten times as long
        assert node.requests == asked
        node.thaw()
        store.close()


@pytest.mark.parametrize("record", [RECORD, BIG])
def test_failures_inside_of_a_batch_count_for_the_breaker(record: bytes) -> None:
    """A batch call gives an answer also when nobody answered: a frozen server would cost its time-out every time."""
    with AerospikeNode() as node:
        breaker = Breaker(failures=2, pause_s=1000)
        store = opened(node, breaker)
        assert store.put("ab", record)
        node.read_code = 9
        for _ in range(2):
            assert breaker.allows(time.monotonic())
            assert store.get("ab") is None
        assert not breaker.allows(time.monotonic())
        store.close()


def test_pieces_that_fail_count_for_the_breaker() -> None:
    with AerospikeNode() as node:
        breaker = Breaker(failures=2, pause_s=1000)
        store = opened(node, breaker)
        node.write_code = 9
        for _ in range(2):
            assert not store.put("ab", BIG)
        assert not breaker.allows(time.monotonic())
        store.close()


def test_expired_and_evicted_records_are_misses() -> None:
    """They go one by one and in any order: a header may outlive its pieces, and the other way round."""
    with AerospikeNode() as node:
        store = opened(node)
        for seed in range(2):
            assert store.put(f"a{seed}", BIG)
        digests = list(node.records)
        for number, digest in enumerate(digests):
            kept = node.records[digest].expires
            node.records[digest].expires = time.time() - 1
            assert len(store.get_many(["a0", "a1"])) == 1, number
            node.records[digest].expires = kept
        assert store.get_many(["a0", "a1"]) == {"a0": BIG, "a1": BIG}
        assert store.counters.failures == store.counters.damaged == 0
        for digest in digests[::2]:
            del node.records[digest]
        assert store.get_many(["a0", "a1"]) == {}
        assert store.put("a0", BIG)
        assert store.get("a0") == BIG
        store.close()


def test_the_list_of_runs_may_expire() -> None:
    with AerospikeNode() as node:
        store = opened(node)
        store.remember_run("a", {"date": "1"})
        for record in node.records.values():
            record.expires = time.time() - 1
        assert store.runs() == {}
        store.remember_run("b", {"date": "2"})
        assert store.runs() == {"b": {"date": "2"}}
        store.close()


def keep(store: AerospikeStore, records: dict[str, bytes]) -> bool:
    return sum(store.put(name, record) for name, record in records.items()) == len(records)


def test_several_nodes() -> None:
    """Records lie on all of them; one that is gone takes its own along, and is asked for by nobody."""
    with AerospikeNode(number=1) as first, AerospikeNode(number=2, max_record_size=40_000) as second:
        join(first, second)
        hosts = f"127.0.0.1:1,127.0.0.1:{second.port}"  # a host that is not there is passed over
        store = AerospikeStore(parse_url(f"aerospike://{hosts}/test/results"), Breaker(failures=10_000))
        names = [f"{number:040x}" for number in range(60)]
        records = {name: pack({"name": name}, {"x": np.arange(50)}) for name in names}
        wait_until(lambda: keep(store, records) and first.records and second.records, "both nodes are known")
        assert store.put("ab", BIG)
        assert store.record_limit == 40_000  # what every one of them takes
        assert store.get_many([*names, "ab"]) == records | {"ab": BIG}
        assert store.size()[0] == len(first.records) + len(second.records)
        first.stop()
        left = store.get_many(names)
        assert 0 < len(left) < len(names)
        assert all(records[name] == record for name, record in left.items())
        assert store.get("ab") is None
        join(second)  # the cluster closes the gap
        wait_until(lambda: keep(store, records), "one node for all")
        assert store.get_many(names) == records
        store.close()


def test_a_write_that_is_late_does_no_harm() -> None:
    """The server was frozen when it was written, which counts as not kept; it lands when the server goes on."""
    with AerospikeNode() as node:
        store = opened(node, Breaker(failures=100, pause_s=0.0))
        assert store.put("cd", RECORD)  # connected
        node.freeze()
        assert not store.put("ab", RECORD)
        assert store.counters.kept == 1
        node.thaw()
        wait_until(lambda: store.get("ab") == RECORD, "the late record")
        assert store.put("ab", RECORD)
        assert store.get("ab") == RECORD
        store.close()


@pytest.mark.parametrize("record", [RECORD, BIG])
def test_a_connection_that_is_cut_in_the_middle(record: bytes) -> None:
    with AerospikeNode() as node:
        store = opened(node, Breaker(failures=100, pause_s=0.0))
        assert store.put("ab", record)
        node.hang_up = True
        assert not store.put("cd", record)
        assert store.get("ab") is None
        assert node.hung_up >= 2
        assert store.counters.failures >= 2
        node.hang_up = False
        wait_until(lambda: store.get("ab") == record, "the connection works again")
        store.close()


@pytest.mark.parametrize("code", [1, 9, 11, 14, 18, 20])
@pytest.mark.parametrize("record", [RECORD, BIG])
def test_reads_that_fail_are_misses_and_counted(code: int, record: bytes) -> None:
    """Batch calls do not raise: each row says how it went."""
    with AerospikeNode() as node:
        store = opened(node, Breaker(failures=100, pause_s=0.0))
        assert store.put("ab", record)
        node.read_code = code
        assert store.get_many(["ab", "cd"]) == {}
        assert store.runs() == {}
        assert store.counters.failures >= 1
        node.read_code = 0
        assert store.get("ab") == record
        store.close()


def test_a_namespace_that_is_not_there() -> None:
    with AerospikeNode() as node:
        store = AerospikeStore(parse_url(node.url.replace("/test/", "/nowhere/")))
        assert not store.put("ab", RECORD)
        assert store.get("ab") is None
        assert store.counters.failures >= 1
        assert store.counters.last_failure
        store.close()


def test_every_write_has_its_time_to_live() -> None:
    """A write without one would be given the namespace's default, which may be for ever."""
    with AerospikeNode() as node:
        store = opened(node, query="?ttl=1h")
        store.put("ab", RECORD)
        store.put("cd", BIG)
        store.remember_run("a", {"date": "1"})
        store.remember_run("b", {"date": "2"})
        left = [record.expires - time.time() for record in node.records.values()]
        assert len(left) > 5
        assert all(0 < seconds <= 3600 for seconds in left)
        store.close()


def test_a_server_that_is_frozen_from_the_start_does_not_hold_the_start() -> None:
    with AerospikeNode() as node:
        node.freeze()
        store = opened(node)  # returns at once: connecting happens in the background
        assert store.get("ab") is None
        assert store.counters.hits == 0
        node.thaw()
        store.close()


def test_the_list_of_runs_is_not_lost_when_two_add_to_it() -> None:
    with AerospikeNode() as node:
        stores = [opened(node) for _ in range(2)]
        original = stores[0]._run_list
        stores[0].remember_run("a", {"date": "1"})
        interfered: list[bool] = []
        add: Callable[..., bool] = stores[0]._client.put

        class Interfering:
            """The client of the first store; the second one gets in between its read and its write, once."""

            def __getattr__(self, name: str) -> object:
                return getattr(client, name)

            def put(self, *arguments: object, **options: object) -> object:
                if not interfered and options.get("meta"):
                    interfered.append(True)
                    stores[1].remember_run("b", {"date": "2"})
                return add(*arguments, **options)

        client = stores[0]._client
        stores[0]._client = Interfering()
        stores[0].remember_run("c", {"date": "3"})
        assert interfered
        assert {run for run, _ in original()} == {"a", "b", "c"}
        for store in stores:
            store.close()


def test_only_everything_can_be_pruned() -> None:
    with AerospikeNode() as node:
        store = opened(node)
        with pytest.raises(UsageError, match="time to live"):
            store.prune(older_than_s=10)
        store.close()


def test_the_breaker() -> None:
    breaker = Breaker(failures=2, pause_s=10)
    assert breaker.allows(0)
    breaker.failed(0)
    assert breaker.allows(0.1)
    breaker.failed(0.1)
    assert not breaker.allows(5)
    assert breaker.allows(10.2)  # one probe
    assert not breaker.allows(10.3)
    breaker.failed(11)
    assert not breaker.allows(20.5)
    assert breaker.allows(21.1)
    breaker.succeeded()
    assert breaker.allows(21.2)
    assert breaker.allows(21.3)
