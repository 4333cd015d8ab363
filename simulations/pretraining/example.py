"""What a generator gives: an image as a file would hold it, and everything that is known about it.

Promises
- An example is a function of a seed and an index; nothing of a patient is in it.
- Voxels run from 0 to 255 in whole numbers, as those of an 8-bit file, so that the plan's preprocessing meets what it
  will meet at a site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.preprocessing.image import Image, MaskArray, Modality


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A made-up image.

    Attributes:
        image: (1, H, W), grey values 0 to 255.
        mask: (H, W), 1 where the structure of interest is.
        findings: a 0 or 1 for each name that the generator lists; empty where it lists none.
    """

    image: Image
    mask: MaskArray
    findings: tuple[int, ...] = ()


Generate = Callable[[int, int], Example]
"""(seed, index) -> an example."""


def eight_bit(grey: NDArray[np.floating], modality: Modality) -> Image:
    """Grey values (H, W), 0 to 1, as an 8-bit file holds them: clipped and rounded."""
    voxels = np.rint(np.clip(grey, 0, 1) * 255).astype(np.float32)[None]
    return Image(voxels, (1.0, 1.0), modality, spacing_known=False)
