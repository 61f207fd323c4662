"""The compiled part of the node, loaded so that pyfuse3 finds it; import this before pyfuse3."""

from __future__ import annotations

import os
import sys
from types import ModuleType


def load() -> ModuleType | None:
    """`_dadafs_fuse` with its symbols in the global scope; None where it was not built.

    Raises ImportError where it was, but cannot be loaded.
    """
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_NOW)
    try:
        import _dadafs_fuse
    except ModuleNotFoundError:
        return None
    finally:
        sys.setdlopenflags(flags)
    return _dadafs_fuse  # type: ignore[no-any-return]


fuse_session = load()
