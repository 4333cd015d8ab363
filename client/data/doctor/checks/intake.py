"""What could not be read, and what is no longer as it was stored.

========================  ========  ==================================================================================
code                      severity  found where
========================  ========  ==================================================================================
archive-damaged           error     a stored case is not what was stored
not-measured              error     reading a case ended the process that read it
quarantine-quota          error     more cases could not be read than the site allows
quarantined-series        warning   series that are no volume: gaps, duplicate or shifted slices, mixed sizes
quarantined-mask          warning   masks that do not lie on their image, or hold no classes
quarantined-burned-in     warning   images that may show identifiers
quarantined-unreadable    warning   all other cases that could not be used
========================  ========  ==================================================================================

The reasons themselves are counted in ``Diagnosis.quarantined``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from client.data.case_files import Quarantined
from client.data.doctor.findings import Finding
from client.data.doctor.measuring import Unmeasured

QUOTA = 0.2
"""Share of cases that may be unusable where the site's settings say nothing."""

_SERIES = frozenset({"bad-geometry", "duplicate-image", "duplicate-instance", "duplicate-slice", "mixed-modality",
                     "mixed-orientation", "mixed-size", "mixed-spacing", "no-position", "shifted-slice",
                     "slice-gap"})  # fmt: skip
_MASKS = "mask-"
_OTHER_MASKS = frozenset({"not-a-segmentation", "overlapping-segments"})
_BURNED_IN = "burned-in"


def unmeasured(found: Unmeasured, cases: int) -> Iterator[Finding]:
    """Cases of which nothing is known."""
    if found.damaged:
        yield Finding(
            "archive-damaged",
            "error",
            found.damaged,
            f"cases that are not what was stored: {len(found.damaged)} of {cases}",
            "check the disk, then ingest the same sources again with --check-stored",
        )
    if found.lost:
        yield Finding(
            "not-measured",
            "error",
            found.lost,
            f"cases that ended the process that read them: {len(found.lost)} of {cases}",
            "check that memory suffices for the largest image, with fewer workers if need be",
        )


def quota(quarantined: Sequence[Quarantined], cases: int, allowed: float) -> Iterator[Finding]:
    """Whether the data set is fit for use at all."""
    unusable, everything = len(quarantined), len(quarantined) + cases
    if everything == 0 or unusable / everything > allowed:
        yield Finding(
            "quarantine-quota",
            "error",
            (),
            f"{unusable} of {everything} cases could not be used; the site allows {allowed:.0%}",
            "settle the reasons, or raise the quota in the site's settings (quarantine.quota)",
        )


def reasons(quarantined: Sequence[Quarantined]) -> Iterator[Finding]:
    """What was wrong with cases that could not be used, by theme."""
    series = _names(one for one in quarantined if one.code in _SERIES)
    masks = _names(one for one in quarantined if one.code.startswith(_MASKS) or one.code in _OTHER_MASKS)
    shown = _names(one for one in quarantined if one.code.startswith(_BURNED_IN))
    rest = tuple(sorted({one.case_id for one in quarantined} - {*series, *masks, *shown}))
    if series:
        yield Finding(
            "quarantined-series",
            "warning",
            series,
            f"series that make no volume (slice gaps, duplicate or shifted slices, mixed sizes): {len(series)}",
            "export the whole series again",
        )
    if masks:
        yield Finding(
            "quarantined-mask",
            "warning",
            masks,
            f"cases whose mask does not lie on its image or holds no classes: {len(masks)}",
            "export mask and image from one grid",
        )
    if shown:
        yield Finding(
            "quarantined-burned-in",
            "warning",
            shown,
            f"images that were refused because they may show identifiers: {len(shown)}",
            "look at each at its source; the rule is deidentification.refuse",
        )
    if rest:
        yield Finding(
            "quarantined-unreadable",
            "warning",
            rest,
            f"files and cases that could not be used for other reasons: {len(rest)}",
            "the reasons are counted in this report; consilium-site quarantined names the files",
        )


def _names(found: Iterator[Quarantined]) -> tuple[str, ...]:
    return tuple(sorted({one.case_id for one in found}))
