"""The wheel and what it needs, installed on a machine that has neither, do the whole job: head, mount, maps."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need_fuse
from tests.harness.clean_machine import CleanMachine

_INSTALL = """
{python} -m venv {work}/installed
{work}/installed/bin/pip install --quiet --no-compile --no-index --find-links {work}/wheels dadafs
"""

_JOB = """
PATH={work}/installed/bin:$PATH
export PATH
cd {work}
test ! -e {repository} || test {isolated} = False
python -c 'import dadafs, dadafsd, dada, _dada_kernels, _dadafs_fuse, _dadafsd_opening; print("from", dadafs.__file__)'
dada simulate --quiet --shape 3x4 --detector 256x256 tree
mkdir mnt
dadafsd --export data=tree --listen 127.0.0.1:0 --cache-dir cache --cache-size 64MiB \\
    --admin-socket admin.sock >head.log 2>&1 &
head=$!
trap 'dadafs umount --lazy mnt 2>/dev/null; kill $head 2>/dev/null; cat head.log' EXIT
while ! grep -q '^ready on ' head.log; do
    kill -0 $head
    sleep 0.05
done
address=$(sed -n 's/^ready on //p' head.log)
dadafs mount "$address:/data" mnt
master=$(cd tree && ls *master.h5)
cmp "tree/$master" "mnt/$master"
dada stxm "mnt/$master" --shape 3x4 -o maps.h5
test -s maps.h5
dadafsctl --socket admin.sock status
dadafs status mnt --json | grep -q '"connected": true'
dadafs umount mnt
kill $head
wait $head
trap - EXIT
for page in man1/dadafs.1 man1/dada.1 man5/dadafsd.toml.5 man8/mount.dadafs.8 man8/dadafsd.8 man8/dadafsctl.8; do
    test -s installed/share/man/$page
done
test -s installed/share/bash-completion/completions/dadafsctl
test -s installed/share/zsh/site-functions/_dadafsctl
test -s installed/share/dadafs/systemd/dadafsd.service
test -s installed/share/dadafs/systemd/dadafs.sysusers.conf
test -s installed/share/dadafs/monitoring/dashboard.json
test -x installed/bin/mount.dadafs
echo the whole job is done
"""


def build(folder: Path) -> None:
    """Put our wheel and those of all it needs, in the versions that are tested here, into `folder`."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "-w", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}

    def call(*arguments: str) -> None:
        done = subprocess.run([*pip, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    call(
        "--no-deps",
        "--no-build-isolation",
        "--config-settings",
        f"build-dir={folder.parent / 'build'}",
        str(REPOSITORY),
    )
    constraints = folder.parent / "constraints"
    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    installed.pop("dadafs", None)
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
    (wheel,) = folder.glob("dadafs-*.whl")
    call("-c", str(constraints), str(wheel))


@pytest.mark.slow
def test_the_wheel_does_the_whole_job_on_a_clean_machine(tmp_path: Path) -> None:
    need_fuse()
    (tmp_path / "wheels").mkdir()
    build(tmp_path / "wheels")
    machine = CleanMachine(tmp_path)
    script = (_INSTALL + _JOB).format(
        work=machine.work, python=machine.python(), repository=REPOSITORY, isolated=machine.isolated
    )
    said = machine.run(script, timeout=600)
    assert "the whole job is done" in said
    assert f"from {machine.work}/installed/" in said
