"""A few seconds of fuzzing under sanitizers; see tests/fuzz/README.md."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import in_ci

HERE = Path(__file__).parent / "fuzz"


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    if not shutil.which("cc") and not in_ci():
        pytest.skip("no C compiler")
    build = subprocess.run(["sh", HERE / "build.sh", folder], capture_output=True, text=True, timeout=300, check=False)
    if build.returncode and "asan" in build.stderr and not in_ci():
        pytest.skip("the C compiler has no sanitizers")
    assert build.returncode == 0, build.stderr
    return folder / "fuzz_chunk"


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_chunks_are_errors_and_sound_ones_are_right(fuzzer: Path, seed: int) -> None:
    done = subprocess.run([fuzzer, "2", str(seed)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "chunks" in done.stdout
