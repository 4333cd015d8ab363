"""Lines of the table: what was measured, against what, and whether it is what we promised.

Promises
- A ratio is taken between neighbours in time, one for each repeat; the median counts, and the range is shown.
- CPU time stands beside wall time where one thread works on both sides: on a machine with other work it is the fairer
  of the two, but it does not see waiting for the disk.
- A figure without a target is information. One that could not be measured says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

from rich.table import Table

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_COLUMNS = ("what", "against", "target", "measured (range)", "by CPU time", "verdict")


@dataclass(frozen=True)
class Target:
    """What was promised."""

    bound: Literal["at most", "at least"]
    value: float

    def met_by(self, found: float) -> bool:
        return found <= self.value if self.bound == "at most" else found >= self.value


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        what: what was measured.
        against: what it is divided by, or the unit's meaning where it is no ratio.
        unit: ``x`` for ratios, else as printed after the number.
        found: one value for each repeat; empty where it could not be measured.
        cpu: the same by CPU time, where that makes sense.
        target: what was promised, if anything.
        reason: why there is no value.
    """

    what: str
    against: str
    unit: str
    found: tuple[float, ...]
    cpu: tuple[float, ...] = ()
    target: Target | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        if not self.found:
            return f"not measured: {self.reason}"
        if self.target is None:
            return ""
        return "met" if self.target.met_by(median(self.found)) else "missed"

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        promised = "" if self.target is None else f"{self.target.bound} {_number(self.target.value, self.unit)}"
        return (
            self.what,
            self.against,
            promised,
            _values(self.found, self.unit),
            _values(self.cpu, self.unit),
            self.verdict,
        )


def without_target(row: Row) -> Row:
    """The same figure, judged by nobody."""
    return replace(row, target=None)


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Neighbour by neighbour; turns that only one side made are left out."""
    return tuple(a / b for a, b in zip(above, below, strict=False))


def terminal(rows: Sequence[Row]) -> Table:
    """For people at a terminal."""
    table = Table(*_COLUMNS)
    colours = {"met": "green", "missed": "red"}
    for row in rows:
        table.add_row(*row.cells(), style=colours.get(row.verdict))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """For docs/performance.md."""
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def to_json(row: Row) -> dict[str, Any]:
    return asdict(row) | {"median": median(row.found) if row.found else None, "verdict": row.verdict}


def from_json(document: Mapping[str, Any]) -> Row:
    found = {name: document[name] for name in Row.__dataclass_fields__}
    target = Target(**found["target"]) if found["target"] else None
    return Row(**found | {"found": tuple(found["found"]), "cpu": tuple(found["cpu"]), "target": target})


def replaced(page: str, block: str) -> str:
    """``page`` with ``block`` between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _values(found: Sequence[float], unit: str) -> str:
    if not found:
        return ""
    middle = _number(median(found), unit)
    return middle if len(found) == 1 else f"{middle} ({_number(min(found), unit)} to {_number(max(found), unit)})"


def _number(value: float, unit: str) -> str:
    text = f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 1 or unit != "x" else f"{value:.2f}"
    return f"{text} {unit}"
