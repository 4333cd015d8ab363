"""The table of rounds for people."""

from __future__ import annotations

from server.round_values import FINAL, Kind, Phase
from server.rounds import TABLE


def as_markdown() -> str:
    """The table for people, a line for each (phase, event)."""
    lines = ["| phase | event | what happens | leads to |", "|---|---|---|---|"]
    for phase in Phase:
        for kind in Kind:
            if line := TABLE.get((phase, kind)):
                targets = ", ".join(target.value for target in Phase if target in line.leads_to)
                lines.append(f"| {phase.value} | {kind.value} | {line.words} | {targets} |")
        if phase in FINAL:
            lines.append(f"| {phase.value} | any | nothing | {phase.value} |")
    return "\n".join(lines) + "\n"
