"""What a plan's privacy costs, before anyone trains: noise, epsilon round by round, and what other choices would give.

Promises
- Every number comes from what runs use (``shared.privacy.terms``, ``shared.privacy.accounting``) and from the plan
  alone: no data are read.
- What cannot be kept at any noise is shown as such, and does not hide the rest.
- Whoever chooses a delta that protects nobody in particular is told so.
- Where sites share the noise, the assumption stands above the tables, and what is left without it beside each promise.

Noise is given in the unit that decides whether a model learns: its standard deviation in each coordinate of the mean
gradient of a step, sigma * C / L, where one patient's gradient has a length of at most C. Where sites share the noise,
it is what their sum holds, and no single site's.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.results import json_ready
from server.shared_noise import assumption, if_all_collude
from shared import plan as plans
from shared.errors import PlanError
from shared.plan import Plan
from shared.privacy.accounting import Cap, Target, epsilon, noise_for
from shared.privacy.terms import Terms, public_patients, statistics_terms, terms_for
from simulations import scenario
from simulations.progress import Advance, Stages

PATIENTS = (10, 20, 50, 100, 200, 500, 1000, 5000)
"""Sizes of sites that are compared unless others are asked for."""
EVERY_SITE = "every site"

_MOMENTS = 8
_POWERS = range(-2, 64)
_IMPOSSIBLE = "none"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Alone:
    """What is left of noise that sites share if all other sites collude: sigma, and what the whole run costs then."""

    noise_multiplier: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class Promise:
    """The terms of one site, and what the whole run costs its training patients; ``alone`` where noise is shared."""

    site: str
    patients: int
    terms: Terms
    epsilon: float
    alone: Alone | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What the rounds up to ``round`` cost a training patient; ``alone``, where noise is shared: if all collude."""

    round: int
    steps: int
    epsilon: float
    alone: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A rate, and the least noise with which the whole run keeps the plan's epsilon; None where none does.

    Attributes:
        patients: training patients of the site.
        per_step: those expected in a step.
        sampling_rate: the second over the first.
        noise_multiplier: sigma.
        noise: standard deviation in each coordinate of the mean gradient.
    """

    patients: int
    per_step: float
    sampling_rate: float
    noise_multiplier: float | None
    noise: float | None


@dataclass(frozen=True, slots=True)
class Size:
    """A site of another size: what the plan's own noise costs and gives there, and what would keep the epsilon."""

    epsilon: float
    noise: float
    choice: Choice


@dataclass(frozen=True, slots=True)
class Statistics:
    """Noise of the statistics of one split, in units of what one patient can move them by."""

    split: str
    releases: int
    noise_multiplier: float


@dataclass(frozen=True, slots=True)
class PrivacyTable:
    """All that is shown.

    Attributes:
        name: of the plan.
        epsilon: promised.
        delta: promised.
        promises: a line for each site, or one for all.
        site: the one that the rest is about: that with the fewest patients.
        rounds: cost over the rounds of the run.
        sizes: other sizes of site.
        steps: other numbers of patients per step.
        statistics: noise on metrics; empty unless the plan releases with noise.
    """

    name: str
    epsilon: float
    delta: float
    promises: tuple[Promise, ...]
    site: Promise
    rounds: tuple[Moment, ...]
    sizes: tuple[Size, ...]
    steps: tuple[Choice, ...]
    statistics: tuple[Statistics, ...]


def load_plan(name: str) -> Plan:
    """The plan in a ``.toml`` file, with or without a ``[scenario]``, or of a built-in scenario.

    Raises:
        ScenarioError, PlanError: one sentence for the first thing that is wrong.
    """
    if name.endswith(".toml") and not _is_scenario(Path(name)):
        return plans.load(Path(name))
    return scenario.load(name).plan


def privacy_table(plan: Plan, patients: Sequence[int], stages: Stages) -> PrivacyTable:
    """Compute everything; ``patients`` are the sizes of sites to compare.

    Raises:
        PlanError: the plan promises no privacy, or cannot keep what it promises.
    """
    sites, cap = _public_patients(plan), _cap(plan)
    with stages.stage("sites", len(sites)) as advance:
        promises = [_promise(plan, site, cap) for site in _counted(sites, advance)]
    least = min(promises, key=lambda promise: promise.patients)
    moments, rates = _moments(plan.plan.rounds), _rates(least.terms)
    with stages.stage("rounds, sizes, steps", len(moments) + len(patients) + len(rates)) as advance:
        return PrivacyTable(
            name=plan.plan.name,
            epsilon=cap.epsilon,
            delta=cap.delta,
            promises=tuple(promises),
            site=least,
            rounds=tuple(_moment(least.terms, cap, number) for number in _counted(moments, advance)),
            sizes=tuple(_size(least.terms, cap, count) for count in _counted(patients, advance)),
            steps=tuple(_choice(least.terms, cap, least.patients, rate) for rate in _counted(rates, advance)),
            statistics=_statistics(plan),
        )


def cautions(plan: Plan, patients: Sequence[int] = ()) -> Iterator[str]:
    """A sentence for the largest site if the plan's delta is not well below 1 / its patients."""
    largest, delta = max([*_public_patients(plan).values(), *patients]), _cap(plan).delta
    advice = f"set privacy.delta to {_rounded_down(0.1 / largest):g} or less"
    if delta >= 1 / largest:
        yield (
            f"delta {delta:g} promises nothing to {largest} patients: whoever publishes one of them, drawn at random, "
            f"keeps it; {advice}"
        )
    elif delta > 0.1 / largest:
        yield f"delta {delta:g} is more than a tenth of 1 / {largest}, for a site of {largest} patients; {advice}"


def document(table: PrivacyTable) -> dict[str, Any]:
    """The table as JSON-ready values; what cannot be kept at any noise is None."""
    found: dict[str, Any] = json_ready(asdict(table))
    return found


def terminal(table: PrivacyTable) -> RenderableType:
    """The table for a terminal of 80 columns."""
    terms = table.site.terms
    named = "" if table.site.site == EVERY_SITE else f" ({table.site.site}, the fewest patients)"
    parts: list[RenderableType] = [
        Text(f"{table.name}: epsilon {table.epsilon:g} at delta {table.delta:g} for each patient", style="bold"),
        Text(
            f"Sigma: noise over C = {terms.clip_norm:g}, the longest gradient of a patient. Noise: standard deviation "
            "in each coordinate of a step's mean gradient, sigma * C / patients per step."
        ),
        *_shared(terms),
        *_titled("Training", _promises_table(table)),
        *(_titled("Training, if all other sites collude", _alone_table(table)) if terms.share else ()),
        *_titled(f"Epsilon over the rounds{named}", _rounds_table(table)),
        *_titled(
            f"Sites of other sizes, {_number(table.site.terms.denominator)} patients per step", _sizes_table(table)
        ),
        *_titled(f"Other numbers of patients per step, of {table.site.patients}{named}", _steps_table(table)),
    ]
    if table.statistics:
        parts += _titled("Statistics: sigma is noise over the most that one patient adds", _statistics_table(table))
    return Group(*parts)


def _shared(terms: Terms) -> Iterator[RenderableType]:
    """Of how many sites' noise the promise is made."""
    if terms.share is not None:
        counted = f"In each sum the noise of {terms.share.honest} sites counts, one's own among them."
        yield Text(f"{assumption(terms.share)} {counted}")


def _is_scenario(path: Path) -> bool:
    try:
        return "scenario" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # the plan's own reader says what is wrong


def _public_patients(plan: Plan) -> dict[str, int]:
    """Training patients by site; one line for all where the plan makes no difference."""
    said = plan.privacy.public_patients
    return dict(said) if isinstance(said, dict) else {EVERY_SITE: said or 0}


def _cap(plan: Plan) -> Cap:
    privacy = plan.privacy
    if privacy.epsilon is None or privacy.delta is None:
        raise PlanError(
            "the plan promises no privacy",
            hint='set privacy.unit = "patient" with epsilon, delta, clip_norm and public_patients',
        )
    return Cap(privacy.epsilon, privacy.delta)


def _counted(items: Iterable[Item], advance: Advance) -> Iterator[Item]:
    for item in items:
        yield item
        advance()


def _promise(plan: Plan, site: str, cap: Cap) -> Promise:
    terms = terms_for(plan, site)
    events = terms.all_events()
    alone = Alone(terms.alone, if_all_collude(events, cap.delta)) if terms.share else None
    return Promise(site, public_patients(plan, site), terms, epsilon(events, cap.delta), alone)


def _moments(rounds: int) -> list[int]:
    """Some rounds from the first to the last, ever further apart."""
    return sorted({round(rounds ** (place / (_MOMENTS - 1))) for place in range(_MOMENTS)})


def _moment(terms: Terms, cap: Cap, number: int) -> Moment:
    so_far = replace(terms, rounds=number).all_events()
    alone = if_all_collude(so_far, cap.delta) if terms.share else None
    return Moment(number, sum(event.steps for event in so_far), epsilon(so_far, cap.delta), alone)


def _size(terms: Terms, cap: Cap, patients: int) -> Size:
    """A site of another size that samples as many patients a step: with the plan's noise, and with its own."""
    rate = min(1.0, terms.denominator / patients)
    there = replace(terms, sampling_rate=rate, denominator=rate * patients)
    cost = epsilon(there.all_events(), cap.delta)
    return Size(cost, there.noise_per_coordinate, _choice(terms, cap, patients, rate))


def _rates(terms: Terms) -> list[float]:
    """A quarter, a half, once, twice, … the patients per step, at least one patient, then all of them."""
    factors = itertools.takewhile(lambda factor: factor * terms.sampling_rate < 1, (2.0**power for power in _POWERS))
    return [*(factor * terms.sampling_rate for factor in factors if factor * terms.denominator >= 1), 1.0]


def _choice(terms: Terms, cap: Cap, patients: int, rate: float) -> Choice:
    target = Target(cap.epsilon, cap.delta, rate, terms.steps_per_round * terms.rounds)
    try:
        sigma = noise_for(target)
    except PlanError:
        return Choice(patients, rate * patients, rate, None, None)
    chosen = replace(terms, sampling_rate=rate, noise_multiplier=sigma, denominator=rate * patients)
    return Choice(patients, rate * patients, rate, sigma, chosen.noise_per_coordinate)


def _statistics(plan: Plan) -> tuple[Statistics, ...]:
    if plan.evaluation.release != "dp":
        return ()
    found = [(split, statistics_terms(plan, split)) for split in ("validation", "test")]
    return tuple(Statistics(split, terms.releases, terms.noise_multiplier) for split, terms in found)


def _promises_table(table: PrivacyTable) -> Table:
    found = _table("site", "patients", "per step", "rate", "steps", "sigma", "noise", "epsilon")
    for promise in table.promises:
        terms = promise.terms
        steps = terms.steps_per_round * terms.rounds
        numbers = (terms.denominator, terms.sampling_rate, steps, terms.noise_multiplier)
        costs = (terms.noise_per_coordinate, promise.epsilon)
        found.add_row(Text(promise.site), str(promise.patients), *map(_number, (*numbers, *costs)))
    return found


def _alone_table(table: PrivacyTable) -> Table:
    found = _table("site", "sigma", "epsilon")
    for promise in table.promises:
        if promise.alone is not None:
            numbers = (promise.alone.noise_multiplier, promise.alone.epsilon)
            found.add_row(Text(promise.site), *map(_number, numbers))
    return found


def _rounds_table(table: PrivacyTable) -> Table:
    shared = ("if all collude",) if table.site.alone else ()
    found = _table("rounds", "steps", "epsilon", *shared)
    for moment in table.rounds:
        numbers = (moment.round, moment.steps, moment.epsilon, *((moment.alone,) if shared else ()))
        found.add_row(*map(_number, numbers))
    return found


def _sizes_table(table: PrivacyTable) -> Table:
    sigma, kept = _number(table.site.terms.noise_multiplier), f"for epsilon {table.epsilon:g}"
    found = _table("patients", "rate", f"sigma {sigma}: epsilon", "noise", f"{kept}: sigma", "noise")
    for size in table.sizes:
        one = size.choice
        numbers = (one.patients, one.sampling_rate, size.epsilon, size.noise, one.noise_multiplier, one.noise)
        found.add_row(*map(_number, numbers))
    return found


def _steps_table(table: PrivacyTable) -> Table:
    found = _table("per step", "rate", f"for epsilon {table.epsilon:g}: sigma", "noise")
    for one in table.steps:
        found.add_row(*map(_number, (one.per_step, one.sampling_rate, one.noise_multiplier, one.noise)))
    return found


def _statistics_table(table: PrivacyTable) -> Table:
    found = _table("split", "releases", "sigma of each")
    for one in table.statistics:
        found.add_row(one.split, str(one.releases), _number(one.noise_multiplier))
    return found


def _table(*columns: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="dim")
    for place, name in enumerate(columns):
        left = place == 0 and name in {"site", "split"}
        found.add_column(name, justify="left" if left else "right", overflow="fold")
    return found


def _titled(title: str, table: Table) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), table]


def _number(value: float | None) -> str:
    """Three digits that count; whole above a hundred."""
    if value is None:
        return _IMPOSSIBLE
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _rounded_down(value: float) -> float:
    """The largest number of one digit that is not above ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.floor(value / power) * power:.0e}")
