"""Prometheus metrics of a head, collected when they are asked for; names and units by the conventions of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dadafs import __version__
from dadafs.errors import ExitCode, UserError
from dadafs.histogram import Histogram
from dadafsd.sites import Site
from dadafsd.tier_counts import RESULTS, tier_rows

if TYPE_CHECKING:
    from dadafsd.head import Head

_TIER_GAUGES = {
    "size": ("dadafsd_tier_size_bytes", "How much the tier may hold"),
    "used": ("dadafsd_tier_used_bytes", "What the tier holds"),
    "free": ("dadafsd_tier_filesystem_free_bytes", "Free space of the file system below the tier"),
    "fragments": ("dadafsd_tier_fragments", "Fragments in the tier"),
}
_TIER_COUNTERS = ("hits", "misses", "bypassed", "damaged", "inserted", "evicted", "evicted_unread", "errors")
#: What nodes report with their keepalives: how they answered reads, and events.
_NODE = ("node", "export")
_NODE_READS = ("hit", "miss", "bypass")
_NODE_EVENTS = ("late", "wasted", "prefetched", "checksum_errors", "failed_requests")
_STATES = ("normal", "unstable", "down")


class HeadCollector(Collector):
    """Reads the head's counters; runs in the thread of the HTTP server and only looks."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def collect(self) -> Iterable[Metric]:
        """Every metric with its present value."""
        yield _build_info()
        yield from self._served()
        yield from self._nodes()
        yield from self._events()
        yield from self._exports()
        yield from self._memory()
        yield from self._tiers()
        yield from self._latency()

    def describe(self) -> Iterable[Metric]:
        """Nothing: the set of metrics is known when they are collected."""
        return []

    def _served(self) -> Iterator[Metric]:
        reads = CounterMetricFamily("dadafsd_reads", "Reads answered", labels=("export", "node", "tier"))
        sizes = CounterMetricFamily("dadafsd_read_bytes", "Bytes sent for reads", labels=("export", "node", "tier"))
        for labels, tally in list(self._head.counters.served.items()):
            reads.add_metric(labels, tally.reads)
            sizes.add_metric(labels, tally.bytes)
        yield reads
        yield sizes

    def _nodes(self) -> Iterator[Metric]:
        """What the nodes say of themselves, by node and export; a node that is away is left out."""
        told: dict[tuple[str, str], Counter[str]] = {}
        for session in self._head.sessions.all():
            mount = told.setdefault((session.node, session.exported.name), Counter())
            mount.update({name: value for name, value in session.report.items() if isinstance(value, int)})
        reads = CounterMetricFamily("dadafsd_node_reads", "Reads on nodes, as they tell", labels=(*_NODE, "result"))
        sizes = CounterMetricFamily("dadafsd_node_read_bytes", "Bytes read on nodes", labels=(*_NODE, "result"))
        wire = CounterMetricFamily("dadafsd_node_wire_bytes", "Bytes that nodes received", labels=_NODE)
        events = CounterMetricFamily("dadafsd_node_events", "What else nodes count", labels=(*_NODE, "event"))
        for labels, counts in sorted(told.items()):
            wire.add_metric(labels, counts["wire_bytes"])
            for result in _NODE_READS:
                reads.add_metric((*labels, result), counts[result])
                sizes.add_metric((*labels, result), counts[f"{result}_bytes"])
            for event in _NODE_EVENTS:
                events.add_metric((*labels, event), counts[event])
        yield from (reads, sizes, wire, events)

    def _events(self) -> Iterator[Metric]:
        counters = self._head.counters
        requests = CounterMetricFamily("dadafsd_requests", "Requests received", labels=("export", "request"))
        for (export, kind), count in list(counters.requests.items()):
            requests.add_metric((export, kind), count)
        yield requests
        events = CounterMetricFamily(
            "dadafsd_events", "Events out of the ordinary (docs/admin-socket.md)", labels=("event",)
        )
        for event, count in list(counters.events.items()):
            events.add_metric((event,), count)
        yield events
        failures = CounterMetricFamily(
            "dadafsd_failures", "Requests that failed, by error site", labels=("site", "name")
        )
        counts = self._head.service.errors.counts
        for site in Site:  # those that never failed too: a rate needs a sample before the first failure
            if site is not Site.NONE:
                failures.add_metric((str(int(site)), site.name.lower()), counts[site])
        yield failures
        yield GaugeMetricFamily("dadafsd_sessions", "Open sessions", value=len(self._head.sessions))
        yield GaugeMetricFamily("dadafsd_start_time_seconds", "When this head started", value=self._head.started_at)

    def _exports(self) -> Iterator[Metric]:
        exports = list(self._head.exports.values())
        yield _gauge("dadafsd_open_files", "Files held open", "export", {e.name: len(e.files) for e in exports})
        yield _gauge("dadafsd_origin_calls", "Calls into the origin", "export", {e.name: e.pool.busy for e in exports})
        yield _gauge(
            "dadafsd_origin_calls_stuck",
            "Calls that the origin has not answered within their deadline",
            "export",
            {e.name: e.pool.stuck for e in exports},
        )
        origin = {what: _counter(f"dadafsd_origin_{what}", help_text, "export") for what, help_text in _ORIGIN.items()}
        for what, metric in origin.items():
            for export in exports:
                metric.add_metric((export.name,), self._head.counters.origin[export.name, what])
        yield from origin.values()

    def _memory(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("dadafsd_memory_used_bytes", "Fragments in memory", value=self._head.memory.weight)
        yield GaugeMetricFamily(
            "dadafsd_memory_limit_bytes", "Fragments in memory at most", value=self._head.memory.limit
        )
        if self._head.store is not None:
            queued = self._head.store.writes.queued
            yield GaugeMetricFamily("dadafsd_write_queue_bytes", "Fragments waiting for the disk", value=queued)

    def _tiers(self) -> Iterator[Metric]:
        if self._head.store is None:
            return
        tiers = self._head.store.store.status()
        for attribute, (name, help_text) in _TIER_GAUGES.items():
            yield _gauge(name, help_text, "tier", {tier.name: getattr(tier, attribute) for tier in tiers})
        state = GaugeMetricFamily("dadafsd_tier_state", "1 for the state the tier is in", labels=("tier", "state"))
        for tier in tiers:
            for one in _STATES:
                state.add_metric((tier.name, one), float(tier.state == one))
        yield state
        yield self._tier_reads()
        for attribute in _TIER_COUNTERS:
            metric = _counter(f"dadafsd_tier_{attribute}", f"Fragments of the tier: {attribute}", "tier")
            for tier in tiers:
                metric.add_metric((tier.name,), getattr(tier.counts, attribute))
            yield metric

    def _tier_reads(self) -> Metric:
        metric = CounterMetricFamily(
            "dadafsd_tier_reads", "Reads by what the tier did for them", labels=("export", "tier", "result")
        )
        for row in tier_rows(self._head.counters, self._head.store, list(self._head.exports)):
            for result in RESULTS:
                count = row[result]
                if count is not None:
                    metric.add_metric((row["export"], row["tier"], result), count)
        return metric

    def _latency(self) -> Iterator[Metric]:
        metric = HistogramMetricFamily(
            "dadafsd_read_seconds", "Time until a read that had to wait could be answered", labels=("tier",)
        )
        for tier, histogram in list(self._head.counters.waited.items()):
            metric.add_metric((tier,), *_buckets(histogram))
        yield metric


def _build_info() -> Metric:
    info = GaugeMetricFamily("dadafsd_build_info", "1; the label is the version", labels=("version",))
    info.add_metric((__version__,), 1)
    return info


_ORIGIN = {"reads": "Reads of the origin", "bytes": "Bytes read from the origin", "polls": "Looks for changes"}


def _gauge(name: str, help_text: str, label: str, values: dict[str, Any]) -> GaugeMetricFamily:
    metric = GaugeMetricFamily(name, help_text, labels=(label,))
    for key, value in values.items():
        metric.add_metric((key,), value)
    return metric


def _counter(name: str, help_text: str, label: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, help_text, labels=(label,))


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    return [(text, count) for text, count in histogram.cumulative()], histogram.total


def start(head: Head, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics from a thread; returns what stops it. Raises UserError where it cannot listen."""
    registry = CollectorRegistry()
    registry.register(HeadCollector(head))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UserError(f"Cannot serve metrics on {host}:{port}: {error.strerror}.", ExitCode.FAILED) from None
    return lambda: _stop(server, thread)


def _stop(server: Any, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(5)
