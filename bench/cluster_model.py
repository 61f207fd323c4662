"""A model of a whole cluster in discrete events (simpy): origin, heads, links and nodes as servers with queues.

The unit is a batch of frames (some MiB of compressed data). A node keeps a few batches on their way and reduces those
that have arrived; a batch passes, one after the other,

    origin (where no cache has it) or SSD -> CPU of the head -> network card of the head -> link of the node
    -> CPU of the node's client -> cores that reduce frames

and waits in each queue. A server works on one batch at a time per slot; `slots` is how many cores, or 1 for a link.
Batches of a scan that several nodes read at once cost the origin one reading, as the head promises.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import simpy

GIB = 2**30
MIB = 2**20


#: A receiver of a slow link is woken for what has arrived in about this time, within these bytes.
ARRIVAL = 1e-3
SMALLEST = 32 * 1024
FRAGMENT = MIB


def pieces_per_gib(link: float) -> float:
    """In how many pieces a GiB arrives over a link of so many bytes a second."""
    return GIB / max(SMALLEST, min(FRAGMENT, link * ARRIVAL))


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one side (bench/calibration.py)."""

    per_gib: float = 0.0
    per_piece: float = 0.0
    #: The beginning of each client: its first reads.
    per_client: float = 0.0
    #: On top, for bytes that the head has to fetch from the origin and write to its SSD.
    per_filled_gib: float = 0.0
    #: On top, for bytes that nobody else reads at the same time: the processor's caches do not have them.
    per_distinct_gib: float = 0.0

    def seconds(self, size: float, link: float, beginning: float, distinct: float) -> float:
        """Seconds for so many bytes over such a link, a share of them distinct, and a share of a client's beginning."""
        streaming = self.per_gib + self.per_piece * pieces_per_gib(link) + self.per_distinct_gib * distinct
        return streaming * size / GIB + self.per_client * beginning


@dataclass(frozen=True)
class Calibration:
    """What was measured, per machine. Seconds are CPU seconds, bytes are compressed frame data."""

    node: Cost
    head: Cost
    frames_per_s_per_core: float
    bytes_per_frame: float
    #: What readers and the kernel's network cost beside the two programs: on a node, its reducing cores pay it.
    other: Cost = Cost()
    #: Share of the time in which the cores of the laboratory work where they limit; the rest they wait for a wake-up.
    busy_share: float = 1.0
    #: Share of a link's bits that is content.
    payload_share: float = 1448 / 1538
    measured: str = ""


@dataclass(frozen=True)
class Cluster:
    """One installation and what it is asked to do; rates in bytes a second of what the cable or disk carries."""

    nodes: int
    cores_per_node: int = 4
    node_link: float = 1e9 / 8
    heads: int = 1
    #: Cores that one head process can use for serving: its loop is one thread.
    head_cores: int = 1
    #: Threads of the head that fetch from the origin.
    fill_threads: int = 8
    head_link: float = 20e9 / 8
    ssd: float = 3e9
    #: A filer behind 20 Gbit/s.
    origin: float = 1.2e9
    #: Share of the bytes that the head's tiers (memory and SSD) hold.
    cached: float = 1.0
    #: Nodes that read the same batches at the same time (1: each reads its own).
    sharing: int = 1
    #: All CPU work of heads and nodes on these few cores: the laboratory, where everything runs on one machine.
    one_machine_cores: int | None = None
    #: False: readers take the bytes and do nothing with them.
    reduces: bool = True
    #: Whether every node has just been mounted and pays for its beginning, spread over what it reads.
    begins: bool = False


@dataclass
class Server:
    """`slots` workers at a queue, who may need one of the cores of `machine` too; remembers how long they were busy."""

    env: simpy.Environment
    name: str
    slots: int
    machine: Server | None = None
    #: Share of a worker's time that is work.
    busy_share: float = 1.0
    queue: simpy.Resource = field(init=False)
    busy: float = 0.0

    def __post_init__(self) -> None:
        self.queue = simpy.Resource(self.env, self.slots)

    def serve(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """Wait for a worker, then for `seconds`."""
        with self.queue.request() as turn:
            yield turn
            if self.machine is None:
                yield self.env.timeout(seconds / self.busy_share)
            else:
                yield from self.machine.serve(seconds)
        self.busy += seconds / self.busy_share

    def utilisation(self) -> float:
        """Share of the workers' time in use so far."""
        return self.busy / (self.env.now * self.slots) if self.env.now else 0.0


@dataclass(frozen=True)
class Outcome:
    """What came out: rates over the whole run, and how busy each kind of server was."""

    frames_per_s: float
    bytes_per_s: float
    utilisation: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The busiest kind of server."""
        return max(self.utilisation, key=lambda name: self.utilisation[name])

    def minutes_for(self, frames: int) -> float:
        """How long a scan of so many frames takes."""
        return frames / self.frames_per_s / 60


class Simulation:
    """One run: every node takes `batches` batches of `batch` bytes, `window` of them on their way at a time."""

    def __init__(self, cluster: Cluster, calibration: Calibration, *, batch: int = 8 * MIB, window: int = 4) -> None:
        self.cluster = cluster
        self.calibration = calibration
        self.batch = batch
        self.window = window
        self.env = simpy.Environment()
        self.chance = random.Random(1)
        cores = cluster.one_machine_cores
        share = calibration.busy_share
        self.machine = None if cores is None else Server(self.env, "machine cpu", cores, busy_share=share)
        heads, nodes = range(cluster.heads), range(cluster.nodes)
        self.origin = self._server("origin", 1)
        self.ssd = [self._server("ssd", 1) for _ in heads]
        self.head_cpu = [self._cpu("head cpu", cluster.head_cores) for _ in heads]
        self.head_fill = [self._cpu("head fill", cluster.fill_threads) for _ in heads]
        self.head_link = [self._server("head link", 1) for _ in heads]
        self.node_link = [self._server("node link", 1) for _ in nodes]
        self.node_cpu = [self._cpu("node client", 1) for _ in nodes]
        self.node_cores = [self._cpu("reduction", cluster.cores_per_node) for _ in nodes]
        self._known: dict[int, simpy.Event] = {}

    def _server(self, name: str, slots: int) -> Server:
        return Server(self.env, name, slots)

    def _cpu(self, name: str, slots: int) -> Server:
        """A server that computes: in the laboratory on the cores that all share."""
        return Server(self.env, name, slots, self.machine)

    def run(self, batches: int = 40) -> Outcome:
        """All nodes at once until the last has finished."""
        env = self.env
        done = env.all_of([env.process(self._node(index, batches)) for index in range(self.cluster.nodes)])
        env.run(done)
        total = float(self.batch) * batches * self.cluster.nodes
        return Outcome(total / self.calibration.bytes_per_frame / env.now, total / env.now, self._utilisation())

    def _utilisation(self) -> dict[str, float]:
        kinds: dict[str, list[Server]] = {}
        single = [self.origin] if self.machine is None else [self.origin, self.machine]
        groups = (
            self.ssd,
            self.head_cpu,
            self.head_fill,
            self.head_link,
            self.node_link,
            self.node_cpu,
            self.node_cores,
        )
        for server in [*single, *(server for group in groups for server in group)]:
            kinds.setdefault(server.name, []).append(server)
        return {name: sum(s.utilisation() for s in servers) / len(servers) for name, servers in kinds.items()}

    def _node(self, index: int, batches: int) -> Generator[simpy.Event, Any, None]:
        window = simpy.Resource(self.env, self.window)
        running = []
        for number in range(batches):
            turn = window.request()
            yield turn
            running.append(self.env.process(self._batch(index, number, 1 / batches, window, turn)))
        yield self.env.all_of(running)

    def _batch(
        self, index: int, number: int, share: float, window: simpy.Resource, turn: simpy.resources.resource.Request
    ) -> Generator[simpy.Event, Any, None]:
        cluster, costs = self.cluster, self.calibration
        head, link = index % cluster.heads, cluster.node_link
        beginning = share if cluster.begins else 0.0
        what = self.batch, link, beginning, 1 / min(cluster.sharing, cluster.nodes)
        yield from self._find(index, number, head)
        yield from self.head_cpu[head].serve(costs.head.seconds(*what))
        yield from self.head_link[head].serve(self.batch / (cluster.head_link * costs.payload_share))
        yield from self.node_link[index].serve(self.batch / (link * costs.payload_share))
        yield from self.node_cpu[index].serve(costs.node.seconds(*what))
        yield from self.node_cores[index].serve(costs.other.seconds(*what))
        window.release(turn)
        if cluster.reduces:
            yield from self._reduce(index)

    def _reduce(self, index: int) -> Generator[simpy.Event, Any, None]:
        """The frames of a batch, spread over the cores of the node."""
        cores = self.cluster.cores_per_node
        seconds = self.batch / self.calibration.bytes_per_frame / self.calibration.frames_per_s_per_core / cores
        yield self.env.all_of([self.env.process(self.node_cores[index].serve(seconds)) for _ in range(cores)])

    def _find(self, index: int, number: int, head: int) -> Generator[simpy.Event, Any, None]:
        """Have the batch at the head: from its tiers, or once from the origin for all who share it."""
        group = index // self.cluster.sharing
        key = hash((group, number, head))
        if key in self._known:
            yield self._known[key]
            return
        there = self._known[key] = self.env.event()
        if self.chance.random() < self.cluster.cached:
            yield from self.ssd[head].serve(self.batch / self.cluster.ssd)
        else:
            yield from self.origin.serve(self.batch / self.cluster.origin)
            fill = self.calibration.head.per_filled_gib + self.calibration.other.per_filled_gib
            yield from self.head_fill[head].serve(fill * self.batch / GIB)
        there.succeed()


def simulate(cluster: Cluster, calibration: Calibration, batches: int = 40) -> Outcome:
    """One run of `Simulation`."""
    return Simulation(cluster, calibration).run(batches)


def sweep(base: Cluster, calibration: Calibration, nodes: list[int], batches: int = 24) -> list[Outcome]:
    """The same installation with more and more nodes."""
    few = max(6, batches // 3)  # a large cluster is in equilibrium sooner than it is computed
    return [simulate(replace(base, nodes=n), calibration, batches if n <= 100 else few) for n in nodes]
