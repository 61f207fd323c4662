"""Reductions of scanning diffraction data: darkfield, centre of mass, radial and azimuthal profiles, orientation.

Conventions everywhere in this package: arrays are in row-major order with axes (y, x), pixels are counted from 0, the
centre of pixel (j, i) is at the coordinate (j, i) itself, `mask` is True where a pixel is invalid, counts are integers
until the last division, lengths carry their unit in their name (`distance_m`, `wavelength_nm`), q is in 1/nm.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`dada.stxm` and its like, imported when first used, so that `dada.kernels` alone stays light."""
    if name in ("stxm", "average", "composite", "recompute"):
        from dada import api

        return getattr(api, name)
    raise AttributeError(f"module 'dada' has no attribute {name!r}")
