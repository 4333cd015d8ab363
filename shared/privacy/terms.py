"""The terms on which a site takes part in a private plan: rate, noise, divisor and number of steps.

Promises
- Terms are made of the plan alone. The number of patients at a site, their images and everything measured on them do
  not enter: a rate or a divisor that followed the true number would tell whether one patient is there. Where a site has
  more or fewer patients than ``privacy.public_patients`` says, an expected step is larger or smaller than planned, and
  the promise is the same.
- What the plan promises is kept by the whole run: all rounds together cost a training patient at most the plan's
  epsilon at its delta, by ``accounting.epsilon``. A plan whose own ``noise_multiplier`` does not keep it is refused.
- Statistics of validation and of test patients keep the same epsilon and delta, each split by itself. A patient is in
  one split only, so what one split releases costs patients of the others nothing (parallel composition).

Rules
- q = ``privacy.sampling_rate``, or ``training.patients_per_step`` over the public number of patients, at most 1.
- The divisor of a step is q times the public number of patients: the patients expected in it.
- The noise is the least that keeps the plan's epsilon, or ``privacy.noise_multiplier``.
- Where sites share the noise (``shared_noise``), they also share the divisor, the mean of what theirs would be: so a
  patient counts the same wherever they are. The sum holds the noise of the site that needs most, so the promise to
  patients of the others is a little better than planned. Terms then also say what is left of it if all others collude.
- Validation patients are measured after every ``evaluation.every`` rounds and after the last, test patients once, as in
  ``server.rounds``.

What a site has spent before this run is its ledger's; what the noise is drawn from is ``shared.privacy.noise``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from shared.errors import PlanError
from shared.fixed_point import peak, resolution
from shared.plan import Plan
from shared.plan_errors import suggest
from shared.privacy.accounting import Target, epsilon, noise_for
from shared.privacy.events import Event
from shared.privacy.shared_noise import FURTHEST, Share, room


@dataclass(frozen=True, slots=True)
class Terms:
    """How one site trains under a plan.

    Attributes:
        sampling_rate: probability with which each training patient takes part in a step (q).
        noise_multiplier: standard deviation of the noise in units of ``clip_norm`` (sigma).
        clip_norm: most that one patient can move the sum of a step (C).
        denominator: what the noisy sum of a step is divided by: the expected number of patients in it (L).
        steps_per_round: steps between two updates.
        rounds: rounds of the run.
        share: of how many sites' noise this is, where sites share it; None where each adds all of its own.
    """

    sampling_rate: float
    noise_multiplier: float
    clip_norm: float
    denominator: float
    steps_per_round: int
    rounds: int
    share: Share | None = None

    @property
    def noise_per_coordinate(self) -> float:
        """Standard deviation of the noise in each coordinate of a step's mean gradient."""
        return self.noise_multiplier * self.clip_norm / self.denominator

    @property
    def alone(self) -> float:
        """The noise multiplier if all other sites collude; 0 where none of the noise is theirs."""
        return self.share.alone(self.noise_multiplier) if self.share else 0.0

    def round_event(self) -> Event:
        """What one round does to training patients."""
        return Event(self.noise_multiplier, self.sampling_rate, self.steps_per_round, self.alone)

    def all_events(self) -> tuple[Event, ...]:
        """What the whole run does to training patients."""
        return (replace(self.round_event(), steps=self.steps_per_round * self.rounds),)


@dataclass(frozen=True, slots=True)
class StatisticsTerms:
    """How a split is measured: the noise of each release in units of its sensitivity, and how many there are."""

    noise_multiplier: float
    releases: int

    def event(self) -> Event:
        """What one release does to the patients of the split."""
        return Event(self.noise_multiplier, 1.0, 1)


def terms_for(plan: Plan, site: str) -> Terms:
    """The terms of training at ``site``.

    Raises:
        PlanError: the plan promises no privacy, does not say how many patients the site is taken to have, or its noise
            cannot keep its epsilon.
    """
    own, share = _own_terms(plan, site), share_of(plan)
    if share is None:
        return own
    everybody = [_own_terms(plan, one) for one in _named(plan) or (site,)]
    found = replace(
        own,
        noise_multiplier=max(one.noise_multiplier for one in everybody),
        denominator=fmean(one.denominator for one in everybody),
        share=share,
    )
    _require_room(plan, share, found.noise_per_coordinate)
    return found


def share_of(plan: Plan) -> Share | None:
    """Of how many sites' noise the plan's promise is made; None where each site adds all of its own."""
    least, colluding = plan.secure_aggregation.threshold, plan.privacy.colluding_sites
    if plan.privacy.noise == "own" or least is None or colluding is None:
        return None
    return Share(least, colluding)


def statistics_terms(plan: Plan, split: Literal["validation", "test"]) -> StatisticsTerms:
    """The terms of measuring ``split`` under ``evaluation.release = "dp"``.

    Raises:
        PlanError: the plan promises no privacy, or does not release with noise.
    """
    budget, delta, _ = _promise(plan)
    if plan.evaluation.release != "dp":
        raise PlanError(
            f'evaluation.release = "{plan.evaluation.release}" adds no noise to statistics',
            hint='set evaluation.release = "dp"',
        )
    releases = 1 if split == "test" else measured_rounds(plan)
    return StatisticsTerms(noise_for(Target(budget, delta, 1.0, releases)), releases)


def measured_rounds(plan: Plan) -> int:
    """Number of rounds after which validation patients are measured, at most."""
    every, rounds = plan.evaluation.every, plan.plan.rounds
    return rounds // every + (rounds % every > 0)


def public_patients(plan: Plan, site: str) -> int:
    """Training patients that ``site`` is taken to have.

    Raises:
        PlanError: the plan does not say it.
    """
    said = plan.privacy.public_patients
    if isinstance(said, int):
        return said
    if not isinstance(said, Mapping) or site not in said:
        raise PlanError(
            f"privacy.public_patients says no number for the site {site}",
            hint=suggest(site, said) if said else "add privacy.public_patients",
        )
    return said[site]


def sampling_rate(plan: Plan, patients: int) -> float:
    """Probability with which each of ``patients`` takes part in a step."""
    return plan.privacy.sampling_rate or min(1.0, plan.training.patients_per_step / patients)


def _own_terms(plan: Plan, site: str) -> Terms:
    """The terms where nobody else's noise helps."""
    budget, delta, clip_norm = _promise(plan)
    patients = public_patients(plan, site)
    rate = sampling_rate(plan, patients)
    target = Target(budget, delta, rate, plan.plan.rounds * plan.training.steps)
    return Terms(
        sampling_rate=rate,
        noise_multiplier=_noise(plan, target, site),
        clip_norm=clip_norm,
        denominator=rate * patients,
        steps_per_round=plan.training.steps,
        rounds=plan.plan.rounds,
    )


def _named(plan: Plan) -> tuple[str, ...]:
    """Sites that the plan names; empty where it makes no difference between them."""
    said = plan.privacy.public_patients
    return tuple(sorted(said)) if isinstance(said, Mapping) else ()


def _require_room(plan: Plan, share: Share, noise: float) -> None:
    """Refuse a range that the noise alone would nearly fill; raises ``PlanError``."""
    fixed_point, rate = plan.aggregation.fixed_point, plan.training.learning_rate
    deviation = share.deviation(rate * noise, fixed_point)
    if 2 * room(deviation, fixed_point) < peak(fixed_point):
        furthest = FURTHEST * deviation * resolution(fixed_point)
        raise PlanError(
            f"the noise that each site adds reaches {furthest:.2g}, and aggregation.fixed_point.range is "
            f"{fixed_point.range:g}",
            hint=f"set the range to {math.ceil(2.1 * furthest * 100) / 100:g} or more; it must hold noise and change",
        )


def _promise(plan: Plan) -> tuple[float, float, float]:
    """The plan's epsilon, delta and bound of one patient's gradient."""
    privacy = plan.privacy
    if privacy.epsilon is None or privacy.delta is None or privacy.clip_norm is None:
        raise PlanError(
            "the plan promises no privacy",
            hint='set privacy.unit = "patient" with epsilon, delta, clip_norm and public_patients',
        )
    return privacy.epsilon, privacy.delta, privacy.clip_norm


def _noise(plan: Plan, target: Target, site: str) -> float:
    """The plan's own noise, if it keeps the target; without one, the least that does."""
    said = plan.privacy.noise_multiplier
    if said is None:
        return noise_for(target)
    cost = epsilon([target.event(said)], target.delta)
    if cost > target.epsilon:
        raise PlanError(
            f"privacy.noise_multiplier = {said:g} costs a patient of {site} epsilon {cost:.4g}, the plan promises "
            f"{target.epsilon:g} (delta {target.delta:g}, {target.steps} steps at rate {target.sampling_rate:.4g})",
            hint=f"set privacy.noise_multiplier to at least {noise_for(target):g}, or leave it out",
        )
    return said
