"""The results store: what was computed once is never computed again (see `store.py` for the interface).

`dada.results.list`, `.show`, `.export` and `.prune` do what `dada results` does.
"""

_COMMANDS = {"list": "list_runs", "show": "show", "export": "export", "prune": "prune"}


def __getattr__(name: str) -> object:
    if name in _COMMANDS:
        from dada import api_results

        return getattr(api_results, _COMMANDS[name])
    raise AttributeError(f"module 'dada.results' has no attribute {name!r}")
