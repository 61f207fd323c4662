"""docs/error-sites.md lists exactly the sites that the code has."""

from __future__ import annotations

import re

from dadafsd.sites import Site
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "error-sites.md").read_text()


def test_the_sites_of_the_node() -> None:
    source = (REPOSITORY / "dadafs" / "fuse_adapter.py").read_text()
    handlers = dict(re.findall(r'@guarded\("(N\d+)"\)\s+async def (\w+)\(', source))
    assert handlers == dict(re.findall(r"^\| (N\d+) \| (\w+) \|", PAGE, re.MULTILINE))
    assert len(handlers) == source.count("@guarded("), "a number stands for one handler"


def test_the_sites_of_the_head() -> None:
    assert {site.value for site in Site} - {0} == set(map(int, re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)))
