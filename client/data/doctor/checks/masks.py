"""Are masks there, on the voxels, and drawn as in the other cases?

==================  ========  ========================================================================================
code                severity  found where
==================  ========  ========================================================================================
mask-missing        warning   a case has none, where at least half of the others have one
mask-empty          warning   a mask has no foreground
mask-full           error     a mask has no background
mask-classes        warning   a mask holds a class that fewer than one in ten masks hold
mask-tiny-islands   warning   a mask has specks of a few voxels (``measure.TINY_VOXELS``), where most masks have none
mask-at-border      note      a mask reaches the edge of its image, where most masks do not
==================  ========  ========================================================================================

A mask that is not on its image's grid is not stored: it ends in quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from client.data.doctor.cases import Cases, Flags
from client.data.doctor.findings import Finding
from client.data.doctor.measure import TINY_VOXELS

_RARE = 0.1


def presence(cases: Cases) -> Iterator[Finding]:
    """Masks that are missing, empty or full."""
    masked = cases.column("masked")
    empty = masked & (cases.column("foreground") == 0)
    full = masked & cases.column("full")
    if not masked.all() and masked.mean() >= 0.5:
        yield Finding(
            "mask-missing",
            "warning",
            cases.named(~masked),
            f"images without a mask, where the others have one: {(~masked).sum()} of {len(cases)}",
            "find their masks, or exclude them from segmentation",
        )
    if empty.any():
        yield Finding(
            "mask-empty",
            "warning",
            cases.named(empty),
            f"masks in which nothing is drawn: {empty.sum()} of {masked.sum()}",
            "check whether there is nothing to draw, or nobody drew it",
        )
    if full.any():
        yield Finding(
            "mask-full",
            "error",
            cases.named(full),
            f"masks without any background: {full.sum()} of {masked.sum()}",
            "check that background is 0 in these files",
        )


def classes(cases: Cases) -> Iterator[Finding]:
    """Classes that hardly any other mask has."""
    masked = cases.column("masked")
    places, counts = np.unique(cases.column("classes")[masked], return_counts=True)
    masks_with: dict[int, int] = {}
    for place, count in zip(places.tolist(), counts.tolist(), strict=True):
        for index in cases.classes[place]:
            masks_with[index] = masks_with.get(index, 0) + count
    rare = {index for index, count in masks_with.items() if count < _RARE * masked.sum()}
    odd = masked & cases.flags("classes", (not rare.isdisjoint(found) for found in cases.classes))
    if odd.any():
        yield Finding(
            "mask-classes",
            "warning",
            cases.named(odd),
            f"masks with classes that fewer than {_RARE:.0%} of all masks hold: {odd.sum()} of {masked.sum()} "
            f"({len(rare)} such classes)",
            "check the values in these files: another convention, or a slip",
        )


def islands(cases: Cases) -> Iterator[Finding]:
    """Specks, and masks that run out of the image."""
    masked = cases.column("masked")
    specked = _unlike_most(cases.column("tiny_islands") > 0, masked)
    outward = _unlike_most(cases.column("at_border") & ~cases.column("full"), masked)
    if specked.any():
        specks = int(cases.column("tiny_islands")[specked].sum())
        yield Finding(
            "mask-tiny-islands",
            "warning",
            cases.named(specked),
            f"masks with islands of at most {TINY_VOXELS} voxels beside larger ones: {specked.sum()} of {masked.sum()} "
            f"({specks} islands)",
            "look at one: slips of the hand spoil surface distances",
        )
    if outward.any():
        yield Finding(
            "mask-at-border",
            "note",
            cases.named(outward),
            f"masks that reach the edge of their image: {outward.sum()} of {masked.sum()}",
            "check that the image shows the whole structure",
        )


def _unlike_most(flagged: Flags, masked: Flags) -> Flags:
    """Flagged masks, where they are the smaller part."""
    found = flagged & masked
    return found if found.sum() <= masked.sum() / 2 else np.zeros_like(found)
