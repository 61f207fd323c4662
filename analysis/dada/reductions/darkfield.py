"""Darkfield: how much is scattered at each point, over the whole detector and in regions of it.

With I the counts of a frame and M its valid pixels (Göttingen's nanodiffraction toolbox, `stxm`):

    itot = sum over M of I                       counts
    roi  = sum over M and the region of I        counts, beside it n = number of valid pixels of the region
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dada.kernels import FrameSums
from dada.mask import annulus
from dada.reductions.protocol import Quantity, Reduction, Setup, Tables, sound


class Darkfield(Reduction):
    """itot (counts), imax (largest count), and how many pixels of each frame are valid and how many saturated."""

    name = "darkfield"

    def prepare(self, setup: Setup) -> Tables:
        return Tables()

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        seen = part.ok & (part.n_valid > 0)
        imax = np.where(seen, part.maximum, np.nan)
        return {
            "itot": Quantity(sound(part, part.total), "counts", "Sum of all valid pixels (darkfield)"),
            "imax": Quantity(imax, "counts", "Largest valid count"),
            "n_valid": Quantity(sound(part, part.n_valid), "pixels", "Valid pixels"),
            "n_saturated": Quantity(sound(part, part.n_value_invalid), "pixels", "Unmasked pixels at or above the cut"),
        }


class Regions(Reduction):
    """Sums over regions of the detector: `rings` by (low, high] in q or pixels, and masks of any form.

    rings: limits by name, in 1/nm where `unit` is "q", in pixels from the beam where it is "px".
    masks: (ny, nx) bool by name, True = in the region. Regions may overlap.
    """

    name = "regions"

    def __init__(
        self,
        rings: Mapping[str, tuple[float, float]] | None = None,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
        unit: str = "q",
    ) -> None:
        self.rings = dict(rings or {})
        self.masks = dict(masks or {})
        self.unit = unit

    def prepare(self, setup: Setup) -> Tables:
        rois = dict(self.masks)
        if self.rings:
            geometry = setup.need_geometry("a ring")
            radius = geometry.q() if self.unit == "q" else geometry.radius_px()
            rois = {name: annulus(radius, *limits) for name, limits in self.rings.items()} | rois
        self._names = list(rois)
        return Tables(rois=rois)

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        found = {}
        for i, name in enumerate(self._names):
            found[name] = Quantity(sound(part, part.rois[:, i]), "counts", f"Sum of the region {name}")
            valid = sound(part, part.roi_counts[:, i])
            found[f"{name}_n"] = Quantity(valid, "pixels", f"Valid pixels of the region {name}")
        return found
