"""The status of a site in words: marks for the page, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from client.terminal import listing
from shared.local_page.words import Level, days_sentence, lasting, size

if TYPE_CHECKING:
    from rich.console import RenderableType

LEVELS: Mapping[str, Level] = {"up": "good", "busy": "good", "down": "bad", "off": "off", "unknown": "off"}
WORDS: Mapping[str, str] = {
    "up": "runs",
    "busy": "works",
    "down": "does not run",
    "off": "not set up",
    "unknown": "not known",
}
LINK_WORDS: Mapping[str, str] = {
    "up": "connected",
    "down": "not connected",
    "off": "not set up",
    "unknown": "not known",
}
PARTS = (("Custodian", "custodian"), ("SuperNode", "supernode"), ("Link", "link"))

Status = Mapping[str, Any]


def word(part: str, state: str) -> str:
    """How a part of the site does, in one or two words."""
    return (LINK_WORDS if part == "link" else WORDS).get(state, state)


def lead(status: Status) -> str:
    """How this site does, in a sentence."""
    federation = status["federation"]
    if federation is None:
        return "This site is in no federation yet: consilium-site request asks to be enrolled."
    if federation["standing"] != "active":
        return f"This site is {federation['standing']} in the federation {federation['name']}."
    down = [name for name, key in PARTS if status[key]["state"] == "down"]
    if down:
        return f"This site takes no part in the federation {federation['name']} now: see {' and '.join(down)}."
    if status["custodian"]["state"] == "busy":
        busy = lasting(status["custodian"]["busy_s"])
        return f"This site is working for the federation {federation['name']}, for {busy} by now."
    if status["link"]["state"] == "unknown":
        return f"This site's custodian is ready for the federation {federation['name']}."
    return f"This site is ready for the federation {federation['name']}."


def terminal(status: Status) -> Iterator[RenderableType]:
    """Lines and tables for a terminal."""
    yield f"{status['site']}: {lead(status)}"
    yield listing(("part", "state", "what it says"), list(_rows(status)))
    for fault in status["faults"]:
        yield f"cannot be read: {fault['sentence']}; {fault['hint']}"
    if status["approvals"]:
        header = ("plan", "digest", "data set", "state", "runs", "by", "at")
        yield listing(header, [_approval(one) for one in status["approvals"]])
    if status["budgets"]:
        yield from _budgets(status["budgets"])
    if status["left"]:
        yield status["left"]["sentence"]
    if status["audit"]:
        rows = [(str(one["number"]), one["at"][:16].replace("T", " "), one["sentence"]) for one in status["audit"][:5]]
        yield listing(("line", "at (UTC)", "what was done"), rows)


def _rows(status: Status) -> Iterator[tuple[str, str, str]]:
    for name, key in PARTS:
        said = status[key]
        yield name, word(key, said["state"]), f"{said['sentence']} {said['hint']}".strip()
    for one in status["certificates"]:
        yield (
            one["name"].capitalize(),
            {"good": "valid", "warn": "soon", "bad": "urgent"}[one["level"]],
            days_sentence(one["days"]),
        )
    disk = status["disk"]
    room = {"good": "enough", "warn": "little", "bad": "too little"}[disk["level"]]
    yield "Disk", room, f"{size(disk['free'])} of {size(disk['total'])} free"
    yield "Version", status["version"], "of Consilium"


def _approval(one: Mapping[str, Any]) -> tuple[str, ...]:
    runs = f"{one['served']} of {one['runs']}"
    return one["name"], one["digest"][:12], one["dataset"], one["state"], runs, one["by"], one["at"][:10]


def _budgets(lines: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    yield listing(("data set", "cohort", "split", "spent", "cap"), [_budget(one) for one in lines])
    shared = [one for one in lines if one["if_all_collude"] is not None]
    if shared:
        most = max(one["if_all_collude"] for one in shared)
        yield f"Sites have shared noise: if all other sites collude, a patient has paid up to epsilon {most:.3f}."


def _budget(one: Mapping[str, Any]) -> tuple[str, ...]:
    return one["dataset"], one["cohort"][:12], one["split"], f"{one['reserved']:.3f}", f"{one['cap']:g}"
