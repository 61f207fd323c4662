"""What every results store does, run on each backend.

Aerospike: a stand-in node with the real client, and a real server as well when DADA_TEST_AEROSPIKE=host:port is set.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dada.results.records import pack, unpack
from dada.results.store import ResultsStore, open_store
from tests.harness.aerospike_node import AerospikeNode


@pytest.fixture(params=["embedded", "aerospike", "aerospike-server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultsStore]:
    if request.param == "embedded":
        yield open_store(tmp_path / "store")
    elif request.param == "aerospike":
        pytest.importorskip("aerospike")
        with AerospikeNode() as node:
            opened = open_store(node.url)
            yield opened
            opened.close()
    else:
        server = os.environ.get("DADA_TEST_AEROSPIKE")
        if not server:
            pytest.skip("no Aerospike server: set DADA_TEST_AEROSPIKE=host:port")
        opened = open_store(f"aerospike://{server}/test/dada-tests?ttl=10m")
        opened.prune(down_to_bytes=0)
        yield opened
        opened.close()


def key() -> str:
    return uuid.uuid4().hex


def record(seed: int = 1, n: int = 100) -> bytes:
    values = np.random.default_rng(seed).integers(-(2**62), 2**62, n)
    return pack({"count": n}, {"sums": values})


def test_what_was_put_is_found(store: ResultsStore) -> None:
    name, content = key(), record()
    assert store.get(name) is None
    assert store.put(name, content)
    assert store.get(name) == content
    assert (store.counters.hits, store.counters.misses, store.counters.kept) == (1, 1, 1)
    assert store.counters.failures == 0


def test_several_at_once(store: ResultsStore) -> None:
    records = {key(): record(seed) for seed in range(40)}
    for name, content in records.items():
        store.put(name, content)
    assert store.get_many([*records, key()]) == records
    assert store.get_many([]) == {}


def test_a_record_is_replaced_whole(store: ResultsStore) -> None:
    name = key()
    store.put(name, record(1, 300_000))
    store.put(name, record(2, 10))
    assert store.get(name) == record(2, 10)
    store.put(name, record(3, 300_000))
    assert store.get(name) == record(3, 300_000)


@pytest.mark.parametrize("n", [0, 1, 60_000, 131_000, 700_000])
def test_records_of_all_sizes(store: ResultsStore, n: int) -> None:
    name, content = key(), record(5, n)
    assert store.put(name, content)
    found = store.get(name)
    assert found == content
    assert len(unpack(found)[1]["sums"]) == n


def test_runs_are_remembered(store: ResultsStore) -> None:
    assert store.runs() == {}
    store.remember_run("abc123", {"date": "2024-01-01", "options": {"scan": "/a", "list": [1, 2]}})
    store.remember_run("def456", {"date": "2024-01-02", "options": {}})
    store.remember_run("abc123", {"date": "2024-01-03", "options": {}})
    assert store.runs() == {
        "abc123": {"date": "2024-01-03", "options": {}},
        "def456": {"date": "2024-01-02", "options": {}},
    }


def test_everything_can_be_removed(store: ResultsStore) -> None:
    names = [key() for _ in range(5)]
    for name in names:
        store.put(name, record())
    assert store.size()[0] == 5
    assert store.size()[1] >= 5 * len(record()) * 0.9
    assert store.prune(down_to_bytes=0)[0] == 5
    assert store.get_many(names) == {}


def test_records_are_discarded(store: ResultsStore) -> None:
    names = [key() for _ in range(3)]
    for name, n in zip(names, (10, 700_000, 20), strict=True):
        assert store.put(name, record(1, n))
    store.discard([*names[:2], key()])
    assert list(store.get_many(names)) == names[2:]
    assert store.size()[0] == 1  # pieces of large ones are gone too
    assert store.counters.failures == 0


def test_many_threads(store: ResultsStore) -> None:
    shared = key()
    failures = []

    def work(seed: int) -> None:
        own, content = key(), record(seed)
        for _ in range(20):
            store.put(shared, record(0, 50))
            store.put(own, content)
            if store.get(own) != content or store.get(shared) != record(0, 50):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.counters.failures == 0


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "ABC", "a/b", "ab\x00cd"])
def test_a_key_is_a_hex_string(store: ResultsStore, bad: str) -> None:
    """Anything else could leave the directory, or be cut at a NUL byte."""
    for call in (store.get, lambda key: store.get_many([key]), lambda key: store.put(key, record())):
        with pytest.raises(ValueError, match="hex"):
            call(bad)
