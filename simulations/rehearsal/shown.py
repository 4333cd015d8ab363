"""What a rehearsal came to, in words."""

from __future__ import annotations

from collections.abc import Iterator

from simulations.rehearsal.rehearse import DIES_IN, Rehearsed


def shown(found: Rehearsed) -> Iterator[str]:
    """A line for each thing that somebody would want to have seen."""
    for number, sites in enumerate(found.rounds, start=1):
        yield f"round {number}: {', '.join(sites)}{_about(found.killed, number, sites)}"
    name, value = found.headline
    yield f"{name} on test patients: {'undetermined' if value is None else f'{value:.3f}'}, with noise"
    for site, epsilon in sorted(found.epsilon.items()):
        lines = found.log_lines[site]
        yield f"{site}: epsilon {epsilon:.2f} by its own ledger; {lines} lines of its audit log verified"
    yield f"report: {found.run / 'report.html'}"
    yield f"done in {found.seconds:.0f} s; everything that was started is stopped"


def _about(killed: str, number: int, sites: tuple[str, ...]) -> str:
    if killed not in sites:
        return f"; {killed} had been killed"
    if number == DIES_IN:
        return f"; {killed} was killed before the sum was unmasked, and its update counts"
    return ""
