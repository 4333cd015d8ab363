"""Whether a data set is fit for use: not too many of its cases may be unusable."""

from __future__ import annotations

from shared.errors import SiteDataError


def share_quarantined(cases: int, quarantined: int) -> float:
    """Share of a data set that could not be used, of all cases that anything is known of; 0 where there are none."""
    return quarantined / max(1, cases + quarantined)


def require_fit(share: float, quota: float) -> None:
    """Raise ``SiteDataError`` ("quota") where a larger share is unusable than the site has declared."""
    if share > quota:
        raise SiteDataError(
            f"{share:.1%} of the cases are quarantined, the declared quota is {quota:.1%}",
            hint="nothing that was read is lost; mend the sources and ingest again: the reasons are counted above "
            "and in the doctor's report",
            code="quota",
        )
