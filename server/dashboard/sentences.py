"""What the page says: the state of a run, of a site, of a failure, in words.

Promises
- A run that is killed cannot say so: where it has been silent for longer than its plan lets any phase last, the page
  says that, and what to type.
- Every state has a word beside its colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from server.dashboard.failures import reason_of
from server.dashboard.look import Look, RunLook, SiteLook
from shared.local_page.words import Level, ago, count, days_level, days_sentence, disk_level, lasting, listed, size

PHASES: Mapping[str, str] = {
    "starting": "starting",
    "admitting": "greeting the sites",
    "training": "training at the sites",
    "aggregating": "adding up the updates",
    "measuring": "measuring the model on validation patients",
    "testing": "measuring the model on test patients",
    "personalising": "fine-tuning at each site",
    "sharing": "collecting each site's own model",
    "crossing": "measuring each site's own model at every site",
    "dealing": "sites agree on masks",
    "masking": "collecting masked answers",
    "confirming": "telling every site whose answers came",
    "unmasking": "unmasking the sum",
    "writing the report": "writing the report",
    "finished": "finished",
    "aborted": "stopped",
}
_SILENT_S = 600.0
"""Added to the plan's deadline: sums, measurements and the report take their time, too."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to act on."""

    level: Level
    sentence: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """A site's state: urgency, one word, one sentence, and what to do."""

    level: Level
    word: str
    sentence: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """One site's failures with one code: how often, and in which round last."""

    site: str
    code: str
    times: int
    last: int
    now: bool


def silent(run: RunLook, now: float) -> bool:
    """Whether a run that says it goes on has said nothing for longer than any phase may last."""
    if run.live is None or not run.going:
        return False
    deadline_s = run.plan.participation.deadline_s if run.plan else 3600.0
    return run.live.age_s(now) > deadline_s + _SILENT_S


def lead(look: Look) -> str:
    """What goes on in this federation, in one or two sentences."""
    run = look.run
    if run is None:
        return "No run has been ordered yet. A plan is started with consilium-server run PLAN."
    live = run.live
    if live is None:
        return f"The run {run.name} was ordered and has not begun."
    if live.state == "failed":
        return f"The run {run.name} ended in round {live.round} of {live.rounds}: {live.sentence}."
    if live.state == "finished":
        return f"No run goes on. The last one, {run.name}, finished its {count(live.rounds, 'round')}."
    if silent(run, look.now.timestamp()):
        return f"The run {run.name} says that it goes on, but it has been silent for {_since(run, look)}."
    return f"{run.name}: {_where(run)}. {_answers(run)}"


def notices(look: Look) -> Iterator[Notice]:
    """What somebody should act on, the most urgent first."""
    found = [*_faults(look), *_run_notices(look), *_upkeep(look)]
    yield from sorted(found, key=lambda one: one.level != "bad")


def health(site: SiteLook, run: RunLook | None) -> Health:
    """How a site does."""
    if site.state == "suspended":
        return Health("off", "suspended", "The lead has suspended it: the gateway turns it away.")
    if site.link == "unknown":
        return Health("off", "not known", "The gateway does not answer, so nobody knows which sites are connected.")
    if site.link == "never":
        hint = "Hospital IT starts it with consilium-site start."
        return Health("warn", "never connected", "It is enrolled and has not connected yet.", hint)
    if site.link == "away":
        since = "" if site.away_s is None else f" It was last seen {ago(site.away_s)}."
        return Health("bad", "away", f"It is not connected.{since}", "Hospital IT sees why: consilium-site status.")
    code = run.live.failed.get(site.name) if run and run.live and run.going else None
    if code:
        reason = reason_of(code)
        return Health("warn", "connected", f"It is connected, but {reason.sentence}.", reason.hint)
    return Health("good", "connected", _part_of(site.name, run))


def failures(run: RunLook | None) -> tuple[Failure, ...]:
    """By site and code, those of the present phase first, then the newest."""
    if run is None:
        return ()
    times: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], int] = {}
    for record in run.rounds:
        for pair in record.participation.missing.items():
            times[pair] += 1
            last[pair] = record.participation.round
    present = set(run.live.failed.items()) if run.live and run.going else set()
    for pair in present - {pair for pair, at in last.items() if run.live and at == run.live.round}:
        times[pair] += 1
        last[pair] = run.live.round if run.live else 0
    found = (Failure(*pair, times[pair], last[pair], pair in present) for pair in times)
    return tuple(sorted(found, key=lambda one: (not one.now, -one.last, one.site, one.code)))


def outcome(run: RunLook) -> Health:
    """How a run ended, or that it goes on."""
    live = run.live
    if run.fault:
        return Health("bad", "damaged", f"Its folder cannot be trusted: {run.fault}.")
    if live is None:
        return Health("off", "ordered", "It has not begun.")
    if live.state == "failed":
        return Health("bad", "ended", f"Round {live.round} of {live.rounds}: {live.sentence}.", live.hint)
    if live.state == "finished":
        return Health("good", "finished", f"{count(live.rounds, 'round')}.")
    return Health("good", "running", f"{_where(run).capitalize()}.")


def _where(run: RunLook) -> str:
    live = run.live
    assert live is not None  # noqa: S101 - asked only of a run that has said something
    doing = PHASES.get(live.phase, live.phase)
    return f"round {live.round} of {live.rounds}, {doing}" if live.round else doing


def _answers(run: RunLook) -> str:
    live = run.live
    assert live is not None  # noqa: S101 - as above
    asked = len(live.asked) + len(live.answered) + len(live.failed)
    if not asked:
        return "No site is asked at the moment."
    verb = "has" if len(live.answered) == 1 else "have"
    said = (
        f"{len(live.answered)} of {count(asked, 'site')} {verb} answered" if live.answered else "No site has answered"
    )
    if live.asked:
        said += f"; {listed(live.asked)} {'is' if len(live.asked) == 1 else 'are'} awaited"
    if live.failed:
        said += f"; {listed(sorted(live.failed))} failed"
    return f"{said}."


def _part_of(site: str, run: RunLook | None) -> str:
    live = run.live if run and run.going else None
    if live and site in live.asked:
        return "It is working: its answer is awaited."
    if live and site in live.answered:
        return "It has answered."
    return "It is ready."


def _since(run: RunLook, look: Look) -> str:
    return lasting(run.live.age_s(look.now.timestamp())) if run.live else ""


def _faults(look: Look) -> Iterator[Notice]:
    for sentence, hint in look.faults:
        yield Notice("bad", _sentence(sentence), _sentence(hint))
    if not look.gateway:
        yield Notice("bad", "The gateway does not answer: no site can connect.", "consilium-server start")


def _run_notices(look: Look) -> Iterator[Notice]:
    run = look.run
    if run is None or run.live is None:
        return
    if run.live.state == "failed":
        hint = run.live.hint or f"consilium-server resume {run.run[:8]}"
        yield Notice("bad", f"The run {run.name} ended: {run.live.sentence}.", _sentence(hint))
    if silent(run, look.now.timestamp()):
        yield Notice(
            "bad",
            f"The run {run.name} has been silent for {_since(run, look)}: its process may have been killed.",
            f"Nothing is lost. To go on: consilium-server resume {run.run[:8]}",
        )


def _upkeep(look: Look) -> Iterator[Notice]:
    for one in look.certificates:
        if (level := days_level(one.days)) != "good":
            hint = (
                "consilium-server renew; no site has to do anything."
                if one.name == "server certificate"
                else "Plan a new federation folder, and enrol the sites anew."
            )
            yield Notice(level, f"The {one.name}: {days_sentence(one.days)}.", hint)
    if (level := disk_level(look.disk_free)) != "good":
        yield Notice(level, f"{size(look.disk_free)} are free on the disk of this folder.", "Free some space in time.")


def _sentence(text: str) -> str:
    """``text`` as a sentence of a page."""
    return text[:1].upper() + text[1:] + "." * (text[-1:] not in {"", ".", "?"})
