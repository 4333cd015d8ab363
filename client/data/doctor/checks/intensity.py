"""Do the voxels hold what an image of this modality holds?

====================  ========  ======================================================================================
code                  severity  found where
====================  ========  ======================================================================================
image-constant        error     all voxels have one value
image-two-values      warning   voxels have two values: a mask in the place of an image
ct-eight-bit          error     a CT holds whole numbers from 0 to 255: a picture of one, not Hounsfield units
ct-not-hounsfield     error     a CT holds nothing below 0, or spans less than 50: its rescale was lost or undone
ct-range              warning   a CT reaches below -4096 or above 32767 HU: padding, or a wrong slope
ct-clipped            warning   a CT was cut to a window: many voxels at its lowest value, which is above -900 HU
image-saturated       warning   more than 5 % of the voxels have the highest value, and far more than usual
image-inverted        warning   dark and bright are exchanged against the other images of its kind
====================  ========  ======================================================================================

A CT from padding to padding goes from -3024 to 30710 HU at most (padding values of common scanners; extended scale).

Inverted is judged by two witnesses that must agree. The mean lies where in the range of the values the mirror image of
the usual mean would. And the thumbnail is the negative of the usual one; or, where images of a kind have little in
common (a median correlation with the median thumbnail below ``_IN_COMMON``), the centre is darker than the frame around
it where it usually is brighter, or the reverse. Among fewer than ``_ENOUGH`` images nobody can tell what is usual.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from client.data.doctor.cases import Cases, Flags, Places
from client.data.doctor.findings import Finding
from client.data.doctor.measure import MANY_VALUES

_NARROW_HU, _WIDE_LOW_HU, _WIDE_HIGH_HU, _AIR_HU = 50.0, -4096.0, 32767.0, -900.0
_CLIPPED_SHARE = 0.02
_SATURATED_SHARE = 0.05
_FAR_MORE = 5.0
_ENOUGH = 8
_SAMPLE = 2048
_IN_COMMON = 0.4
_NEGATIVE = -0.4


def contrast(cases: Cases) -> Iterator[Finding]:
    """Images without any contrast, or with no more than a mask has."""
    constant = cases.column("low") == cases.column("high")
    if constant.any():
        yield Finding(
            "image-constant",
            "error",
            cases.named(constant),
            f"images that have one and the same value everywhere: {constant.sum()} of {len(cases)}",
            "exclude them, and ask why they were exported",
        )
    binary = cases.column("values") == 2
    if binary.any():
        yield Finding(
            "image-two-values",
            "warning",
            cases.named(binary),
            f"images of only two different values: {binary.sum()} of {len(cases)}",
            "check that masks were not taken for images",
        )


def hounsfield(cases: Cases) -> Iterator[Finding]:
    """CT whose values are not, or cannot be, Hounsfield units."""
    low, high = cases.column("low"), cases.column("high")
    ct = cases.flags("modality", (modality == "ct" for modality in cases.modalities)) & (low < high)
    eight = ct & (low >= 0) & (high <= 255) & (cases.column("values") < MANY_VALUES)
    other = ct & ~eight & ((low >= 0) | (high - low < _NARROW_HU))
    wide = ct & ((low < _WIDE_LOW_HU) | (high > _WIDE_HIGH_HU))
    clipped = ct & (low > _AIR_HU) & (cases.column("at_low") > _CLIPPED_SHARE) & ~eight & ~other
    if eight.any():
        yield Finding(
            "ct-eight-bit",
            "error",
            cases.named(eight),
            f"CT images that hold 8-bit grey values instead of Hounsfield units: {eight.sum()} of {ct.sum()}",
            "export the original series, not a picture of it",
        )
    if other.any():
        yield Finding(
            "ct-not-hounsfield",
            "error",
            cases.named(other),
            f"CT images that cannot be in Hounsfield units (nothing below 0, or a range under {_NARROW_HU:g}): "
            f"{other.sum()} of {ct.sum()}",
            "check the rescale slope and intercept, and whether somebody normalised the images",
        )
    if wide.any():
        yield Finding(
            "ct-range",
            "warning",
            cases.named(wide),
            f"CT images that reach below {_WIDE_LOW_HU:g} or above {_WIDE_HIGH_HU:g} HU: {wide.sum()} of {ct.sum()}",
            "check the rescale slope, and what stands outside the field of view",
        )
    if clipped.any():
        yield Finding(
            "ct-clipped",
            "warning",
            cases.named(clipped),
            f"CT images that were cut to a window ({_CLIPPED_SHARE:.0%} or more at the lowest value, above "
            f"{_AIR_HU:g} HU): {clipped.sum()} of {ct.sum()}",
            "export the original series; a plan cuts to its own window",
        )


def saturation(cases: Cases) -> Iterator[Finding]:
    """Images that are too bright for their range."""
    saturated = np.zeros(len(cases), bool)
    share = cases.column("at_high")
    for members in cases.kinds():
        telling = members & (cases.column("values") > 2)
        if telling.any():
            usual = float(np.median(share[telling]))
            saturated |= telling & (share > max(_SATURATED_SHARE, _FAR_MORE * usual))
    if saturated.any():
        yield Finding(
            "image-saturated",
            "warning",
            cases.named(saturated),
            f"images with more than {_SATURATED_SHARE:.0%} of their voxels at the highest value: "
            f"{saturated.sum()} of {len(cases)}",
            "look at one: overexposed, cut to a window, or inverted",
        )


def inversion(cases: Cases) -> Iterator[Finding]:
    """Images that are the negative of what is usual."""
    inverted = np.zeros(len(cases), bool)
    for members in cases.kinds():
        inverted[members] = _inverted(cases, members)
    if inverted.any():
        yield Finding(
            "image-inverted",
            "warning",
            cases.named(inverted),
            f"images with dark and bright exchanged, by what is usual here: {inverted.sum()} of {len(cases)}",
            "look at one; if it is so, correct the photometric interpretation at the source",
        )


def _inverted(cases: Cases, members: Flags) -> Flags:
    places = np.flatnonzero(members)
    if len(places) < _ENOUGH:
        return np.zeros(len(places), bool)
    likeness = _likeness(cases, places)
    rows = cases.rows[places]
    level = (rows["mean"] - rows["low"]) / np.maximum(rows["high"] - rows["low"], np.finfo(np.float32).tiny)
    usual = np.median(level)
    mirrored = np.abs(level - (1 - usual)) < np.abs(level - usual)
    brighter = rows["centre"] > rows["border"]
    in_common = np.median(likeness) >= _IN_COMMON
    negative = likeness <= _NEGATIVE if in_common else brighter != (brighter.mean() > 0.5)
    return np.asarray((rows["low"] < rows["high"]) & mirrored & negative)


def _likeness(cases: Cases, places: Places) -> NDArray[np.float32]:
    """Correlation of each of these thumbnails with the median of an even sample of them."""
    thumbnails = cases.column("thumbnail")
    usual = np.median(_standardised(thumbnails[places[:: max(1, len(places) // _SAMPLE)]]), axis=0)
    usual = _standardised(usual[None])[0] / usual.size
    blocks = (places[start : start + _SAMPLE] for start in range(0, len(places), _SAMPLE))
    return np.concatenate([_standardised(thumbnails[block]) @ usual for block in blocks])


def _standardised(thumbnails: NDArray[np.generic]) -> NDArray[np.float32]:
    """Each row with mean 0 and deviation 1, or all 0."""
    centred = thumbnails.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    standardised: NDArray[np.float32] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return standardised
