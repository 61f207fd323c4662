"""What is reached and what is not follows from the rows of one run; peers without a mount do not count as mounted."""

from __future__ import annotations

from bench.targets import FASTEST, TARGETS, judged, mounted


def row(peer: str, load: str, state: str, **figures: float) -> dict[str, object]:
    return {"peer": peer, "load": load, "state": state, **figures}


def verdicts(rows: list[dict[str, object]]) -> dict[str, list[object]]:
    return {str(line[0]): line[1:] for line in judged(rows)}


def test_the_fastest_mounted_peer_is_the_yardstick() -> None:
    costs = {"node cpu s/GiB": 0.5, "head cpu s/GiB": 0.5}
    cold = [("dadafs", 1000.0), ("sshfs", 200.0), ("sshfs-plain", 500.0), ("samba", 5000.0), ("local", 9000.0)]
    rows = [row(peer, "sequential", "cold", **{"MB/s": speed}, **costs) for peer, speed in cold]
    said = verdicts(rows)
    _, beside, ratio, wanted, verdict = said["cold sequential, times the fastest mounted peer"]
    assert (beside, ratio, wanted, verdict) == ("500 (sshfs-plain)", 2.0, "at least 1.3", "reached")
    assert said["node CPU, core-seconds per GiB"][-1] == "reached"
    assert said["head CPU, core-seconds per GiB"][-1] == "not reached"


def test_less_time_is_better_where_time_is_measured() -> None:
    rows = [
        row(peer, "metadata", "cold", seconds=s) for peer, s in (("dadafs", 0.4), ("sshfs", 1.0), ("glusterfs", 0.9))
    ]
    _, beside, ratio, _, verdict = verdicts(rows)["metadata walk cold, of the fastest peer's time"]
    assert (beside, ratio, verdict) == ("0.9 (glusterfs)", 0.44, "reached")


def test_what_was_not_measured_is_not_reached() -> None:
    assert {line[-1] for line in judged([])} == {"not measured"}
    assert len(judged([])) == len(TARGETS)


def test_who_has_no_mount_or_no_network_is_no_mounted_peer() -> None:
    assert mounted({"peer": "glusterfs"})
    assert not any(mounted({"peer": name}) for name in ("dadafs", "local", "dict", "samba", "nfs-ganesha"))


def test_who_was_cut_off_is_no_yardstick_and_dadafs_cut_off_is_not_measured() -> None:
    rows = [row("sshfs", "chunks", "cold", **{"frames/s": 100.0})]
    cut: dict[str, object] = {"load": "chunks", "state": "cold", "cut": "cut off after 20 s"}
    wish = "HDF5 chunks cold, times the fastest peer"
    said = verdicts([*rows, {"peer": "glusterfs", **cut}, row("dadafs", "chunks", "cold", **{"frames/s": 200.0})])
    assert said[wish][1:] == ["100 (sshfs)", 2.0, "at least 1.5", "reached"]
    assert verdicts([*rows, {"peer": "dadafs", **cut}])[wish][-1] == "not measured"


def test_everything_that_is_wanted_of_the_file_system_has_its_line() -> None:
    wanted = {
        ("sequential", "warm", "local", 0.95),
        ("sequential", "cold", FASTEST, 1.3),
        ("metadata", "cold", FASTEST, 0.5),
        ("small_files", "cold", FASTEST, 3.0),
        ("random_4k_1", "cold", FASTEST, 1.0),
        ("random_4k_8", "cold", FASTEST, 1.0),
        ("chunks", "cold", FASTEST, 1.5),
        ("sequential", "cold", "", 0.6),
        ("sequential", "cold", "", 0.25),
        ("opens", "cold", "dict", 2.0),
    }
    assert {(target.load, target.state, target.yardstick, target.bound) for target in TARGETS} == wanted
