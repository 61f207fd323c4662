"""The dashboard and the alert rules name what a running head and a running mount really export, labels included."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.checklogs import ExpectedLog
from tests.conftest import REPOSITORY, need_fuse
from tests.harness.processes import HeadProcess, LoggedProcess, MountProcess, wait_until

MONITORING = REPOSITORY / "docs" / "monitoring"
#: What Prometheus adds to every sample.
SCRAPED = {"instance", "job"}
#: Words of PromQL that are neither functions nor names of metrics or labels.
KEYWORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}

Labels = dict[str, set[str]]


def scrape(port: int) -> list[tuple[str, dict[str, str]]]:
    """Every sample served at `port`: name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    return [
        (sample.name, dict(sample.labels))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


@contextmanager
def metered_head(directory: Path, tree: Path) -> Iterator[tuple[HeadProcess, int]]:
    """A head with metrics, and their port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = HeadProcess(directory, {"data": tree}, options=("--metrics", f"127.0.0.1:{port}"))
    try:
        yield head, port
    finally:
        head.stop()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labels]:
    """Every sample of a head and of a mount: name, its labels and their values. Both have had some trouble."""
    need_fuse()
    folder = tmp_path_factory.mktemp("monitoring")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("one", "two"):
        (tree / name).write_bytes(b"x" * 3_000_000)
    with metered_head(folder / "head", tree) as (head, port):
        options = ("--metrics", "127.0.0.1:0", "--retry", "1s")
        mount = MountProcess(folder / "mnt", head.address, "data", folder / "mount.log", options=options)
        try:
            (mount.mountpoint / "one").read_bytes()
            wait_until(lambda: any(name == "dadafsd_node_reads_total" for name, _ in scrape(port)), "the mount reports")
            samples = scrape(port)
            head.stop()
            with pytest.raises(OSError):
                (mount.mountpoint / "two").read_bytes()
            samples += scrape(int(mount.wait_for_line(r"metrics at port (\d+)").group(1)))
        finally:
            mount.unmount()
    found: dict[str, Labels] = {}
    for name, labels in samples:
        for label, value in labels.items():
            found.setdefault(name, {}).setdefault(label, set()).add(value)
        found.setdefault(name, {})
    return found


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(targets) > 20
    return targets


def alert_expressions() -> list[str]:
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def names(expression: str) -> Iterator[tuple[str, str]]:
    """The metrics of a PromQL expression with their matchers; everything else must be something that we know."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\[[^]]*\]", "", bare)
    grouped = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", re.sub(r"\{[^}]*\}", "", bare))
    for word in re.findall(r"[A-Za-z_:][\w:]*(?![\w:]*\s*\()", re.sub(r"\b\d[\w.]*", "", grouped)):
        if word not in KEYWORDS:
            matchers = re.search(rf"\b{word}\{{([^}}]*)\}}", expression)
            yield word, matchers[1] if matchers else ""


def check(expression: str, exported: dict[str, Labels]) -> None:
    """Fail where an expression uses a metric, a label or a fixed label value that nobody exports."""
    labels: set[str] = set(SCRAPED)
    found = list(names(expression))
    assert found, f"no metric in {expression}"
    for metric, matchers in found:
        if metric == "up":
            continue
        assert metric in exported, f"{metric} in {expression} is not exported"
        assert metric.startswith(("dadafs_", "dadafsd_"))
        labels |= exported[metric].keys()
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            assert label in exported[metric].keys() | SCRAPED, f"{metric} has no label {label}"
            if operator in {"=", "!="} and label in {"state", "result"}:
                assert value in exported[metric][label], f"{metric} is never {label}={value}"
    for group in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        for label in re.split(r"\s*,\s*", group.strip()):
            assert label in labels, f"nothing in {expression} has the label {label}"


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_the_dashboard_shows_what_is_exported(expression: str, exported: dict[str, Labels]) -> None:
    check(expression, exported)


@pytest.mark.parametrize("expression", alert_expressions())
def test_alerts_watch_what_is_exported(expression: str, exported: dict[str, Labels]) -> None:
    check(expression, exported)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("rate(dadafs_no_such_total[5m])", "is not exported"),
        ('dadafsd_tier_state{state="broken"}', "is never"),
        ('dadafsd_tier_state{disk="a"}', "has no label"),
        ("sum by (mountpoint) (dadafsd_sessions)", "has the label"),
    ],
)
def test_the_check_itself_finds_mistakes(wrong: str, why: str, exported: dict[str, Labels]) -> None:
    with pytest.raises(AssertionError, match=why):
        check(wrong, exported)


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["alert"].startswith("Dadafs")
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}
            assert rule["annotations"].keys() == {"summary", "action"}


def test_variables_of_the_dashboard_are_exported(exported: dict[str, Labels]) -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert queries
    for query in queries:
        metric = re.fullmatch(r"label_values\((\w+), instance\)", query)
        assert metric is not None
        assert metric[1] in exported


def test_names_and_units_are_those_of_prometheus(exported: dict[str, Labels]) -> None:
    """Base units, plural-free suffixes: counters end in _total, times in _seconds, sizes in _bytes."""
    for name in exported:
        assert re.fullmatch(r"dadafsd?_[a-z0-9_]+", name), name
        assert not re.search(r"_(ms|us|kb|mb|mib|kib|percent)(_|$)", name), name
    for histogram in ("dadafsd_read_seconds", "dadafs_fetch_seconds"):
        assert {f"{histogram}_bucket", f"{histogram}_sum", f"{histogram}_count"} <= exported.keys()
        assert "+Inf" in exported[f"{histogram}_bucket"]["le"]


def test_one_process_serves_the_metrics_of_all_mounts(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x" * 100_000)
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mounts = [MountProcess(tmp_path / name, head.address, "data", tmp_path / f"{name}.log") for name in ("a", "b")]
    command = [*mounts[0].argv[:3], "metrics", "--listen", "127.0.0.1:0"]
    exporter = LoggedProcess(command, tmp_path / "exporter.log")
    try:
        port = int(exporter.wait_for_line(r"^metrics at port (\d+)$").group(1))
        (tmp_path / "a" / "file").read_bytes()
        read = {
            labels["mountpoint"]: labels for name, labels in scrape(port) if name == "dadafs_reads_total"
        }  # of other mounts on this machine, too
        assert {str(tmp_path / "a"), str(tmp_path / "b")} <= read.keys()
        assert read[str(tmp_path / "a")]["export"] == "data"
        assert exporter.stop() == 0
    finally:
        exporter.kill()
        for mount in mounts:
            mount.unmount()
        head.stop()
    exporter.check_log(expected_log)
