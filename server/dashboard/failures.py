"""Why a site did not answer, in words, and what to do: for the codes that a journal and ``live.json`` hold.

A code that is not in the table is said as it is: sites of another version may know more reasons than this page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_IT = "Hospital IT sees why: consilium-site status."
_APPROVE = "The site's people approve it with consilium-site approve; the site then joins with the next round."
_WAIT = "Nothing to do: it is asked again with the next round."
_SAME = "The site installs the version that this coordinator runs."


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence that goes on from a site's name, and what to do about it."""

    sentence: str
    hint: str


REASONS: Mapping[str, Reason] = {
    "no-answer": Reason("did not answer within the plan's deadline", f"Is it connected? {_IT}"),
    "deadline": Reason("was busy for longer than the request could wait", _WAIT),
    "busy": Reason("has too many requests waiting", _WAIT),
    "transport": Reason("could not be reached by the link", "Is its SuperNode running? consilium-site start."),
    "no-custodian": Reason("has a link, but no custodian behind it", _IT),
    "custodian-unreachable": Reason("has a link, but its custodian does not run", _IT),
    "custodian-deadline": Reason("has a custodian that did not answer in time", _IT),
    "custodian-gone": Reason("lost its custodian while it was working", "It is started again by itself."),
    "custodian-failed": Reason("has a custodian that failed", _IT),
    "custodian-token": Reason("has a relay that its custodian does not accept", "consilium-site start, once more."),
    "not-approved": Reason("has not approved this plan yet", _APPROVE),
    "withdrawn": Reason("has withdrawn its approval", "Talk to the hospital: only its people can approve again."),
    "policy": Reason("does not permit this by its policy", "The hospital's policy.toml decides; talk to its people."),
    "too-many-runs": Reason("has served as many runs as its approval allows", _APPROVE),
    "budget": Reason("has no privacy budget left for this", "Nothing can be paid for any more: end the run, or go on."),
    "site-data": Reason("has too few usable cases for this plan", "The hospital sees more: consilium-site doctor."),
    "capacity": Reason("ran out of memory or disk", "The hospital frees some, or the plan asks for less."),
    "disk-full": Reason("has no room left on its disk", "The hospital frees some; it is then asked again."),
    "fingerprint": Reason("computes other numbers than this coordinator", _SAME),
    "signature-invalid": Reason("answered with a signature that is not its own", "Telephone the hospital."),
    "order-expired": Reason("says that the order to run has expired", "consilium-server resume signs a new one."),
    "order-early": Reason("says that the order is from the future", "Compare the clocks of both machines."),
    "replayed-otherwise": Reason("was asked the same question with other words", "Telephone the hospital."),
    "outdated": Reason("has gone further in this run than this coordinator", "Was an old copy of the folder used?"),
    "not-finite": Reason("sent numbers that are not finite: nothing of them was used", _IT),
    "out-of-range": Reason("sent numbers out of range: nothing of them was used", _IT),
}


def reason_of(code: str) -> Reason:
    """What a code says."""
    return REASONS.get(code) or Reason(f"gave the reason “{code.replace('-', ' ')}”", _IT)
