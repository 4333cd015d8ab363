"""A site that shares the noise: one step of plain descent, a part of the noise on the grid, and nothing else."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guarded_site import COHORT, guarded_site, private_plan, seeded, train
from numpy.typing import NDArray
from scipy.stats import kstest
from tiny_federation import tiny_data

from client.governance.spending import Claim
from client.site import Site
from client.training import local, private
from client.training.batches import TrainingData
from client.training.sampling import Sampler
from client.workbench import Workbench
from shared.arrays import read_vector
from shared.fixed_point import resolution
from shared.messages import Train, Update, Vector
from shared.plan import Plan
from shared.privacy.accounting import Cap
from shared.privacy.events import Event
from shared.privacy.noise import Noise, Reals
from shared.privacy.shared_noise import LEAST_DEVIATION, room
from shared.privacy.terms import terms_for
from shared.seeds import generator

SHARED: dict[str, Any] = {
    "privacy__noise": "shared",
    "privacy__colluding_sites": 1,
    "training__steps": 1,
    "training__optimizer": "sgd",
    "training__learning_rate": 0.05,
    "training__weight_decay": 0.1,
    "aggregation__weights": "equal",
    "aggregation__fixed_point": {"range": 4.0, "bits": 24},
    "secure_aggregation__enabled": True,
    "secure_aggregation__threshold": 4,
}


class Quiet:
    """Everybody takes part, and nothing hides them."""

    def normal(self, size: int) -> Reals:
        return np.zeros(size)

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        assert 0 < rate <= 1
        return np.ones(count, np.bool_)


def sharing_plan(**changes: Any) -> Plan:
    return private_plan(**SHARED | changes)


def part(site: Site, request: Train) -> Update:
    """What a site computes before it masks it."""
    reply = site.computed(request)
    assert isinstance(reply, Update), reply
    return reply


def with_noise(site: Site, noise: Callable[[Claim], Noise]) -> None:
    assert site.guard is not None
    object.__setattr__(site.guard, "noise", noise)


def start(site: Site) -> Vector:
    return Workbench.for_plan(site.workbench.plan).initial_weights()


def unnoised(plan: Plan, round_number: int = 1) -> NDArray[np.float64]:
    return change_of(plan, "unnoised_change", round_number)


def change_of(plan: Plan, how: str, round_number: int = 1) -> NDArray[np.float64]:
    """One round's change of the tiny data without noise, by the shared step or by the ordinary trainer."""
    bench, data = Workbench.for_plan(plan), tiny_data("aachen")
    before = bench.initial_weights()

    def streams(step: int, patient: str) -> np.random.Generator:
        return generator(plan.plan.seed, "private", "aachen", round_number, step, patient)

    sampler = Sampler(TrainingData(data.train, data.train_patients), bench.task, plan, streams, Quiet())
    given = (bench.model, bench.patient_gradients, sampler, terms_for(plan, "aachen"))
    assignment = local.round_assignment(plan, round_number)
    if how == "unnoised_change":
        found = private.unnoised_change(*given, assignment)
        assert np.array_equal(read_vector(bench.model), before), "the network stays as it is"
        return found
    private.train(*given, assignment)
    return (read_vector(bench.model) - before).astype(np.float64)


def test_the_step_is_that_of_plain_descent_with_weight_decay() -> None:
    plan = sharing_plan()
    ordinary = change_of(plan, "train")
    assert np.abs(ordinary).max() > 1e-3
    np.testing.assert_allclose(unnoised(plan), ordinary, atol=1e-7)
    assert np.abs(unnoised(sharing_plan(training__weight_decay=0.0)) - ordinary).max() > 1e-4


def test_without_noise_of_its_own_a_part_is_the_clipped_change_on_the_grid(tmp_path: Path) -> None:
    plan = sharing_plan()
    site = guarded_site(plan, tmp_path)
    with_noise(site, lambda _claim: Quiet())
    reply = part(site, train(plan, start(site)))
    grid = resolution(plan.aggregation.fixed_point)
    np.testing.assert_array_equal(reply.values, np.rint(unnoised(plan) / grid).astype(np.int32))


@pytest.mark.parametrize("threshold", [3, 8])
def test_a_part_holds_its_share_of_the_planned_noise(tmp_path: Path, threshold: int) -> None:
    plan = sharing_plan(secure_aggregation__threshold=threshold, privacy__clip_norm=5.0)
    site, terms = guarded_site(plan, tmp_path, cap=Cap(1e6, 1e-4)), terms_for(plan, "aachen")
    with_noise(site, seeded)
    grid = resolution(plan.aggregation.fixed_point)
    parts = [part(site, train(plan, start(site), run=str(run))).values * grid for run in range(40)]
    noise = np.concatenate(parts[::2]) - np.concatenate(parts[1::2])
    wanted = 0.05 * terms.noise_per_coordinate / math.sqrt(threshold - 1) * math.sqrt(2)
    # The gradients of the patients drawn, which differ from run to run, are short of what hides them.
    assert float(noise.std()) == pytest.approx(wanted, rel=0.05)
    assert kstest(noise / noise.std(), "norm").pvalue > 1e-4
    assert kstest(noise / noise.std() / 1.2, "norm").pvalue < 1e-6


def test_the_rate_of_a_round_scales_the_noise_with_the_change() -> None:
    plan = sharing_plan(plan__rounds=20, training__schedule="cosine", training__weight_decay=0.0)
    first, last = (local.round_assignment(plan, number).rate(0) for number in (1, 20))
    assert last < 0.1 * first
    assert np.abs(unnoised(plan, 20)).max() < 0.2 * np.abs(unnoised(plan, 1)).max()


def test_a_part_tells_no_loss_no_steps_no_time_and_nothing_of_what_was_clipped(tmp_path: Path) -> None:
    plan = sharing_plan(aggregation__fixed_point={"range": 4.0, "bits": 24}, training__weight_decay=50.0)
    site = guarded_site(plan, tmp_path)
    large = np.full_like(start(site), 3.0)
    reply = part(site, train(plan, large))
    assert (reply.loss_sum, reply.steps, reply.saturated, reply.seconds, reply.weight) == (0, 0, 0, 0.0, 1)
    assert float(reply.values.mean()) * resolution(plan.aggregation.fixed_point) < -3.0


def test_a_round_is_paid_for_with_both_multipliers_and_answered_once(tmp_path: Path) -> None:
    plan = sharing_plan()
    site, terms = guarded_site(plan, tmp_path), terms_for(plan, "aachen")
    first = part(site, train(plan, start(site)))
    again = part(guarded_site(plan, tmp_path), train(plan, start(site)))
    assert np.array_equal(first.values, again.values)
    assert site.guard is not None
    spent = site.guard.till.ledger.spending(COHORT).splits["train"].own.released
    assert spent == (Event(terms.noise_multiplier, terms.sampling_rate, 1, terms.alone),)
    assert terms.alone == pytest.approx(terms.noise_multiplier / math.sqrt(3))


def test_another_run_draws_other_noise(tmp_path: Path) -> None:
    plan = sharing_plan()
    site = guarded_site(plan, tmp_path, cap=Cap(100.0, 1e-4))
    first, second = (part(site, train(plan, start(site), run=run)) for run in ("one", "two"))
    assert (first.values != second.values).mean() > 0.9


def test_a_site_with_nothing_to_mask_with_sends_nothing(tmp_path: Path) -> None:
    plan = sharing_plan()
    reply = guarded_site(plan, tmp_path).answer(train(plan, np.zeros(1, np.float32)))
    assert getattr(reply, "code", "") == "no-masks"


def test_a_gradient_moves_no_further_than_a_patient_may() -> None:
    """With and without one patient, the change differs by at most rate * C / L."""
    plan = sharing_plan(privacy__clip_norm=0.01)
    terms, bench, data = terms_for(plan, "aachen"), Workbench.for_plan(plan), tiny_data("aachen")

    def change(patients: Any) -> NDArray[np.float64]:
        def streams(step: int, patient: str) -> np.random.Generator:
            return generator(plan.plan.seed, "private", "aachen", 1, step, patient)

        sampler = Sampler(TrainingData(data.train, patients), bench.task, plan, streams, Quiet())
        return private.unnoised_change(
            bench.model, bench.patient_gradients, sampler, terms, local.round_assignment(plan, 1)
        )

    everybody = change(data.train_patients)
    bound = 0.05 * terms.clip_norm / terms.denominator
    moved = [
        float(np.linalg.norm(everybody - change(data.train_patients[:place] + data.train_patients[place + 1 :])))
        for place in range(len(data.train_patients))
    ]
    assert max(moved) <= bound * (1 + 1e-9)
    assert max(moved) >= bound * 0.99, "a patient's gradient is longer than the clip norm here"


def test_a_model_that_no_gradient_is_finite_for_moves_by_noise_and_decay_alone(tmp_path: Path) -> None:
    """An error would tell that somebody was drawn."""
    plan = sharing_plan()
    site = guarded_site(plan, tmp_path)
    huge = np.full_like(start(site), 1e38)
    reply = part(site, train(plan, huge))
    furthest = room(LEAST_DEVIATION, plan.aggregation.fixed_point)
    assert reply.values.max() < -0.9 * furthest, "decay of 1e38 is clipped before the noise"
    assert len(np.unique(reply.values)) > 10
