"""Fault: two heads are given one cache directory. The second says so in a sentence; a killed one leaves no lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dadafs.errors import ExitCode, UserError
from dadafsd.store import FragmentStore, TierSettings
from tests.harness.fragments import MIB

HOLD = """
import sys, time
from pathlib import Path
from dadafsd.store import FragmentStore, TierSettings
store = FragmentStore.open([TierSettings(Path(sys.argv[1]), 16 * 2**20)])
print("open", flush=True)
sys.stdin.read()
"""


def test_the_second_head_is_refused_and_a_killed_one_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = TierSettings(tmp_path / "cache", 16 * MIB)
    argv = [sys.executable, "-c", HOLD, str(settings.directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"open\n"
            with pytest.raises(UserError, match=f"another running dadafsd \\(process {other.pid}\\)") as caught:
                FragmentStore.open([settings])
            assert caught.value.exit_code == ExitCode.CACHE
        finally:
            other.kill()
            other.wait()
    FragmentStore.open([settings]).close()
