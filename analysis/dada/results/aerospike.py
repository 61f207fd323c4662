"""The results store in an Aerospike cluster, shared by all who analyse: `aerospike://HOST[:PORT],.../NAMESPACE/SET`.

Keys are hex strings (a key with a NUL byte would be cut there). A record longer than what the server takes is cut into
pieces under `KEY/0`, `KEY/1`, ..., written before the header that names them and all marked with one random tag, so
that a reader sees all of one writing or a miss. Values depend on nothing but their key, so a write that is late does no
harm, and nothing relies on deletion: what is no longer asked for leaves by its time to live (`?ttl=30d`).

Every call has a deadline; after some failures in a row the server is left alone for some seconds. Whatever goes wrong
is counted and is a miss, or a result that was not kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from dada.errors import UsageError
from dada.quantity import parse_seconds
from dada.results.breaker import Breaker
from dada.results.keys import checked_key
from dada.results.records import BadRecord, check
from dada.results.store import StoreCounters

DEFAULT_PORT = 3000
DEFAULT_TTL_S = 30 * 86400
LONGEST_TTL_S = 315_360_000
DEFAULT_RECORD_LIMIT = 1 << 20
#: What a record needs beside its blob, with room to spare.
RECORD_OVERHEAD = 1024
PIECE = 512 << 10
BATCH_BYTES = 8 << 20
CONNECT_DEADLINE_S = 3.0
FORMAT = 1
RUNS_KEPT = 5000
_RUN_LIST = "0" * 40
_GENERATION_ATTEMPTS = 8
#: The server answered that it does not take this record now: too big, full, overloaded, no TTL allowed, not permitted.
_REFUSALS = frozenset((8, 13, 18, 22))
_T = TypeVar("_T")


@dataclass(frozen=True)
class Address:
    """Where the records are."""

    hosts: tuple[tuple[str, int], ...]
    namespace: str
    set: str
    ttl_s: int = DEFAULT_TTL_S


def parse_url(url: str) -> Address:
    """`aerospike://HOST[:PORT][,HOST[:PORT]]/NAMESPACE/SET[?ttl=30d]`. Raises UsageError."""
    # Not urlsplit: a list of hosts is no netloc to it, and with an IPv6 address in it newer releases refuse it.
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    hosts, _, where = rest.partition("/")
    path = where.strip("/").split("/")
    if scheme != "aerospike" or not hosts or len(path) != 2 or not all(path):
        raise UsageError(f"'{url}' is no Aerospike store; write aerospike://HOST:3000/NAMESPACE/SET")
    if len(path[0].encode()) > 31 or len(path[1].encode()) > 63:
        raise UsageError(f"'{url}': a namespace has at most 31 bytes, a set 63")
    ttl = parse_qs(query).get("ttl", [""])[-1]
    ttl_s = min(int(parse_seconds(ttl)), LONGEST_TTL_S) if ttl else DEFAULT_TTL_S
    return Address(tuple(_host(host, url) for host in hosts.split(",")), path[0], path[1], ttl_s)


def _host(text: str, url: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), DEFAULT_PORT
    if not port.isdecimal() or not 0 < int(port) < 65536 or not host:
        raise UsageError(f"'{url}': {text} is no HOST:PORT")
    return host.strip("[]"), int(port)


class AerospikeStore:
    """Records in one set of one namespace. Connects in the background; until then everything is a miss."""

    def __init__(self, address: Address, breaker: Breaker | None = None) -> None:
        """Raises UsageError when the client library is not installed."""
        try:
            import aerospike  # noqa: F401
        except ImportError:
            raise UsageError("this results store needs the package aerospike: pip install aerospike") from None
        hosts = ",".join(f"{host}:{port}" for host, port in address.hosts)
        self.name = f"aerospike://{hosts}/{address.namespace}/{address.set}"
        self.counters = StoreCounters()
        self.record_limit = DEFAULT_RECORD_LIMIT
        self._address = address
        self._ttl: int | None = address.ttl_s
        self._breaker = breaker or Breaker()
        self._lock = threading.Lock()
        self._copies = 1
        self._this_call = threading.local()  # failed: whether something of it failed without an exception
        self._client: Any = None
        self._closed = False
        self._connected = threading.Event()
        threading.Thread(target=self._connect, name="aerospike-connect", daemon=True).start()

    def get(self, key: str) -> bytes | None:
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        wanted = [checked_key(key) for key in dict.fromkeys(keys)]
        found: dict[str, bytes] = {}
        for group in _groups(wanted, max(1, BATCH_BYTES // self.record_limit)):
            for key, bins in (self._call(lambda g=group: self._read(g)) or {}).items():
                record = self._whole(key, bins)
                if record is not None:
                    found[key] = record
        self._count(hits=len(found), misses=len(wanted) - len(found))
        return found

    def put(self, key: str, record: bytes) -> bool:
        checked_key(key)
        kept = bool(self._call(lambda: self._write(key, record)))
        self._count(kept=int(kept), refused=int(not kept))
        return kept

    def discard(self, keys: Iterable[str]) -> None:
        for group in _groups([checked_key(key) for key in keys], max(1, BATCH_BYTES // self.record_limit)):
            found = self._call(lambda g=group: self._read(g)) or {}
            names = [name for key, bins in found.items() for name in _pieces(key, bins)]
            if names:
                self._call(lambda n=names: self._client.batch_remove([self._key(name) for name in n]))

    def remember_run(self, run_id: str, description: Mapping[str, Any]) -> None:
        record = msgspec.msgpack.encode(dict(description))
        self._call(lambda: self._write(f"run{run_id}", record))
        self._call(lambda: self._add_to_list(run_id, str(description.get("date", ""))))

    def runs(self) -> dict[str, dict[str, Any]]:
        found = {}
        for run_id, _ in self._call(self._run_list) or []:
            key = f"run{run_id}"
            bins = (self._call(lambda k=key: self._read([k])) or {}).get(key)
            record = self._joined(key, bins) if bins else None
            if record is not None:
                found[str(run_id)] = dict(msgspec.msgpack.decode(record))
        return found

    def prune(self, *, older_than_s: float | None = None, down_to_bytes: int | None = None) -> tuple[int, int]:
        if older_than_s is not None or down_to_bytes != 0:
            raise UsageError(
                "records in Aerospike leave by their time to live (?ttl=30d) and by the server's eviction; "
                "only --size 0 is possible here and removes all of the set"
            )
        before = self.size()
        self._call(lambda: self._client.truncate(self._address.namespace, self._address.set, 0))
        return before

    def size(self) -> tuple[int, int]:
        command = f"sets/{self._address.namespace}/{self._address.set}"
        nodes = self._call(lambda: _ask_all(self._client, command, ":")) or []
        copies = max(1, min(self._copies, len(nodes)))  # each node counts what it holds, copies for others included
        records = sum(int(node.get("objects", "0")) for node in nodes)
        used = sum(int(node.get("data_used_bytes") or node.get("memory_data_bytes") or "0") for node in nodes)
        return records // copies, used // copies

    def close(self) -> None:
        with self._lock:
            client, self._client, self._closed = self._client, None, True
        if client is not None:
            client.close()

    # --- one call to the server ---------------------------------------------------------------------------------

    def _call(self, call: Callable[[], _T]) -> _T | None:
        """What the call gives; None, counted, when there is no server, it does not answer or it answers an error."""
        from aerospike import exception

        if not self._breaker.allows(time.monotonic()):
            return None
        if not self._connected.wait(CONNECT_DEADLINE_S) or self._client is None:
            self._breaker.failed(time.monotonic())
            return None
        self._this_call.failed = False
        try:
            result = call()
        except exception.RecordNotFound:
            result = None
        except exception.AerospikeError as error:
            self._note(error.code, f"{type(error).__name__}: {error.msg}")
            return None
        if not self._this_call.failed:
            self._breaker.succeeded()
        return result

    def _note(self, code: int, text: str) -> None:
        if code in _REFUSALS:
            self._breaker.succeeded()
        else:
            self._this_call.failed = True
            self._breaker.failed(time.monotonic())
        self._count(failures=1, reason=text)

    def _connect(self) -> None:
        import aerospike
        from aerospike import exception

        try:
            client = aerospike.client(_configuration(self._address))
            self._read_limits(client)
        except exception.AerospikeError as error:
            self._count(failures=1, reason=f"{type(error).__name__}: {error.msg}")
            client = None
        with self._lock:
            if self._closed and client is not None:
                client.close()
                client = None
            self._client = client
        self._connected.set()

    def _read_limits(self, client: Any) -> None:
        nodes = _ask_all(client, f"get-config:context=namespace;id={self._address.namespace}", ";")
        sizes = [int(node["max-record-size"]) for node in nodes if node.get("max-record-size", "").isdecimal()]
        self.record_limit = min(filter(None, sizes), default=DEFAULT_RECORD_LIMIT)
        self._copies = max([int(node.get("replication-factor", "1")) for node in nodes], default=1)
        if any(node.get("nsup-period") == "0" and node.get("allow-ttl-without-nsup") != "true" for node in nodes):
            self._ttl = None  # a time to live would be refused

    # --- records ------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> tuple[str, str, str]:
        return self._address.namespace, self._address.set, name

    def _policy(self) -> dict[str, Any]:
        import aerospike

        policy: dict[str, Any] = {"exists": aerospike.POLICY_EXISTS_CREATE_OR_REPLACE}
        if self._ttl is not None:
            policy["ttl"] = self._ttl
        return policy

    def _write(self, key: str, record: bytes) -> bool:
        limit = self.record_limit - RECORD_OVERHEAD
        if len(record) <= limit:
            self._client.put(self._key(key), {"d": record, "v": FORMAT}, policy=self._policy())
            return True
        size, tag = min(PIECE, limit), os.urandom(8)
        pieces = [record[start : start + size] for start in range(0, len(record), size)]
        for group in _groups(list(enumerate(pieces)), max(1, BATCH_BYTES // size)):
            if not self._write_pieces(key, group, tag):
                return False
        header = {"n": len(pieces), "g": tag, "l": len(record), "v": FORMAT}
        self._client.put(self._key(key), header, policy=self._policy())
        return True

    def _write_pieces(self, key: str, pieces: Sequence[tuple[int, bytes]], tag: bytes) -> bool:
        from aerospike_helpers.batch import records as batch
        from aerospike_helpers.operations import operations

        writes = [
            batch.Write(
                self._key(f"{key}/{number}"),
                [operations.write("d", piece), operations.write("g", tag)],
                policy=self._policy(),
            )
            for number, piece in pieces
        ]
        answer = self._client.batch_write(batch.BatchRecords(writes))
        codes = [record.result for record in answer.batch_records if record.result != 0]
        if codes:  # batch calls do not raise
            self._note(codes[0], f"batch write failed with {codes[0]}")
        return not codes

    def _read(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The bins of the records that are there."""
        answer = self._client.batch_read([self._key(key) for key in keys])
        found, failed = {}, None
        for key, record in zip(keys, answer.batch_records, strict=True):
            if record.result == 0 and record.record:
                found[key] = dict(record.record[2])
            elif record.result not in (0, 2):  # 2: not found
                failed = record.result
        if failed is not None:
            self._note(failed, f"batch read failed with {failed}")
        return found

    def _whole(self, key: str, bins: Mapping[str, Any]) -> bytes | None:
        """The checked record whose own bins these are; None, counted, when it is damaged or not all there."""
        record = self._joined(key, bins)
        try:
            if record is not None:
                check(record)
            return record
        except BadRecord:
            self._count(damaged=1)
            return None

    def _joined(self, key: str, bins: Mapping[str, Any]) -> bytes | None:
        if bins.get("v") != FORMAT:
            return None
        if "d" in bins:
            return bytes(bins["d"])
        count, tag, length = bins.get("n"), bins.get("g"), bins.get("l")
        if not isinstance(count, int) or not isinstance(length, int) or not 0 < count <= length:
            return None
        pieces: list[bytes] = []
        for group in _groups([f"{key}/{number}" for number in range(count)], max(1, BATCH_BYTES // PIECE)):
            read = self._call(lambda g=group: self._read(g)) or {}
            if any(read.get(name, {}).get("g") != tag for name in group):
                return None  # evicted, or being written anew
            pieces += [bytes(read[name]["d"]) for name in group]
        record = b"".join(pieces)
        return record if len(record) == length else None

    # --- the list of runs ---------------------------------------------------------------------------------------

    def _run_list(self) -> list[tuple[str, str]]:
        _, _, bins = self._client.get(self._key(_RUN_LIST))
        return [(str(run_id), str(date)) for run_id, date in msgspec.msgpack.decode(bins["d"])]

    def _add_to_list(self, run_id: str, date: str) -> bool:
        """Read, add, write if nobody else wrote meanwhile; again if somebody did."""
        import aerospike
        from aerospike import exception

        for _ in range(_GENERATION_ATTEMPTS):
            try:
                _, meta, bins = self._client.get(self._key(_RUN_LIST))
                known = msgspec.msgpack.decode(bins["d"])
                policy = {**self._policy(), "gen": aerospike.POLICY_GEN_EQ}
                generation = {"gen": meta["gen"]}
            except exception.RecordNotFound:
                known, generation = [], None
                policy = {**self._policy(), "exists": aerospike.POLICY_EXISTS_CREATE}
            runs = [[run_id, date], *(run for run in known if run[0] != run_id)][:RUNS_KEPT]
            content = {"d": msgspec.msgpack.encode(runs), "v": FORMAT}
            try:
                self._client.put(self._key(_RUN_LIST), content, meta=generation, policy=policy)
                return True
            except (exception.RecordGenerationError, exception.RecordExistsError):
                continue
        return False

    def _count(self, reason: str = "", **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():
                setattr(self.counters, name, getattr(self.counters, name) + change)
            if reason:
                self.counters.last_failure = reason


def _pieces(key: str, bins: Mapping[str, Any]) -> list[str]:
    """Under which names a record lies, the one that is found first in front: without it the others are a miss."""
    count = bins.get("n", 0)
    return [key, *(f"{key}/{number}" for number in range(count if isinstance(count, int) else 0))]


def _configuration(address: Address) -> dict[str, Any]:
    return {
        "hosts": list(address.hosts),
        "validate_keys": True,
        "connect_timeout": 500,
        "max_conns_per_node": 100,
        "policies": {
            "read": {"total_timeout": 500, "socket_timeout": 200, "max_retries": 1},
            "write": {"total_timeout": 1000, "socket_timeout": 1000, "max_retries": 0},
            # what is read in the last fifth of its time to live is given all of it anew
            "batch": {"total_timeout": 3000, "socket_timeout": 1500, "max_retries": 1, "read_touch_ttl_percent": 80},
            "info": {"timeout": 1000},
        },
    }


def _ask_all(client: Any, command: str, separator: str) -> list[dict[str, str]]:
    """What each node that answers says, as dictionaries."""
    answers = client.info_all(command).values()
    return [_settings(str(text).rpartition("\t")[2], separator) for error, text in answers if not error and text]


def _settings(text: str, separator: str) -> dict[str, str]:
    """`a=1;b=2` as a dictionary."""
    pairs = (item.partition("=") for item in text.strip(";\n ").split(separator))
    return {key: value for key, equals, value in pairs if equals}


def _groups(items: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
