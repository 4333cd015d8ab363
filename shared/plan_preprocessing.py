"""``[preprocessing]``: how a canonical image becomes a network's input.

Promises
- Constants are public or an image's own. There is no way to write one that was fitted on private data.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.plan_section import Extent, Fraction, NonNegative, Positive, Section


class ZScore(Section):
    """Subtract the image's own mean, divide by its own standard deviation, channel by channel."""

    kind: Literal["zscore-per-image"] = "zscore-per-image"


class Window(Section):
    """Map ``[low, high]`` (for CT: Hounsfield units) linearly to [-1, 1] and clip."""

    kind: Literal["window"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if not self.low < self.high:
            raise ValueError("window needs low < high")
        return self


class Percentile(Section):
    """Map the image's own percentiles linearly to [-1, 1] and clip, channel by channel."""

    kind: Literal["percentile"]
    low: Annotated[float, Field(ge=0, lt=100)] = 0.5
    high: Annotated[float, Field(gt=0, le=100)] = 99.5


class LocalContrast(Section):
    """Subtract a Gaussian local mean, divide by a Gaussian local standard deviation (in stored pixels)."""

    kind: Literal["local-contrast"]
    sigma_px: Positive


Intensity = Annotated[ZScore | Window | Percentile | LocalContrast, Field(discriminator="kind")]


class NoCrop(Section):
    """Keep the whole image."""

    kind: Literal["none"] = "none"


class ForegroundCrop(Section):
    """Crop to the bounding box of everything brighter than ``threshold`` of the image's range (a fundus disc)."""

    kind: Literal["foreground"]
    threshold: Fraction = 0.1


class LesionCrop(Section):
    """Crop to the bounding box of the mask, grown on every side by ``margin`` of the box's longer side."""

    kind: Literal["lesion"]
    margin: NonNegative = 0.25


Crop = Annotated[NoCrop | ForegroundCrop | LesionCrop, Field(discriminator="kind")]


class Preprocessing(Section):
    """``[preprocessing]``: one canonical image in, one network input out. Only public or per-image constants."""

    size: Extent
    spacing_mm: Literal["native"] | Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)] = "native"
    fit: Literal["crop-pad", "letterbox", "stretch"] = "crop-pad"
    colour: Literal["grey", "green", "rgb"] = "grey"
    crop: Crop = NoCrop()
    intensity: Intensity = ZScore()

    @model_validator(mode="after")
    def _same_dimensions(self) -> Preprocessing:
        if self.spacing_mm != "native" and len(self.spacing_mm) != len(self.size):
            raise ValueError(f"spacing_mm has {len(self.spacing_mm)} axes but size has {len(self.size)}")
        return self
