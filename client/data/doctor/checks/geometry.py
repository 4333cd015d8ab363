"""Do the images of a data set have sizes, spacings and directions that can belong together?

====================  ========  ======================================================================================
code                  severity  found where
====================  ========  ======================================================================================
spacing-outlier       warning   a spacing is at least twice, or at most half, the median of its kind, and by more than
                                ``_FAR`` robust standard deviations
spacing-implausible   warning   a voxel's edge is shorter than 0.01 mm or longer than 20 mm
spacing-unknown       warning   a CT or MR image, or the smaller part of a kind, does not say how large its voxels are
orientation-oblique   warning   an axis is more than 20 degrees off the patient's, and not in most volumes of the kind
orientation-sheared   warning   two axes miss a right angle by more than 1 degree: a tilted gantry that nobody righted
dimensions-mixed      warning   some cases are volumes and some are not; the fewer ones are named
channels-mixed        warning   some images are in colour and some are not; the fewer ones are named
modalities-mixed      warning   there are images of several modalities; all but the most frequent are named
shapes-mixed          note      images of a kind have different shapes
====================  ========  ======================================================================================

A kind is what has one modality and one number of axes. Slice gaps and other faults of a series end in quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from client.data.doctor.cases import Cases, Flags
from client.data.doctor.findings import Finding

_FAR = 5.0
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_SHORTEST_MM, _LONGEST_MM = 0.01, 20.0
_OBLIQUE_DEG, _SHEAR_DEG = 20.0, 1.0
_MEASURING = ("ct", "mr")
"""Modalities whose files always say how large a voxel is."""


def spacing(cases: Cases) -> Iterator[Finding]:
    """Spacings that stand out, that cannot be, or that are not known."""
    known = cases.column("spacing_known")
    far = np.zeros(len(cases), bool)
    unknown = ~known & cases.flags("modality", (modality in _MEASURING for modality in cases.modalities))
    for members in cases.kinds():
        far |= _far_from_median(cases, members & known)
        if not known[members].all() and known[members].mean() >= 0.5:
            unknown |= members & ~known
    edges = cases.column("spacing_mm")
    impossible = known & ((edges < _SHORTEST_MM) | (edges > _LONGEST_MM)).any(axis=1)
    if far.any():
        yield Finding(
            "spacing-outlier",
            "warning",
            cases.named(far),
            f"images whose voxels have at least twice or at most half the usual edge: {far.sum()} of {len(cases)}",
            "check that they belong to this study",
        )
    if impossible.any():
        yield Finding(
            "spacing-implausible",
            "warning",
            cases.named(impossible),
            f"images with voxels shorter than {_SHORTEST_MM:g} mm or longer than {_LONGEST_MM:g} mm: "
            f"{impossible.sum()} of {len(cases)}",
            "check the unit in which the scanner or a conversion wrote the spacing",
        )
    if unknown.any():
        yield Finding(
            "spacing-unknown",
            "warning",
            cases.named(unknown),
            f"images that do not say how large a voxel is, although others of their kind do: "
            f"{unknown.sum()} of {len(cases)}",
            "export them again as DICOM or NIfTI; resampling takes 1 mm for them",
        )


def orientation(cases: Cases) -> Iterator[Finding]:
    """Volumes that are turned or sheared."""
    oblique = np.zeros(len(cases), bool)
    for members in cases.kinds():
        turned = members & (cases.column("oblique_deg") > _OBLIQUE_DEG)
        if turned.sum() <= members.sum() / 2:
            oblique |= turned
    sheared = cases.column("shear_deg") > _SHEAR_DEG
    if oblique.any():
        yield Finding(
            "orientation-oblique",
            "warning",
            cases.named(oblique),
            f"volumes turned by more than {_OBLIQUE_DEG:g} degrees against the patient's axes: "
            f"{oblique.sum()} of {len(cases)}",
            "look at one: another protocol, or a wrong orientation in the header",
        )
    if sheared.any():
        yield Finding(
            "orientation-sheared",
            "warning",
            cases.named(sheared),
            f"volumes with axes that miss a right angle by more than {_SHEAR_DEG:g} degree: "
            f"{sheared.sum()} of {len(cases)}",
            "right the tilt of the gantry before ingest, or exclude them",
        )


def kinds(cases: Cases) -> Iterator[Finding]:
    """Cases of different kinds in one data set."""
    fewer = _fewer(cases.column("axes"))
    if fewer.any():
        yield Finding(
            "dimensions-mixed",
            "warning",
            cases.named(fewer),
            f"cases that have another number of axes than most: {fewer.sum()} of {len(cases)}",
            "make two data sets of them",
        )
    fewer = _fewer(cases.column("channels"))
    if fewer.any():
        yield Finding(
            "channels-mixed",
            "warning",
            cases.named(fewer),
            f"images that are in colour where most are grey, or grey where most are in colour: "
            f"{fewer.sum()} of {len(cases)}",
            "check for screenshots and annotated copies",
        )
    fewer = _fewer(cases.column("modality"))
    if fewer.any():
        yield Finding(
            "modalities-mixed",
            "warning",
            cases.named(fewer),
            f"images that are not of the most frequent of {len(cases.modalities)} modalities: "
            f"{fewer.sum()} of {len(cases)}",
            "make a data set of each",
        )
    shapes = [len(np.unique(cases.column("shape")[members], axis=0)) for members in cases.kinds()]
    if max(shapes, default=1) > 1:
        yield Finding(
            "shapes-mixed",
            "note",
            (),
            f"images of one kind have up to {max(shapes)} different shapes",
            "a plan brings them to one; check that it neither cuts nor squeezes what matters",
        )


def _fewer(values: NDArray[np.int32]) -> Flags:
    """All but the most frequent value."""
    different, counts = np.unique(values, return_counts=True)
    if len(different) < 2:
        return np.zeros(len(values), bool)
    return np.asarray(values != different[counts.argmax()])


def _far_from_median(cases: Cases, members: Flags) -> Flags:
    far = np.zeros(len(cases), bool)
    if members.any():
        logs = np.log(cases.column("spacing_mm")[members])
        aside = np.abs(logs - np.median(logs, axis=0))
        sigma = _MAD_TO_SIGMA * np.median(aside, axis=0)
        # A hair below 2, so that 0.8 mm among 0.4 mm counts although neither is a number of binary digits.
        far[members] = ((aside > np.log(1.999)) & (aside > _FAR * sigma)).any(axis=1)
    return far
