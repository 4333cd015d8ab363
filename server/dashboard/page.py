"""The lead's page: what is shown, in sections that are sent anew when they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.dashboard import sentences
from server.dashboard.failures import reason_of
from server.dashboard.look import Look, RunLook
from server.dashboard.spending import assumed, spent
from server.report.metrics import label
from shared.local_page.curves import Curve
from shared.local_page.sections import Sections, environment
from shared.local_page.words import ago, count, days_level, days_sentence, disk_level, size

FIRST = "now"
NAMES = (FIRST, "sites", "progress", "privacy", "failures", "upkeep", "runs")
_TEMPLATE = "dashboard.html.j2"


def renderer() -> tuple[Callable[[Look], Sections], Callable[[Look, Sections], str]]:
    """Two functions: the sections of a look, and the page around them."""
    templates = environment(Path(__file__).parent)
    macros: Any = templates.get_template(_TEMPLATE).module

    def sections(look: Look) -> Sections:
        shown = content(look)
        return {name: str(getattr(macros, name)(shown)) for name in NAMES}

    def page(look: Look, found: Sections) -> str:
        return templates.get_template("frame.html.j2").render(
            title=look.federation,
            kicker="Consilium · coordinator",
            first=FIRST,
            sections=found,
            version=look.version,
        )

    return sections, page


def content(look: Look) -> dict[str, Any]:
    """Everything that the sections show."""
    run = look.run
    return {
        "look": look,
        "run": run,
        "lead": sentences.lead(look),
        "notices": list(sentences.notices(look)),
        "facts": facts(look),
        "sites": [(site, sentences.health(site, run)) for site in look.sites],
        "roles": roles(run),
        "curves": [curve for curve in curves(run) if curve.known] if run else [],
        "spent": spent(run) if run else (),
        "assumed": assumed(run) if run else "",
        "failures": [(one, reason_of(one.code)) for one in sentences.failures(run)],
        "certificates": [(one, days_level(one.days), days_sentence(one.days)) for one in look.certificates],
        "disk": (disk_level(look.disk_free), f"{size(look.disk_free)} of {size(look.disk_total)} free"),
        "runs": [(one, sentences.outcome(one), result(one), when(one, look)) for one in look.runs],
        "count": count,
    }


def facts(look: Look) -> list[tuple[str, str, str]]:
    """Term, value and detail of what stands first."""
    run, live = look.run, look.run.live if look.run else None
    active = [site for site in look.sites if site.state == "active"]
    connected = sum(site.link == "connected" for site in active)
    found = []
    if live:
        detail = sentences.PHASES.get(live.phase, live.phase) if run and run.going else live.state
        found.append(("Round", f"{live.round} of {live.rounds}", detail))
    known = f"{connected} of {len(active)}" if look.gateway else "not known"
    found.append(("Sites connected", known, _others(look, len(active))))
    if live and live.loss is not None:
        found.append(("Training loss", f"{live.loss:.3g}", "mean over the sites, last round"))
    if live and live.value is not None:
        found.append((label(live.headline), f"{live.value:.3f}", "all patients together, last measured"))
    if look.certificates:
        first = min(look.certificates, key=lambda one: one.days)
        found.append(("Certificates", count(max(first.days, 0), "day"), f"until the {first.name} ends"))
    return found


def roles(run: RunLook | None) -> list[tuple[str, tuple[str, ...]]]:
    """Who is awaited, has answered, has failed."""
    if run is None or run.live is None or not run.going:
        return []
    live = run.live
    return [("Awaited", live.asked), ("Answered", live.answered), ("Failed", tuple(sorted(live.failed)))]


def curves(run: RunLook) -> list[Curve]:
    """Loss, and the headline metric where it was measured, by round."""
    rounds = run.live.rounds if run.live else len(run.rounds)
    losses = [(one.participation.round, one.loss) for one in run.rounds]
    found = [Curve("Training loss", losses, rounds)]
    if run.live and run.live.headline:
        values = [
            (one.participation.round, one.metrics.get("pooled", {}).get(run.live.headline, {}).get("value"))
            for one in run.rounds
            if one.metrics
        ]
        found.append(Curve(f"{label(run.live.headline)}, validation patients", values, rounds))
    return found


def result(run: RunLook) -> str:
    """The last value of the headline metric."""
    live = run.live
    return f"{label(live.headline)} {live.value:.3f}" if live and live.value is not None else ""


def when(run: RunLook, look: Look) -> str:
    """When the run said something last."""
    return ago(run.live.age_s(look.now.timestamp())) if run.live else ""


def _others(look: Look, active: int) -> str:
    suspended = len(look.sites) - active
    return f"and {suspended} suspended" if suspended else "of the roster"
