"""What people and programs are shown of an ingest, a diagnosis, a cohort and a look at the machine.

Promises
- Tables name cases by their salted names only, and only where somebody at the site has to find them.
- A document holds what the tables hold, as JSON can hold it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from pydantic import TypeAdapter

from client.terminal import counts, listing
from shared.messages import Split

if TYPE_CHECKING:
    from rich.console import RenderableType

    from client.commands.ingest import Ingested
    from client.data.cohort.manifest import Cohort
    from client.data.doctor.findings import Diagnosis
    from client.machine.check import Check

_WAY_OUT = frozenset({"name", "connection", "tls", "interception"})
"""Checks that only those who run the firewall can mend."""


def ingested(done: Ingested) -> Iterator[RenderableType]:
    """Files by what became of them, cases by what was done with them, and the data set after it."""
    yield counts("Files looked at", done.intake.files)
    yield counts("Cases", done.treated)
    if done.intake.quarantined:
        yield counts("Quarantined", done.intake.quarantined)
    if done.intake.unread:
        yield counts("Kept, although", done.intake.unread)
    yield f"The data set holds {done.cases} cases; {done.share_quarantined:.1%} are quarantined."


def ingested_document(done: Ingested) -> dict[str, object]:
    """The same for programs."""
    return {
        "ingest": {
            "files": dict(done.intake.files),
            **done.treated,
            "quarantined": dict(done.intake.quarantined),
            "unread": dict(done.intake.unread),
        },
        "cases": done.cases,
        "quarantined": dict(done.quarantined),
        "share_quarantined": done.share_quarantined,
    }


def diagnosis(found: Diagnosis) -> Iterator[RenderableType]:
    """The findings, most severe first."""
    yield f"{found.cases} cases of {found.patients} patients; {sum(found.quarantined.values())} quarantined"
    if not found.findings:
        yield "Nothing was found."
        return
    rows = [(one.severity, one.code, str(len(one.cases) or "-"), one.sentence) for one in found.findings]
    yield listing(("severity", "finding", "cases", "what"), rows)
    hints = {one.code: one.hint for one in found.findings if one.hint}
    if hints:
        yield listing(("finding", "what to do"), list(hints.items()))


def diagnosis_document(found: Diagnosis) -> object:
    """The same for programs."""
    return TypeAdapter(type(found)).dump_python(found, mode="json")


def cohort(frozen: Cohort) -> Iterator[RenderableType]:
    """The digest, who is where, and what was left out."""
    yield f"Digest: {frozen.digest()}"
    rows = [(split, str(patients), str(cases)) for split, (patients, cases) in _splits(frozen).items()]
    yield listing(("split", "patients", "cases"), rows)
    if frozen.excluded:
        yield counts("Excluded", dict(frozen.excluded))
    if frozen.quarantined:
        yield counts("Quarantined", dict(frozen.quarantined))


def cohort_document(frozen: Cohort) -> dict[str, object]:
    """The same for programs."""
    splits = {split: {"patients": patients, "cases": cases} for split, (patients, cases) in _splits(frozen).items()}
    return {
        "digest": frozen.digest(),
        "splits": splits,
        "excluded": dict(frozen.excluded),
        "quarantined": dict(frozen.quarantined),
    }


def checks(found: Sequence[Check]) -> Iterator[RenderableType]:
    """What was found, then what to do about it."""
    yield listing(("check", "verdict", "found"), [(one.name, one.verdict, one.sentence) for one in found])
    hints = [(one.name, one.hint) for one in found if one.hint]
    if hints:
        yield listing(("check", "what to do"), hints)


def needs_firewall(found: Sequence[Check]) -> bool:
    """Whether something stands between this site and its coordinator."""
    return any(one.name in _WAY_OUT and one.verdict == "error" for one in found)


def _splits(frozen: Cohort) -> dict[str, tuple[int, int]]:
    """Patients and cases of each split."""
    cases = Counter(member.split for member in frozen.members)
    patients = Counter(split for split, _ in {(member.split, member.patient) for member in frozen.members})
    return {split: (patients[split], cases[split]) for split in get_args(Split)}
