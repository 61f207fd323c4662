"""The results store: what was computed once is never computed again (see `store.py` for the interface)."""
