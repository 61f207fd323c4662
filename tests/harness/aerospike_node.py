"""A stand-in for an Aerospike node, enough for the real client: records in memory, and scripted failures.

It speaks what a Community Edition node does on one port: info text (message type 1) and records (type 3: put, get,
remove, generation and create-only checks, batch read and batch write). What a real server alone can show, being full,
too big records, a frozen or vanished server, is scripted: `write_code`, `read_code`, `hang_up`, `freeze`, `stop`.
"""

from __future__ import annotations

import base64
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

NAMESPACE = "test"
_INFO, _RECORDS = 1, 3
_EPOCH = 1262304000  # Aerospike counts expiry from 2010-01-01
_READ, _GET_ALL, _NO_BINS = 1, 2, 32
_WRITE, _DELETE, _GENERATION, _CREATE_ONLY = 1, 2, 4, 32
_LAST, _CREATE_OR_REPLACE = 1, 16
_OK, _NOT_FOUND, _BAD_GENERATION, _EXISTS, _TOO_BIG, _NO_NAMESPACE, _FORBIDDEN = 0, 2, 3, 5, 13, 20, 22
_HEADER = struct.Struct(">BBBBBBIIIHH")
_FIELD_NAMESPACE, _FIELD_SET, _FIELD_DIGEST, _FIELD_BATCH = 0, 1, 4, 41
_BATCH_REPEAT, _BATCH_INFO, _BATCH_GENERATION, _BATCH_TTL, _BATCH_INFO4 = 1, 2, 4, 8, 16
_WRITE_OP = 2


_PARTITIONS = 4096


def join(*nodes: AerospikeNode) -> None:
    """Make a cluster of them: each is master of a part of the partitions, and nobody keeps copies."""
    for number, node in enumerate(nodes):
        node.generation += 1
        node.peers = [other for other in nodes if other is not node]
        node.partitions = range(_PARTITIONS * number // len(nodes), _PARTITIONS * (number + 1) // len(nodes))


@dataclass
class Record:
    """One record: bins as (particle type, value bytes) by name."""

    bins: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    generation: int = 1
    expires: float = 0.0  # 0: never

    @property
    def size(self) -> int:
        return sum(len(value) for _, value in self.bins.values())


@dataclass
class _Request:
    info1: int
    info2: int
    info3: int
    generation: int
    ttl: int
    fields: dict[int, bytes]
    ops: list[tuple[int, int, bytes, bytes]]  # operation, particle type, bin, value


class AerospikeNode:
    """A node on a free port of 127.0.0.1; a context manager."""

    def __init__(
        self, *, max_record_size: int = 1 << 20, nsup_period: int = 10, port: int = 0, number: int = 1
    ) -> None:
        self.name = f"BB900000000000{number}"
        self.peers: list[AerospikeNode] = []  # the others of its cluster, see `join`
        self.partitions = range(_PARTITIONS)
        self.generation = 0
        self.max_record_size = max_record_size
        self.nsup_period = nsup_period
        self.records: dict[bytes, Record] = {}
        self.requests = 0
        self.write_codes: list[int] = []  # a reply code for each of the next writes, instead of doing them
        self.write_code = 0  # for all writes, while not 0
        self.read_code = 0  # for all reads of records, single and in batches, while not 0
        self.hang_up = False  # close the connection instead of answering about records
        self.hung_up = 0
        self.thawed = threading.Event()
        self.thawed.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.node = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"aerospike://127.0.0.1:{self.port}/{NAMESPACE}/results"

    def __enter__(self) -> AerospikeNode:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def freeze(self) -> None:
        """Accept and read, but answer nothing until `thaw`."""
        self.thawed.clear()

    def thaw(self) -> None:
        self.thawed.set()

    def stop(self) -> None:
        """Vanish: the port closes, connections are reset."""
        self.thawed.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join()

    # --- info ---------------------------------------------------------------------------------------------------

    def info(self, name: str) -> str:
        if name.startswith("get-config:"):
            return f"max-record-size={self.max_record_size};nsup-period={self.nsup_period};default-ttl=0"
        if name.startswith("sets/"):
            with self._lock:
                size = sum(record.size for record in self.records.values())
                return f"objects={len(self.records)}:data_used_bytes={size}:stop-writes-count=0;"
        if name.startswith("truncate"):
            with self._lock:
                self.records.clear()
            return "ok"
        owned = np.isin(np.arange(_PARTITIONS), self.partitions)
        bitmap = base64.b64encode(np.packbits(owned).tobytes()).decode()
        others = ",".join(f"[{peer.name},,[127.0.0.1:{peer.port}]]" for peer in self.peers)
        return {
            "node": self.name,
            "build": "8.0.0.15",
            "partition-generation": str(self.generation),
            "peers-generation": str(self.generation),
            "peers-clear-std": f"{self.generation},{self.port},[{others}]",
            "replicas": f"{NAMESPACE}:0,1,{bitmap}",
            "features": "batch-any;batch-index;blob-bits;cdt-list;cdt-map;float;pscans;query-show;pquery",
            "cluster-name": "null",
            "partitions": "4096",
        }.get(name, "")

    # --- records ------------------------------------------------------------------------------------------------

    def serve(self, message: bytes) -> bytes:
        """The reply bodies to a message of type 3, headers and all."""
        request = _parse(message)
        if _FIELD_BATCH in request.fields:
            return b"".join(self._batch(request.fields[_FIELD_BATCH]))
        return self._one(request, request.fields.get(_FIELD_DIGEST, b""), last=False)

    def _one(self, request: _Request, digest: bytes, *, last: bool, index: int = 0) -> bytes:
        if request.fields.get(_FIELD_NAMESPACE, b"").decode() != NAMESPACE:
            return _reply(_NO_NAMESPACE, index=index)
        with self._lock:
            if request.info2 & _WRITE:
                code = self._write(request, digest)
                return _reply(code, self.records.get(digest) if code == _OK else None, (), index)
            record = self._live(digest)
            if record is None or self.read_code:
                return _reply(self.read_code or _NOT_FOUND, index=index)
            return _reply(_OK, record, () if request.info1 & _NO_BINS else self._wanted(request, record), index)

    def _wanted(self, request: _Request, record: Record) -> list[tuple[bytes, int, bytes]]:
        names = [name for _, _, name, _ in request.ops] or list(record.bins)
        return [(name, *record.bins[name]) for name in names if name in record.bins]

    def _live(self, digest: bytes) -> Record | None:
        record = self.records.get(digest)
        return None if record is None or 0 < record.expires < time.time() else record

    def _write(self, request: _Request, digest: bytes) -> int:
        self.requests += 1
        if self.write_codes or self.write_code:
            return self.write_codes.pop(0) if self.write_codes else self.write_code
        old = self._live(digest)
        if request.info2 & _DELETE:
            return _OK if self.records.pop(digest, None) else _NOT_FOUND
        if request.info2 & _CREATE_ONLY and old is not None:
            return _EXISTS
        if request.info2 & _GENERATION and (old is None or old.generation != request.generation):
            return _BAD_GENERATION
        if request.ttl not in (0, 0xFFFFFFFF) and self.nsup_period == 0:
            return _FORBIDDEN
        bins = dict(old.bins) if old is not None and not request.info3 & _CREATE_OR_REPLACE else {}
        bins.update({name: (kind, value) for op, kind, name, value in request.ops if op == _WRITE_OP})
        expires = time.time() + request.ttl if request.ttl not in (0, 0xFFFFFFFF) else 0.0
        record = Record(bins, old.generation + 1 if old else 1, expires)
        if record.size + 60 > self.max_record_size:
            return _TOO_BIG
        self.records[digest] = record
        return _OK

    def _batch(self, data: bytes) -> Iterator[bytes]:
        for index, digest, request in _batch_rows(data):
            yield self._one(request, digest, last=False, index=index)
        yield _HEADER.pack(22, 0, 0, _LAST, 0, 0, 0, 0, 0, 0, 0)


def _parse(message: bytes) -> _Request:
    _, info1, info2, info3, _, _, generation, ttl, _, n_fields, n_ops = _HEADER.unpack_from(message)
    fields, at = _fields(message, 22, n_fields)
    ops, _ = _ops(message, at, n_ops)
    return _Request(info1, info2, info3, generation, ttl, fields, ops)


def _fields(message: bytes, at: int, count: int) -> tuple[dict[int, bytes], int]:
    found = {}
    for _ in range(count):
        (size,) = struct.unpack_from(">I", message, at)
        found[message[at + 4]] = message[at + 5 : at + 4 + size]
        at += 4 + size
    return found, at


def _ops(message: bytes, at: int, count: int) -> tuple[list[tuple[int, int, bytes, bytes]], int]:
    found = []
    for _ in range(count):
        size, op, kind, _, name = struct.unpack_from(">IBBBB", message, at)
        start = at + 8 + name
        found.append((op, kind, message[at + 8 : start], message[start : at + 4 + size]))
        at += 4 + size
    return found, at


def _batch_rows(data: bytes) -> Iterator[tuple[int, bytes, _Request]]:
    (count,) = struct.unpack_from(">I", data)
    at, request = 5, None
    for _ in range(count):
        index, digest, kind = struct.unpack_from(">I20sB", data, at)
        at += 25
        if not kind & _BATCH_REPEAT or request is None:
            request, at = _batch_request(data, at, kind)
        yield index, digest, request


def _batch_request(data: bytes, at: int, kind: int) -> tuple[_Request, int]:
    info1, info2, info3, generation, ttl = data[at], 0, 0, 0, 0
    at += 1
    if kind & _BATCH_INFO:
        info2, info3 = data[at], data[at + 1]
        at += 2
    if kind & _BATCH_INFO4:
        at += 1
    if kind & _BATCH_GENERATION:
        (generation,) = struct.unpack_from(">H", data, at)
        at += 2
    if kind & _BATCH_TTL:
        (ttl,) = struct.unpack_from(">I", data, at)
        at += 4
    n_fields, n_ops = struct.unpack_from(">HH", data, at)
    fields, at = _fields(data, at + 4, n_fields)
    ops, at = _ops(data, at, n_ops)
    return _Request(info1, info2, info3, generation, ttl, fields, ops), at


def _reply(code: int, record: Record | None = None, bins: object = (), index: int = 0) -> bytes:
    values = list(bins)  # type: ignore[call-overload]
    generation = record.generation if record else 0
    expires = int(record.expires - _EPOCH) if record and record.expires else 0
    head = _HEADER.pack(22, 0, 0, 0, 0, code, generation, expires, index, 0, len(values))
    body = b"".join(
        struct.pack(">IBBBB", 4 + len(name) + len(value), 1, kind, 0, len(name)) + name + value
        for name, kind, value in values
    )
    return head + body


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    node: AerospikeNode


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        node = self.server.node
        node._open.add(self.request)
        try:
            while True:
                head = self._exactly(8)
                kind, size = head[1], int.from_bytes(head[2:], "big")
                body = self._exactly(size)
                if node.hang_up and kind == _RECORDS:
                    node.hung_up += 1
                    return
                node.thawed.wait()
                reply = _answer_info(node, body) if kind == _INFO else node.serve(body)
                self.request.sendall(bytes([2, kind]) + len(reply).to_bytes(6, "big") + reply)
        except (ConnectionError, EOFError, OSError):
            return
        finally:
            node._open.discard(self.request)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.request.recv(min(size - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


def _answer_info(node: AerospikeNode, body: bytes) -> bytes:
    names = [name for name in body.decode().split("\n") if name]
    return "".join(f"{name}\t{node.info(name)}\n" for name in names).encode()
