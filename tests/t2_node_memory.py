"""P5: the node's resident memory stays below its RAM cache and 96 MiB, with 64 files open and 64 readers at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.checklogs import ExpectedLog
from tests.harness.many_readers import page_of
from tests.harness.processes import DEADLINE, HeadProcess

MIB = 2**20
FILES = 64
FILE_SIZE = 3 * MIB + 4096
BUDGET = 24 * MIB


def test_many_files_and_many_readers(tmp_path: Path, expected_log: ExpectedLog) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(FILES):
        pages = (page_of(number, page) for page in range(FILE_SIZE // 4096))
        (tree / f"{number}.h5").write_bytes(b"".join(pages))
    head = HeadProcess(tmp_path / "head", {"data": tree})
    try:
        argv = [sys.executable, "-m", "tests.harness.many_readers", head.host, str(head.port)]
        argv += [str(BUDGET), str(FILES), "64"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * DEADLINE, check=False)
    finally:
        head.stop()
    assert done.returncode == 0, done.stderr
    resident, used, wrong = map(int, done.stdout.split())
    assert wrong == 0
    assert used <= BUDGET
    assert resident < BUDGET + 96 * MIB
    head.check_log(expected_log)
