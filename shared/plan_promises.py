"""What a plan must and must not say elsewhere, so that what it says of privacy and of secure sums holds.

Promises
- Every way in which a section could undo what ``[privacy]`` or ``[secure_aggregation]`` promises is one line of a table
  here, with the sentence that whoever wrote the plan reads.
- Only the plan is looked at. What needs an accountant is ``shared.privacy.terms``'s, what needs to know a site or the
  roster is the site's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shared.plan_protection import SUM_BITS

if TYPE_CHECKING:
    from shared.plan import Plan

Line = tuple[bool, str]
"""Whether it is broken, and how the sentence goes on."""


def of_patients(plan: Plan) -> Iterator[str]:
    """What would undo ``[privacy]``, in sentences."""
    if plan.privacy.unit == "none" and plan.evaluation.release == "dp":
        yield 'evaluation.release = "dp" needs privacy.unit = "patient", which says how much noise'
    if plan.privacy.unit == "patient":
        yield from _said('privacy.unit = "patient"', _patients_seen(plan))
    if plan.privacy.noise == "shared":
        yield from _said('privacy.noise = "shared"', _noise_not_whole(plan))


def of_sums(plan: Plan) -> Iterator[str]:
    """What would undo ``[secure_aggregation]``, in sentences."""
    if plan.secure_aggregation.enabled:
        yield from _said("secure_aggregation.enabled = true", _single_sites_seen(plan))


def _said(promise: str, lines: tuple[Line, ...]) -> Iterator[str]:
    return (f"{promise} {sentence}" for is_broken, sentence in lines if is_broken)


def _patients_seen(plan: Plan) -> tuple[Line, ...]:
    everything = plan.privacy.covers == "everything"
    return (
        (plan.aggregation.weights == "patients", 'and aggregation.weights = "patients" would send a count'),
        (plan.personalisation is not None, "and [personalisation] would measure a model trained without noise"),
        (
            everything and plan.evaluation.release != "dp",
            f'and evaluation.release = "{plan.evaluation.release}" would send exact counts of validation and test '
            'patients: set release = "dp", or say privacy.covers = "training"',
        ),
        (plan.training.gradient_clip is not None, "clips by patient: leave training.gradient_clip out"),
        (plan.aggregation.proximal_mu > 0, "knows no proximal term: leave aggregation.proximal_mu out"),
        (plan.model.dropout > 0, "and model.dropout would draw one stream of random numbers for all patients"),
    )


def _noise_not_whole(plan: Plan) -> tuple[Line, ...]:
    """See ``shared.privacy.shared_noise``: the sum holds the noise, of one step, on one grid, of enough sites."""
    secure, training, aggregation = plan.secure_aggregation, plan.training, plan.aggregation
    least, colluding = secure.threshold or 0, plan.privacy.colluding_sites or 0
    return (
        (
            not secure.enabled,
            "leaves each site's update with a part of its noise: set secure_aggregation.enabled = true",
        ),
        (
            secure.threshold is None,
            "is sized by the fewest sites of a sum: set secure_aggregation.threshold",
        ),
        (
            least - colluding < 2,
            f"with colluding_sites = {colluding} leaves {max(0, least - colluding)} honest sites in a sum of "
            f'{least}, and shares nothing: raise secure_aggregation.threshold, or set noise = "own"',
        ),
        (
            training.steps != 1,
            f"holds for one step a round, not for {training.steps}: set training.steps = 1 and plan more rounds",
        ),
        (
            training.optimizer != "sgd",
            f'needs an update that is its gradient: training.optimizer = "sgd", not "{training.optimizer}"; '
            'aggregation.method = "fedadam" adapts steps at the coordinator',
        ),
        (aggregation.weights != "equal", 'needs aggregation.weights = "equal": each site adds the same part'),
        (
            aggregation.fixed_point.rounding != "nearest",
            'rounds after the noise, once: set aggregation.fixed_point.rounding = "nearest"',
        ),
    )


def _single_sites_seen(plan: Plan) -> tuple[Line, ...]:
    bits, weights = plan.aggregation.fixed_point.bits, plan.aggregation.public_weights.values()
    room = SUM_BITS - ((sum(weights) or max(2, plan.participation.quorum)) - 1).bit_length()
    threshold, quorum = plan.secure_aggregation.threshold, plan.participation.quorum
    return (
        (
            plan.aggregation.weights == "patients",
            'and aggregation.weights = "patients" would send each site\'s count: use "equal" or "public"',
        ),
        (
            plan.evaluation.release == "site",
            'and evaluation.release = "site" would send statistics of single sites: use "sum" or "dp"',
        ),
        (
            (threshold or quorum) < quorum,
            f"and a threshold of {threshold} below participation.quorum would make sums of fewer sites than a round "
            "has",
        ),
        (
            bits > room,
            f"adds up in {SUM_BITS} bits, where sums of {bits} bits do not fit: aggregation.fixed_point.bits can "
            f"be {max(room, 0)} at most",
        ),
    )
