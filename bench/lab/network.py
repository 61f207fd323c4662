"""A head and up to some hundred nodes as network namespaces on one machine, each link as fast as wanted.

One node: a veth pair. Several: one veth pair each, their head ends joined by a bridge that carries the
head's address. Only the network is separate: processes are started with `nsenter --net`, so that a mount
made on a "node" is visible to the measuring program as well.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator

PREFIX = "dadabench"
NAMESPACES = "/run/netns"
HEAD_ADDRESS = "10.77.0.1"
#: Token bucket of a shaped link: two milliseconds at 1 Gbit/s, several full GSO packets.
BURST = "256kb"
LATENCY = "50ms"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _inside(namespace: str, *command: str) -> None:
    """Run `command` in `namespace`; not with `ip -n`, which also wants / to be a mount point (a chroot has none)."""
    _run(["nsenter", f"--net={NAMESPACES}/{namespace}", "--", *command])


def remove_left_over() -> list[str]:
    """Delete the namespaces of runs that were killed; the names that went."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    gone = []
    for name, pid in re.findall(rf"^({PREFIX}-(\d+)-\S+)", listed, re.MULTILINE):
        if not os.path.exists(f"/proc/{pid}"):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
            gone.append(name)
    return gone


def node_address(node: int) -> str:
    """The address of node `node` (0, 1, ...)."""
    return f"10.77.{1 + node // 250}.{1 + node % 250}"


class Network:
    """The namespaces of one run. `rate` is what `tc` understands (`1gbit`); None: links are not shaped."""

    def __init__(self, nodes: int = 1, rate: str | None = None) -> None:
        self.nodes = nodes
        self.rate = rate
        self.head = f"{PREFIX}-{os.getpid()}-head"
        self.node_names = [f"{PREFIX}-{os.getpid()}-node{node}" for node in range(nodes)]

    def open(self) -> None:
        """Make everything; on failure nothing is left."""
        remove_left_over()
        try:
            self._make_head()
            for node in range(self.nodes):
                self._make_node(node)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete the namespaces, and with them every interface in them."""
        for name in [*self.node_names, self.head]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    @property
    def _bridged(self) -> bool:
        return self.nodes > 1

    def _make_head(self) -> None:
        _run(["ip", "netns", "add", self.head])
        _inside(self.head, "ip", "link", "set", "lo", "up")
        if self._bridged:
            _inside(self.head, "ip", "link", "add", "bridge0", "type", "bridge")
            _inside(self.head, "ip", "address", "add", f"{HEAD_ADDRESS}/16", "dev", "bridge0")
            _inside(self.head, "ip", "link", "set", "bridge0", "up")

    def _make_node(self, node: int) -> None:
        name, port = self.node_names[node], f"port{node}"
        _run(["ip", "netns", "add", name])
        _inside(name, "ip", "link", "set", "lo", "up")
        _inside(name, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self.head)
        _inside(name, "ip", "address", "add", f"{node_address(node)}/16", "dev", "eth0")
        if self._bridged:
            _inside(self.head, "ip", "link", "set", port, "master", "bridge0")
        else:
            _inside(self.head, "ip", "address", "add", f"{HEAD_ADDRESS}/16", "dev", port)
        _inside(self.head, "ip", "link", "set", port, "up")
        _inside(name, "ip", "link", "set", "eth0", "up")
        if self.rate:
            self._shape(self.head, port)
            self._shape(name, "eth0")

    def _shape(self, namespace: str, interface: str) -> None:
        bucket = ["rate", str(self.rate), "burst", BURST, "latency", LATENCY]
        _inside(namespace, "tc", "qdisc", "add", "dev", interface, "root", "tbf", *bucket)


@contextlib.contextmanager
def network(nodes: int = 1, rate: str | None = None) -> Iterator[Network]:
    """A `Network` for the length of a `with` block."""
    net = Network(nodes, rate)
    net.open()
    try:
        yield net
    finally:
        net.close()
