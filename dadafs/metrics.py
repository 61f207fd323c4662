"""Prometheus metrics of mounts, collected when they are asked for; names and units by Prometheus' conventions.

A mount serves its own (`-o metrics=HOST:PORT`); `dadafs metrics` serves those of all mounts of the machine at one
port, without touching them. All are labelled with the mountpoint and the export.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dadafs import __version__
from dadafs.errors import ExitCode, UserError
from dadafs.mount_table import FSTYPE, mounts
from dadafs.status_socket import ask

Report = Mapping[str, Any]
#: Makes the reports of the mounts that there are now.
Reports = Callable[[], Sequence[Report]]

_MOUNT = ("mountpoint", "export")
#: Counters of the node that are not events of their own but one family with a label.
_READS = ("hit", "miss", "bypass")
_FETCHED = ("memory", "ssd", "origin")
_COUNTERS = {
    "prefetched": ("dadafs_prefetched", "Fragments prefetched"),
    "prefetch_used": ("dadafs_prefetch_used", "Prefetched fragments that were read"),
    "late": ("dadafs_late", "Reads that waited for a prefetch in flight"),
    "wasted": ("dadafs_wasted", "Fragments prefetched and evicted unread"),
    "hot_reads": ("dadafs_hot_reads", "Small reads that the compiled part answered by itself"),
    "prefetch_refused": ("dadafs_prefetch_refused", "Prefetches for which there was no room"),
    "wire_bytes": ("dadafs_wire_bytes", "Bytes received from the head"),
    "blocks_unchanged": ("dadafs_blocks_unchanged", "Blocks found unchanged by checksum and not sent again"),
    "version_changes": ("dadafs_version_changes", "Changes in place of files that were open"),
    "read_restarts": ("dadafs_read_restarts", "Reads begun again because the file changed under them"),
    "checksum_errors": ("dadafs_checksum_errors", "Blocks that arrived damaged"),
    "evicted": ("dadafs_evicted", "Extents evicted from the RAM cache"),
    "requests": ("dadafs_requests", "Requests sent to the head"),
    "retried_requests": ("dadafs_retried_requests", "Requests sent again after a connection was lost"),
    "failed_requests": ("dadafs_failed_requests", "Requests given up because the head did not answer in time"),
    "connects": ("dadafs_connects", "Sessions begun"),
    "disconnects": ("dadafs_disconnects", "Sessions lost"),
    "connect_failures": ("dadafs_connect_failures", "Attempts to connect that failed"),
    "silent_heads": ("dadafs_silent_heads", "Connections given up because the head was silent"),
    "pushes": ("dadafs_pushes", "Change notices received"),
    "leases_lost": ("dadafs_leases_lost", "Leases taken back by the head"),
}
_GAUGES: dict[str, tuple[str, Callable[[Report], float]]] = {
    "dadafs_connected": ("Whether there is a session with the head", lambda r: float(r["session"]["connected"])),
    "dadafs_uptime_seconds": ("How long the mount process has run", lambda r: r["uptime_s"]),
    "dadafs_resident_memory_bytes": ("Resident memory of the mount process", lambda r: r["rss_bytes"]),
    "dadafs_ram_cache_budget_bytes": ("What the RAM cache may use", lambda r: r["ram_cache"]["budget_bytes"]),
    "dadafs_ram_cache_used_bytes": ("What the RAM cache uses", lambda r: r["ram_cache"]["used_bytes"]),
    "dadafs_ram_cache_ready_bytes": ("Memory that it has at hand", lambda r: r["ram_cache"]["ready_bytes"]),
    "dadafs_open_files": ("Open files", lambda r: r["open"]["open_files"]),
    "dadafs_known_nodes": (
        "Objects that the kernel remembers",
        lambda r: r["open"]["nodes"] + r["open"]["listed_nodes"],
    ),
}


class MountCollector(Collector):
    """Reads the reports of mounts; runs in the thread of the HTTP server and only looks."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def describe(self) -> Iterable[Metric]:
        """Nothing: the set of metrics is known when they are collected."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every metric with its present value; what a mount of an older version does not count is 0."""
        reports = {(report["mountpoint"], report["export"]): report for report in self._reports()}
        yield _build_info()
        yield from _reads(reports)
        yield from _counted(reports)
        yield _waited(reports)
        for name, (text, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=_MOUNT)
            for labels, report in reports.items():
                gauge.add_metric(labels, value(report))
            yield gauge


_Labelled = Mapping[tuple[str, str], Report]


def _build_info() -> Metric:
    info = GaugeMetricFamily("dadafs_build_info", "1; the label is the version", labels=("version",))
    info.add_metric((__version__,), 1)
    return info


def _reads(reports: _Labelled) -> Iterator[Metric]:
    reads = CounterMetricFamily("dadafs_reads", "Kernel reads, by how they were answered", labels=(*_MOUNT, "result"))
    sizes = CounterMetricFamily("dadafs_read_bytes", "Bytes given to the kernel", labels=(*_MOUNT, "result"))
    fetched = CounterMetricFamily("dadafs_fetched", "Replies with data, by the head's tier", labels=(*_MOUNT, "tier"))
    for labels, report in reports.items():
        counters = report["counters"]
        for result in _READS:
            reads.add_metric((*labels, result), counters.get(result, 0))
            sizes.add_metric((*labels, result), counters.get(f"{result}_bytes", 0))
        for tier in _FETCHED:
            fetched.add_metric((*labels, tier), counters.get(f"fetched_{tier}", 0))
    yield from (reads, sizes, fetched)


def _counted(reports: _Labelled) -> Iterator[Metric]:
    for counter, (name, text) in _COUNTERS.items():
        metric = CounterMetricFamily(name, text, labels=_MOUNT)
        for labels, report in reports.items():
            metric.add_metric(labels, report["counters"].get(counter, 0))
        yield metric
    sites = CounterMetricFamily("dadafs_eio", "Calls answered with EIO, by site", labels=(*_MOUNT, "site"))
    for labels, report in reports.items():
        for site, count in report["counters"]["eio_sites"].items():
            sites.add_metric((*labels, site), count)
    yield sites


def _waited(reports: _Labelled) -> Metric:
    waited = HistogramMetricFamily(
        "dadafs_fetch_seconds", "Time from asking the head for data until it was here", labels=(*_MOUNT, "tier")
    )
    for labels, report in reports.items():
        for tier, histogram in report.get("fetch_seconds", {}).items():
            waited.add_metric((*labels, tier), list(histogram["buckets"].items()), histogram["sum"])
    return waited


def all_mounts() -> list[Report]:
    """The reports of all mounts of this machine whose process answers; what does not answer within 2 s is left out."""
    reports: list[Report] = []
    for mount in mounts():
        if mount.fstype == FSTYPE:
            try:
                reports.append(ask(mount.device, patience=2.0))
            except UserError:
                continue
    return reports


class MetricsServer:
    """Serves the metrics of mounts at `address` (HOST:PORT) from a thread of its own."""

    def __init__(self, address: str, reports: Reports) -> None:
        """Start serving. Raises UserError where the address is wrong or taken."""
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(MountCollector(reports))
        try:
            self._server, self._thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
        except ValueError:
            raise UserError(f"{address!r} is no address for metrics; write HOST:PORT.", ExitCode.USAGE) from None
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
