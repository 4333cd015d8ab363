"""Do the cases belong to enough people, evenly?

===================  ========  ========================================================================================
code                 severity  found where
===================  ========  ========================================================================================
patients-few         warning   there are fewer than ``_FEW`` patients
patient-dominates    warning   a patient has more than a quarter of the images, and at least four times the usual number
patients-not-told    note      each of many images has a patient of its own
===================  ========  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from client.data.doctor.cases import Cases
from client.data.doctor.findings import Finding

_FEW = 10
_SHARE = 0.25
_TIMES = 4
_MANY_IMAGES = 20


def patients(cases: Cases) -> Iterator[Finding]:
    """How many people there are, and how many images each has."""
    sizes = np.bincount(cases.column("patient"))
    if len(sizes) < _FEW:
        yield Finding(
            "patients-few",
            "warning",
            (),
            f"{len(sizes)} patients; with fewer than {_FEW} a split may lack test patients, and noise drowns the rest",
            "add patients, or let this site take part in evaluation alone",
        )
    large = (sizes > _SHARE * len(cases)) & (sizes >= _TIMES * np.median(sizes))
    if large.any():
        yield Finding(
            "patient-dominates",
            "warning",
            cases.named(large[cases.column("patient")]),
            f"patients who have more than {_SHARE:.0%} of the {len(cases)} images each: {large.sum()} of {len(sizes)}",
            "check that their identifier is not one that a scanner gives to everybody",
        )
    if len(cases) >= _MANY_IMAGES and len(sizes) == len(cases):
        yield Finding(
            "patients-not-told",
            "note",
            (),
            f"each of the {len(cases)} images has a patient of its own",
            "if people have several images here, name the column that says whose they are",
        )
