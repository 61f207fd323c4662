"""Prometheus metrics of a mount, collected when they are asked for; names and units by Prometheus' conventions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dadafs.errors import ExitCode, UserError

#: Counters of the node that are not events of their own but one family with a label.
_READS = ("hit", "miss", "bypass")
_FETCHED = ("memory", "ssd", "origin")
_HELP = {
    "prefetched": "Fragments prefetched",
    "prefetch_used": "Prefetched fragments that were read",
    "late": "Reads that waited for a prefetch in flight",
    "wasted": "Fragments prefetched and evicted unread",
    "prefetch_refused": "Prefetches for which there was no room",
    "wire_bytes": "Bytes received from the head",
    "blocks_unchanged": "Blocks found unchanged by checksum and not sent again",
    "version_changes": "Changes in place of files that were open",
    "read_restarts": "Reads begun again because the file changed under them",
    "checksum_errors": "Blocks that arrived damaged",
    "evicted": "Extents evicted from the RAM cache",
    "requests": "Requests sent to the head",
    "retried_requests": "Requests sent again after a connection was lost",
    "failed_requests": "Requests given up because the head did not answer in time",
    "connects": "Sessions begun",
    "disconnects": "Sessions lost",
    "connect_failures": "Attempts to connect that failed",
    "silent_heads": "Connections given up because the head was silent",
    "pushes": "Change notices received",
    "leases_lost": "Leases taken back by the head",
}


class MountCollector(Collector):
    """Reads the report of a mount; runs in the thread of the HTTP server and only looks."""

    def __init__(self, report: Callable[[], Mapping[str, Any]]) -> None:
        self._report = report

    def describe(self) -> Iterable[Metric]:
        """Nothing: the set of metrics is known when they are collected."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every metric with its present value."""
        report = self._report()
        counters = report["counters"]
        yield from _reads(counters)
        for name, text in _HELP.items():
            if name in counters:
                yield CounterMetricFamily(f"dadafs_{name}", text, value=counters[name])
        sites = CounterMetricFamily("dadafs_eio", "Calls answered with EIO, by site", labels=("site",))
        for site, count in counters["eio_sites"].items():
            sites.add_metric((site,), count)
        yield sites
        yield from _gauges(report)


def _reads(counters: Mapping[str, int]) -> Iterator[Metric]:
    reads = CounterMetricFamily("dadafs_reads", "Reads of the kernel, by how they were answered", labels=("result",))
    sizes = CounterMetricFamily("dadafs_read_bytes", "Bytes given to the kernel", labels=("result",))
    for result in _READS:
        reads.add_metric((result,), counters[result])
        sizes.add_metric((result,), counters[f"{result}_bytes"])
    fetched = CounterMetricFamily("dadafs_fetched", "Replies with data, by the head's tier", labels=("tier",))
    for tier in _FETCHED:
        fetched.add_metric((tier,), counters[f"fetched_{tier}"])
    yield from (reads, sizes, fetched)


def _gauges(report: Mapping[str, Any]) -> Iterator[Metric]:
    cache = report["ram_cache"]
    values = {
        "dadafs_connected": ("Whether there is a session with the head", float(report["session"]["connected"])),
        "dadafs_resident_bytes": ("Resident memory of the mount process", report["rss_bytes"]),
        "dadafs_ram_cache_budget_bytes": ("What the RAM cache may use", cache["budget_bytes"]),
        "dadafs_ram_cache_used_bytes": ("What the RAM cache uses", cache["used_bytes"]),
        "dadafs_open_files": ("Open files", report["open"]["open_files"]),
        "dadafs_known_nodes": (
            "Objects that the kernel remembers",
            report["open"]["nodes"] + report["open"]["listed_nodes"],
        ),
    }
    for name, (text, value) in values.items():
        yield GaugeMetricFamily(name, text, value=value)


class MetricsServer:
    """Serves the metrics of one mount at `address` (HOST:PORT) from a thread of its own."""

    def __init__(self, address: str, report: Callable[[], Mapping[str, Any]]) -> None:
        """Start serving. Raises UserError where the address is wrong or taken."""
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(MountCollector(report))
        try:
            self._server, self._thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
        except ValueError:
            raise UserError(f"metrics={address}: write HOST:PORT.", ExitCode.USAGE) from None
        except OSError as problem:
            raise UserError(f"Cannot serve metrics at {address}: {problem.strerror}.", ExitCode.USAGE) from None

    @property
    def port(self) -> int:
        """The port served."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        if isinstance(self._thread, threading.Thread):
            self._thread.join()
