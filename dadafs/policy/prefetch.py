"""Prefetch decisions for one kernel handle: streams, windows, strides (sans-IO)."""

from __future__ import annotations


class Streams:
    """What one kernel handle reads, as a few streams."""
