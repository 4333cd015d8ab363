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
- Validation patients are measured after every ``evaluation.every`` rounds and after the last, test patients once, as in
  ``server.rounds``.

What a site has spent before this run is its ledger's; what the noise is drawn from is ``shared.privacy.noise``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.errors import PlanError
from shared.plan import Plan
from shared.plan_errors import suggest
from shared.privacy.accounting import Target, epsilon, noise_for
from shared.privacy.events import Event


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
    """

    sampling_rate: float
    noise_multiplier: float
    clip_norm: float
    denominator: float
    steps_per_round: int
    rounds: int

    @property
    def noise_per_coordinate(self) -> float:
        """Standard deviation of the noise in each coordinate of a step's mean gradient."""
        return self.noise_multiplier * self.clip_norm / self.denominator

    def round_event(self) -> Event:
        """What one round does to training patients."""
        return Event(self.noise_multiplier, self.sampling_rate, self.steps_per_round)

    def all_events(self) -> tuple[Event, ...]:
        """What the whole run does to training patients."""
        return (Event(self.noise_multiplier, self.sampling_rate, self.steps_per_round * self.rounds),)


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
