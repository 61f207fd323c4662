"""What can be said on the command line can be said in Python under the same name."""

from __future__ import annotations

import inspect
import re

import click
import pytest

import dada
from dada import api
from dada.cli import dada as command_line

#: Only for people at a terminal; `store=False` is --no-store.
ON_THE_COMMAND_LINE = {"help", "json", "quiet", "no_store"}


def words_of(command: click.Command) -> set[str]:
    names = {parameter.opts[0] if len(parameter.opts) == 1 else max(parameter.opts, key=len)
             for parameter in command.params}  # fmt: skip
    return {name.lstrip("-").replace("-", "_") for name in names} - ON_THE_COMMAND_LINE


def words_in_python(function: object) -> set[str]:
    assert callable(function)
    words: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            match = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
            assert match, parameter
            words |= set(getattr(api, match[1]).__annotations__)
        else:
            words.add(name)
    return words


@pytest.mark.parametrize("name", ["stxm", "average", "composite", "recompute"])
def test_analyses(name: str) -> None:
    assert words_of(command_line.commands[name]) - words_in_python(getattr(dada, name)) == set()


@pytest.mark.parametrize("name", ["list", "show", "export", "prune"])
def test_the_results_store(name: str) -> None:
    group = command_line.commands["results"]
    assert isinstance(group, click.Group)
    import dada.results

    assert words_of(group.commands[name]) - words_in_python(getattr(dada.results, name)) == set()
