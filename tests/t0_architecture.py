"""docs/architecture.md speaks of modules that exist."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
FOLDERS = {"Shared": ".", "Node": "dadafs", "Head": "dadafsd", "Analysis": "analysis/dada"}


@pytest.mark.parametrize("title", FOLDERS)
def test_every_module_that_is_named_exists(title: str) -> None:
    (section,) = re.findall(rf"^## {title}\b.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([\w/]+\.(?:py|c))`", section))
    assert len(named) > 10
    folder = REPOSITORY / FOLDERS[title]
    there = {str(path.relative_to(REPOSITORY)) for kind in ("py", "c") for path in folder.rglob(f"*.{kind}")}
    missing = {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)}
    assert missing == set()
