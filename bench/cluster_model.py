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


@dataclass(frozen=True)
class Calibration:
    """What was measured, per machine. Seconds are CPU seconds, bytes are compressed frame data."""

    node_cpu_s_per_gib: float
    head_cpu_s_per_gib: float
    frames_per_s_per_core: float
    bytes_per_frame: float
    #: What readers and the kernel's network cost beside the two programs: on a node, its reducing cores pay it.
    other_cpu_s_per_gib: float = 0.0
    #: What the head pays on top for bytes that it has to fetch from the origin and write to its SSD.
    fill_cpu_s_per_gib: float = 0.0
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


@dataclass
class Server:
    """`slots` workers at a queue, who may need one of the cores of `machine` too; remembers how long they were busy."""

    env: simpy.Environment
    name: str
    slots: int
    machine: Server | None = None
    queue: simpy.Resource = field(init=False)
    busy: float = 0.0

    def __post_init__(self) -> None:
        self.queue = simpy.Resource(self.env, self.slots)

    def serve(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """Wait for a worker, then for `seconds`."""
        with self.queue.request() as turn:
            yield turn
            if self.machine is None:
                yield self.env.timeout(seconds)
            else:
                yield from self.machine.serve(seconds)
        self.busy += seconds

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
        self.machine = None if cores is None else Server(self.env, "machine cpu", cores)
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
            running.append(self.env.process(self._batch(index, number, window, turn)))
        yield self.env.all_of(running)

    def _batch(
        self, index: int, number: int, window: simpy.Resource, turn: simpy.resources.resource.Request
    ) -> Generator[simpy.Event, Any, None]:
        cluster, costs = self.cluster, self.calibration
        head, gib = index % cluster.heads, self.batch / GIB
        yield from self._find(index, number, head)
        yield from self.head_cpu[head].serve(costs.head_cpu_s_per_gib * gib)
        yield from self.head_link[head].serve(self.batch / (cluster.head_link * costs.payload_share))
        yield from self.node_link[index].serve(self.batch / (cluster.node_link * costs.payload_share))
        yield from self.node_cpu[index].serve(costs.node_cpu_s_per_gib * gib)
        if costs.other_cpu_s_per_gib:
            yield from self.node_cores[index].serve(costs.other_cpu_s_per_gib * gib)
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
            if self.calibration.fill_cpu_s_per_gib:
                yield from self.head_fill[head].serve(self.calibration.fill_cpu_s_per_gib * self.batch / GIB)
        there.succeed()


def simulate(cluster: Cluster, calibration: Calibration, batches: int = 40) -> Outcome:
    """One run of `Simulation`."""
    return Simulation(cluster, calibration).run(batches)


def sweep(base: Cluster, calibration: Calibration, nodes: list[int], batches: int = 24) -> list[Outcome]:
    """The same installation with more and more nodes."""
    few = max(6, batches // 3)  # a large cluster is in equilibrium sooner than it is computed
    return [simulate(replace(base, nodes=n), calibration, batches if n <= 100 else few) for n in nodes]
