"""Who is trained on, how, and under which promise: coins, arms, and models trained by the code of production."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_federation import SITES, tiny_data, tiny_plan

from client.data.prepared.site_data import SiteData
from client.site import Site
from shared.arrays import read_vector
from shared.errors import RunError, SiteDataError
from shared.plan import Plan
from shared.privacy.accounting import epsilon
from simulations.attacks import trials
from simulations.attacks.arms import DEFAULTS, Arm, arms_of, private_plan, without_privacy
from simulations.attacks.bounds import Promise
from simulations.attacks.population import Population, members_of, population
from simulations.attacks.trials import answers, losses_of, train
from simulations.workers import Sites, SiteSpec

SPECS = tuple(SiteSpec(name, Path("nowhere"), "", Path("nowhere")) for name in SITES)
PLAN = tiny_plan(plan__rounds=2, training__steps=3)
PRIVATE: dict[str, Any] = {
    "privacy__unit": "patient",
    "privacy__epsilon": 3.0,
    "privacy__delta": 1e-3,
    "privacy__clip_norm": 0.5,
    "privacy__public_patients": 1000,
    "privacy__sampling_rate": 0.001,
    "privacy__images_per_patient": 2,
    "evaluation__release": "dp",
}


def memory_sites(plan: Plan = PLAN) -> Sites:
    sites = Sites(without_privacy(plan), Path("nowhere"))
    sites._sites.update({name: Site(name, tiny_data(name), sites.workbench) for name in SITES})
    return sites


@pytest.fixture(scope="module")
def arms() -> tuple[Arm, ...]:
    return arms_of(PLAN, 20)


# --- the population --------------------------------------------------------------------------------------------------


def test_everybody_belongs_whatever_their_split_and_each_case_to_one_patient() -> None:
    everybody = population(memory_sites(), SPECS)
    assert len(everybody.cases) == 3 * (12 + 6 + 8)
    assert len(everybody.patients) == 3 * (6 + 3 + 4)
    assert sorted(place for own in everybody.patients for place in own) == list(range(len(everybody.cases)))
    assert all(len({everybody.cases[place].patient for place in own}) == 1 for own in everybody.patients)


def test_a_site_that_sits_out_gives_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = memory_sites()
    asked = Sites.site

    def refusing(self: Sites, spec: SiteSpec) -> Site:
        if spec.name == SITES[1]:
            raise SiteDataError("nothing here")
        return asked(self, spec)

    monkeypatch.setattr(Sites, "site", refusing)
    assert len(population(sites, SPECS).patients) == 2 * 13


def test_members_and_strangers_are_everybody_once() -> None:
    everybody = population(memory_sites(), SPECS)
    members = members_of(3, 0, len(everybody.patients))
    inside = {place for own in everybody.training_data(members).patients for place in own}
    outside = {case.case_id for case in everybody.strangers(members)}
    assert {everybody.cases[place].case_id for place in inside}.isdisjoint(outside)
    assert len(inside) + len(outside) == len(everybody.cases)


def test_coins_are_fair_and_independent_between_models_and_patients() -> None:
    coins = np.stack([members_of(1, model, 200) for model in range(200)]).astype(float)
    assert coins.mean() == pytest.approx(0.5, abs=4 * 0.5 / 200)
    for centred in (coins - 0.5, coins.T - 0.5):
        together = (centred @ centred.T / 200)[~np.eye(200, dtype=bool)]
        assert abs(together.mean()) < 4 * 0.25 / 200
        assert together.std() == pytest.approx(0.25 / np.sqrt(200), rel=0.1)


def test_a_patient_s_coin_does_not_depend_on_how_many_come_after() -> None:
    np.testing.assert_array_equal(members_of(1, 2, 50), members_of(1, 2, 80)[:50])
    assert not np.array_equal(members_of(1, 2, 50), members_of(1, 3, 50))
    assert not np.array_equal(members_of(1, 2, 50), members_of(2, 2, 50))


# --- arms ------------------------------------------------------------------------------------------------------------


def test_a_plan_without_a_promise_is_attacked_under_the_defaults(arms: tuple[Arm, ...]) -> None:
    assert [arm.kind for arm in arms] == ["control", "plain", "private", "private"]
    assert [arm.promise for arm in arms if arm.kind == "private"] == list(DEFAULTS)
    assert len({arm.name for arm in arms}) == 4


def test_a_plan_that_promises_is_attacked_under_its_own_promise() -> None:
    (private,) = [arm for arm in arms_of(tiny_plan(**PRIVATE), 20) if arm.kind == "private"]
    assert private.promise == Promise(3.0, 1e-3)
    assert private.plan.privacy.clip_norm == 0.5
    assert private.plan.privacy.images_per_patient == 2


def test_the_noise_keeps_the_promise_for_the_patients_that_models_here_are_trained_on() -> None:
    """The plan's own rate was for a thousand patients; with it, twenty would be promised too much or too little."""
    (private,) = [arm for arm in arms_of(tiny_plan(**PRIVATE), 20) if arm.kind == "private"]
    assert private.terms is not None
    assert private.terms.sampling_rate == pytest.approx(4 / 20)
    assert private.terms.denominator == pytest.approx(4)
    spent = epsilon(private.terms.all_events(), 1e-3)
    assert 0.9 * 3.0 < spent <= 3.0


def test_arms_differ_in_nothing_but_what_they_are_named_for(arms: tuple[Arm, ...]) -> None:
    control, plain, *private = (arm.plan for arm in arms)
    assert plain == without_privacy(PLAN)
    for one in private:
        assert one.model_copy(update={"privacy": plain.privacy}) == plain
    assert control.model == plain.model
    assert control.plan.rounds > plain.plan.rounds
    assert control.training.patients_per_step == plain.training.patients_per_step


def test_the_control_is_trained_to_overfit() -> None:
    plan = tiny_plan(
        training__weight_decay=0.1, training__schedule="cosine", training__augmentation={"flip": True, "noise": 0.5}
    )
    (control,) = [arm.plan for arm in arms_of(plan, 20) if arm.kind == "control"]
    assert control.training.weight_decay == 0
    assert control.training.schedule == "constant"
    assert not control.training.augmentation.flip
    assert control.training.augmentation.noise == 0


def test_without_privacy_nothing_of_a_promise_stays() -> None:
    plain = without_privacy(tiny_plan(**PRIVATE))
    assert plain.privacy.unit == "none"
    assert plain.privacy.epsilon is None
    assert plain.evaluation.release == "site"


@pytest.mark.parametrize(
    "changes",
    [
        {"training__gradient_clip": 1.0},
        {"aggregation__method": "fedprox", "aggregation__proximal_mu": 0.1},
        {"aggregation__weights": "patients"},
        {"personalisation__steps": 3, "personalisation__learning_rate": 0.1},
    ],
    ids=["gradient-clip", "fedprox", "counts", "personalisation"],
)
def test_what_private_training_does_not_know_is_left_out_of_its_arm(changes: dict[str, Any]) -> None:
    plan = tiny_plan(**changes)
    assert private_plan(plan, Promise(2.0, 1e-4), 20).privacy.unit == "patient"
    assert without_privacy(plan).model_copy(update={"personalisation": plan.personalisation}) == plan


# --- trials ----------------------------------------------------------------------------------------------------------


def test_a_trial_repeats_to_the_bit_and_models_and_arms_differ(arms: tuple[Arm, ...]) -> None:
    sites = memory_sites()
    initial = sites.workbench.initial_weights()
    for arm in arms[1:3]:
        one, two, other = (answers(sites, SPECS, arm, model, initial) for model in (0, 0, 1))
        np.testing.assert_array_equal(one.losses, two.losses)
        assert not np.array_equal(one.losses, other.losses)
    plain, private = (answers(sites, SPECS, arm, 0, initial) for arm in arms[1:3])
    assert not np.array_equal(plain.losses, private.losses)


def test_all_arms_start_from_the_plan_s_weights(arms: tuple[Arm, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sites = memory_sites()
    initial = sites.workbench.initial_weights()
    started = []
    monkeypatch.setattr(trials, "train", lambda bench, *_: started.append(read_vector(bench.model)))
    found = [answers(sites, SPECS, arm, 0, initial) for arm in arms]
    assert all(np.array_equal(weights, initial) for weights in started)
    assert len({one.losses.tobytes() for one in found}) == 1, "untrained models say the same, whoever was drawn"


def test_answers_hold_a_value_for_every_patient_and_confidence_falls_with_loss(arms: tuple[Arm, ...]) -> None:
    sites = memory_sites()
    found = answers(sites, SPECS, arms[1], 0, sites.workbench.initial_weights())
    assert found.losses.shape == found.confidences.shape == (39,)
    assert np.corrcoef(found.losses, found.confidences)[0, 1] < -0.9
    assert 0 <= found.quality <= 1


def test_losses_are_the_task_s_own_case_by_case() -> None:
    sites = memory_sites()
    cases = population(sites, SPECS).cases[:70]
    bench = sites.workbench
    found = losses_of(bench, cases)
    for case, loss in zip(cases[::9], found[::9], strict=True):
        with torch.no_grad():
            alone = bench.task.loss(bench.model(torch.from_numpy(case.voxels)[None]), torch.tensor([case.label]))
        assert loss == pytest.approx(float(alone), rel=1e-5)


def test_a_model_that_diverges_is_an_error_and_not_a_score(arms: tuple[Arm, ...]) -> None:
    sites = memory_sites()
    wild = dataclasses.replace(
        arms[2], plan=private_plan(tiny_plan(training__learning_rate=1e30, training__optimizer="sgd"), DEFAULTS[0], 20)
    )
    with pytest.raises(RunError, match="not finite"):
        answers(sites, SPECS, wild, 0, sites.workbench.initial_weights())


def distance_moved(patients: int, arm: Arm) -> float:
    """How far one training moves the weights."""
    sites = memory_sites()
    bench, everybody = sites.workbench, population(sites, SPECS)
    initial = bench.initial_weights()
    members = np.zeros(len(everybody.patients), bool)
    members[:patients] = True
    train(bench, arm, everybody.training_data(members), 0)
    return float(np.linalg.norm(read_vector(bench.model) - initial))


def test_private_training_without_any_patient_still_moves_by_its_noise(arms: tuple[Arm, ...]) -> None:
    """A model of nobody must look like a model of somebody."""
    nobody, somebody = (distance_moved(patients, arms[2]) for patients in (0, 20))
    assert nobody > 0
    assert 0.3 < nobody / somebody < 3


def test_private_training_on_another_draw_has_the_same_noise(arms: tuple[Arm, ...]) -> None:
    """Noise is the model's, whoever is in it: what differs between two draws is the patients."""
    assert distance_moved(0, arms[2]) == distance_moved(0, arms[2])


def test_the_population_is_a_value_that_training_does_not_change(arms: tuple[Arm, ...]) -> None:
    sites = memory_sites()
    before = population(sites, SPECS)
    copies = [case.voxels.copy() for case in before.cases]
    answers(sites, SPECS, arms[2], 0, sites.workbench.initial_weights())
    assert all(np.array_equal(case.voxels, copy) for case, copy in zip(before.cases, copies, strict=True))
    assert isinstance(before, Population)


def test_tiny_data_has_patients_with_several_images() -> None:
    """The unit is the patient: a data set with one image each would not test it."""
    data: SiteData = tiny_data(SITES[0])
    assert all(len(own) == 2 for own in data.train_patients)
