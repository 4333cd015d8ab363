"""A site's replies: the right one to each request, the same each time, and a refusal with a code for all else."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tiny_federation import tiny_data, tiny_plan, tiny_site

from client.data.prepared.site_data import SiteData
from client.site import Site
from client.training import local
from client.training.batches import TrainingData
from client.training.inference import statistics
from client.workbench import Workbench
from shared.arrays import read_vector
from shared.errors import CaseError
from shared.evaluation.additive import UNIT, Statistics
from shared.fixed_point import dequantise, resolution
from shared.messages import (
    Cross,
    Envelope,
    Evaluate,
    Hello,
    Measured,
    Personalise,
    Refusal,
    Reply,
    Request,
    Share,
    Shared,
    Split,
    Train,
    Update,
    Vector,
    Welcome,
)
from shared.plan import Plan
from shared.seeds import generator
from shared.tasks import TASKS
from shared.tasks.task import Task

PERSONAL: dict[str, Any] = {"personalisation__steps": 3, "personalisation__learning_rate": 0.01}


def envelope(plan: Plan, round_number: int = 1, **changes: Any) -> Envelope:
    return dataclasses.replace(Envelope("run", plan.digest(), round_number), **changes)


def weights_of(plan: Plan) -> Vector:
    return Workbench.for_plan(plan).initial_weights()


def asked_to_train(site: Site, round_number: int = 1) -> Update:
    plan = site.workbench.plan
    reply = site.answer(Train(envelope(plan, round_number), weights_of(plan)))
    assert isinstance(reply, Update)
    return reply


def refused(site: Site, request: Request) -> Refusal:
    reply = site.answer(request)
    assert isinstance(reply, Refusal), reply
    return reply


def test_hello_is_answered_with_the_fingerprint_and_the_weight() -> None:
    plan = tiny_plan()
    reply = tiny_site("aachen", plan).answer(Hello(envelope(plan, 0)))
    assert isinstance(reply, Welcome)
    assert reply.fingerprint == Workbench.for_plan(plan).fingerprint()
    assert reply.weight == 1


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        ({}, 1),
        ({"aggregation__weights": "patients"}, 6),
        ({"aggregation__weights": "public", "aggregation__public_weights": {"aachen": 40, "bergen": 3}}, 40),
    ],
)
def test_the_weight_is_one_a_public_constant_or_the_number_of_training_patients(
    changes: dict[str, Any], weight: int
) -> None:
    site = tiny_site("aachen", tiny_plan(**changes))
    assert len({case.patient for case in site.data.train}) == 6
    assert site.weight() == weight
    assert asked_to_train(site).weight == weight


def test_a_site_that_the_public_weights_forget_says_so_instead_of_guessing() -> None:
    plan = tiny_plan(aggregation__weights="public", aggregation__public_weights={"bergen": 3})
    reply = refused(tiny_site("aachen", plan), Hello(envelope(plan, 0)))
    assert reply.code == "no-weight"
    assert reply.sentence == "aggregation.public_weights names 1 sites, but not this one"


def test_an_update_is_trained_minus_received_on_the_grid() -> None:
    """Oracle: ``local.train`` called by hand with the same generator; the grid is finer than float32 near 1."""
    plan = tiny_plan()
    update = asked_to_train(tiny_site("aachen", plan), 2)
    bench, start = Workbench.for_plan(plan), weights_of(plan)
    data = tiny_data("aachen")
    trained = local.train(
        bench.load(start),
        TrainingData(data.train, data.train_patients),
        bench.task,
        plan,
        local.round_assignment(plan, 2),
        rng=generator(plan.plan.seed, "train", "aachen", 2),
        device=bench.device,
    )
    change = dequantise(update.values, plan.aggregation.fixed_point)
    step = resolution(plan.aggregation.fixed_point)
    np.testing.assert_allclose(change, read_vector(bench.model) - start, rtol=0, atol=step / 2)
    assert update.loss_sum * UNIT == pytest.approx(trained.loss_sum, abs=UNIT)
    assert (update.steps, update.bits, update.saturated) == (4, 32, 0)
    assert update.schema == bench.parameters.digest()
    assert update.seconds > 0


def test_a_change_beyond_the_plan_s_range_is_clipped_and_counted() -> None:
    plan = tiny_plan(aggregation__fixed_point={"range": 2.0**-10, "bits": 16})
    update = asked_to_train(tiny_site("aachen", plan))
    assert update.saturated > 0
    assert np.abs(dequantise(update.values, plan.aggregation.fixed_point)).max() <= 2.0**-10


@pytest.mark.parametrize("between", ["nothing", "another-site", "another-round", "measuring"])
def test_the_same_request_gets_the_same_reply_whatever_was_asked_in_between(between: str) -> None:
    plan = tiny_plan()
    bench = Workbench.for_plan(plan)
    one, other = (Site(name, tiny_data(name), bench) for name in ("aachen", "bergen"))
    first = asked_to_train(one)
    match between:
        case "another-site":
            asked_to_train(other)
        case "another-round":
            asked_to_train(one, 3)
        case "measuring":
            one.answer(Evaluate(envelope(plan), first.values.astype(np.float32) * 1e-9, "test"))
    again = asked_to_train(one)
    np.testing.assert_array_equal(first.values, again.values)
    assert (first.loss_sum, first.saturated) == (again.loss_sum, again.saturated)


@pytest.mark.parametrize(("site", "round_number", "seed"), [("bergen", 1, 3), ("aachen", 2, 3), ("aachen", 1, 4)])
def test_another_site_round_or_seed_draws_other_batches(site: str, round_number: int, seed: int) -> None:
    """On the same cases and from the same weights, so that only the draw differs."""
    start, data = weights_of(tiny_plan()), tiny_data("aachen")

    def values(name: str, number: int, plan: Plan) -> Any:
        reply = Site(name, data, Workbench.for_plan(plan)).answer(Train(envelope(plan, number), start))
        assert isinstance(reply, Update)
        return reply.values

    usual = values("aachen", 1, tiny_plan())
    assert (values(site, round_number, tiny_plan(plan__seed=seed)) != usual).any()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_measuring_counts_the_cases_of_the_split_that_was_asked_for(split: Split) -> None:
    plan = tiny_plan()
    site, start = tiny_site("aachen", plan), weights_of(plan)
    reply = site.answer(Evaluate(envelope(plan), start, split))
    assert isinstance(reply, Measured)
    bench = Workbench.for_plan(plan)
    by_hand = statistics(bench.load(start), tiny_data("aachen").split(split), bench.task, plan, bench.device)
    np.testing.assert_array_equal(reply.counts, by_hand.flat())
    assert Statistics.from_flat(bench.task.schema, reply.counts).total()["cases"] == len(site.data.split(split))
    assert reply.schema == bench.task.schema.digest()


def test_measuring_does_not_train() -> None:
    plan = tiny_plan()
    site, start = tiny_site("aachen", plan), weights_of(plan)
    site.answer(Evaluate(envelope(plan), start, "train"))
    np.testing.assert_array_equal(read_vector(site.workbench.model), start)


def test_a_site_without_cases_in_a_split_answers_with_zero_counts() -> None:
    plan, data = tiny_plan(), tiny_data("aachen")
    site = Site("aachen", SiteData(data.train, [], [], data.train_patients), Workbench.for_plan(plan))
    reply = site.answer(Evaluate(envelope(plan), weights_of(plan), "test"))
    assert isinstance(reply, Measured)
    assert not reply.counts.any()


def test_fine_tuned_weights_are_kept_by_parameter_and_are_what_was_measured(tmp_path: Path) -> None:
    plan = tiny_plan(**PERSONAL)
    site, start = tiny_site("aachen", plan, tmp_path / "own"), weights_of(plan)
    reply = site.answer(Personalise(envelope(plan, 3), start, "test"))
    assert isinstance(reply, Measured)
    (kept,) = (tmp_path / "own" / "personal").iterdir()
    bench = Workbench.for_plan(plan)
    tensors = safetensors.numpy.load_file(kept)
    assert list(bench.parameters.split(start)) == [name for name in bench.parameters.names if name in tensors]
    personal = np.concatenate([tensors[name].ravel() for name in bench.parameters.names])
    by_hand = statistics(bench.load(personal), tiny_data("aachen").test, bench.task, plan, bench.device)
    np.testing.assert_array_equal(reply.counts, by_hand.flat())
    assert (personal != start).any()


def test_fine_tuned_weights_say_whose_they_are_and_only_their_owner_may_look(tmp_path: Path) -> None:
    plan = tiny_plan(**PERSONAL)
    tiny_site("aachen", plan, tmp_path / "own").answer(Personalise(envelope(plan, 3), weights_of(plan), "test"))
    folder = tmp_path / "own" / "personal"
    (kept,) = folder.iterdir()
    header = kept.read_bytes()
    said = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert said == {"plan": plan.digest(), "run": "run", "site": "aachen"}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_folder_nothing_is_kept_and_the_reply_is_the_same(tmp_path: Path) -> None:
    plan = tiny_plan(**PERSONAL)
    request = Personalise(envelope(plan, 3), weights_of(plan), "test")
    kept, dropped = (tiny_site("aachen", plan, folder).answer(request) for folder in (tmp_path, None))
    assert isinstance(kept, Measured)
    assert isinstance(dropped, Measured)
    np.testing.assert_array_equal(kept.counts, dropped.counts)


def test_fine_tuning_that_the_plan_does_not_have_is_refused() -> None:
    plan = tiny_plan()
    assert (
        refused(tiny_site("aachen", plan), Personalise(envelope(plan), weights_of(plan), "test")).code == "not-in-plan"
    )


SHARING = {**PERSONAL, "evaluation__cross_site": True}


def test_the_model_that_is_shared_is_the_one_that_was_kept_and_measured(tmp_path: Path) -> None:
    plan = tiny_plan(**SHARING)
    site, said = tiny_site("aachen", plan, tmp_path), envelope(plan, 3)
    measured = site.answer(Personalise(said, weights_of(plan), "test"))
    shared = site.answer(Share(said))
    assert isinstance(measured, Measured)
    assert isinstance(shared, Shared)
    assert shared.schema == Workbench.for_plan(plan).parameters.digest()
    crossed = site.answer(Cross(said, shared.weights, "aachen"))
    assert isinstance(crossed, Measured)
    assert crossed.schema == measured.schema
    np.testing.assert_array_equal(crossed.counts, measured.counts)
    start = site.answer(Cross(said, weights_of(plan), "aachen"))
    assert isinstance(start, Measured)
    assert (start.counts != measured.counts).any()  # the control: another model has other counts


def test_a_model_is_shared_for_its_own_run_and_plan_only(tmp_path: Path) -> None:
    plan = tiny_plan(**SHARING)
    site = tiny_site("aachen", plan, tmp_path)
    assert refused(site, Share(envelope(plan, 3))).code == "not-kept"
    site.answer(Personalise(envelope(plan, 3), weights_of(plan), "test"))
    assert refused(site, Share(envelope(plan, 3, run="another"))).code == "not-kept"
    assert refused(tiny_site("bergen", plan, tmp_path), Share(envelope(plan, 3))).code == "not-kept"
    (path,) = (tmp_path / "personal").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(site, Share(envelope(plan, 3))).code == "not-kept"


def test_a_plan_that_shares_no_models_gets_none_and_measures_none(tmp_path: Path) -> None:
    plan = tiny_plan(**PERSONAL)
    site, said = tiny_site("aachen", plan, tmp_path), envelope(plan, 3)
    site.answer(Personalise(said, weights_of(plan), "test"))
    assert refused(site, Share(said)).code == "not-in-plan"
    assert refused(site, Cross(said, weights_of(plan), "bergen")).code == "not-in-plan"


def every_request(plan: Plan, said: Envelope) -> list[Request]:
    start = weights_of(plan)
    return [
        Hello(said),
        Train(said, start),
        Evaluate(said, start, "validation"),
        Personalise(said, start, "test"),
        Share(said),
        Cross(said, start, "bergen"),
    ]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"protocol": 2}, "protocol", "the coordinator speaks protocol 2, this site 1"),
        ({"plan_digest": "f" * 64}, "plan-digest", "the coordinator runs plan ffffffffffff, this site agreed to"),
        ({"round": 4}, "round", "round 4 is outside the plan's 3 rounds"),
        ({"round": -1}, "round", "round -1 is outside the plan's 3 rounds"),
    ],
)
def test_a_request_that_does_not_belong_to_this_agreement_is_refused_whatever_it_asks(
    changes: dict[str, Any], code: str, words: str
) -> None:
    plan = tiny_plan(**PERSONAL)
    site = tiny_site("aachen", plan)
    for request in every_request(plan, envelope(plan, **changes)):
        reply = refused(site, request)
        assert reply.code == code
        assert words in reply.sentence


def test_there_is_no_training_before_the_first_round() -> None:
    plan = tiny_plan()
    reply = refused(tiny_site("aachen", plan), Train(envelope(plan, 0), weights_of(plan)))
    assert reply.code == "round"


class Unreadable(list[Any]):
    """Cases that nobody may look at."""

    def __getitem__(self, _index: Any) -> Any:
        raise AssertionError("a case was read")


def test_nothing_is_read_before_everything_is_checked() -> None:
    plan = tiny_plan()
    data = SiteData(Unreadable([0] * 4), Unreadable([0]), Unreadable([0]), ((0, 1), (2, 3)))
    site = Site("aachen", data, Workbench.for_plan(plan))
    start = weights_of(plan)
    nan = start.copy()
    nan[3] = np.nan
    for said, weights in (
        (envelope(plan, plan_digest="0" * 64), start),
        (envelope(plan), start[:-1]),
        (envelope(plan), nan),
    ):
        assert isinstance(site.answer(Train(said, weights)), Refusal)
        assert isinstance(site.answer(Evaluate(said, weights, "test")), Refusal)


SPOILT: dict[str, tuple[Callable[[Vector], Any], str]] = {
    "too short": (lambda weights: weights[:-1], "weights-shape"),
    "of another type": (lambda weights: weights.astype(np.float64), "weights-shape"),
    "with a NaN": (lambda weights: np.append(weights[1:], np.float32(np.nan)), "weights-not-finite"),
    "infinite": (lambda weights: np.full_like(weights, np.inf), "weights-not-finite"),
}


@pytest.mark.parametrize("spoilt", sorted(SPOILT))
def test_weights_that_cannot_be_used_are_refused_and_the_next_request_is_served(spoilt: str) -> None:
    spoil, code = SPOILT[spoilt]
    plan = tiny_plan()
    site = tiny_site("aachen", plan)
    usual = asked_to_train(site)
    assert refused(site, Train(envelope(plan), spoil(weights_of(plan)))).code == code
    np.testing.assert_array_equal(asked_to_train(site).values, usual.values)


def test_training_that_diverges_is_refused_with_the_step_and_nothing_leaves() -> None:
    plan = tiny_plan(training__learning_rate=1e30, training__optimizer="sgd", training__steps=20)
    reply = refused(tiny_site("aachen", plan), Train(envelope(plan), weights_of(plan)))
    assert reply.code == "loss-not-finite"
    assert "of 20" in reply.sentence
    assert "learning_rate" in reply.hint


def test_a_case_that_the_task_cannot_measure_is_a_refusal_without_patient_data(monkeypatch: pytest.MonkeyPatch) -> None:
    original = TASKS["classification"]

    def picky(plan: Plan) -> Task:
        def observe(_scores: Any, _case: Any) -> Any:
            raise CaseError("the case has no label", hint="label it", code="label-missing")

        return dataclasses.replace(original(plan), observe=observe)

    monkeypatch.setitem(TASKS, "classification", picky)
    plan = tiny_plan()
    reply = refused(tiny_site("aachen", plan), Evaluate(envelope(plan), weights_of(plan), "test"))
    assert reply == Refusal("label-missing", "the case has no label", "label it")


def test_a_defect_of_ours_is_not_dressed_up_as_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan()
    site = tiny_site("aachen", plan)

    def broken(*_: Any, **__: Any) -> Reply:
        raise ZeroDivisionError

    monkeypatch.setattr(local, "train", broken)
    with pytest.raises(ZeroDivisionError):
        site.answer(Train(envelope(plan), weights_of(plan)))


def test_fedprox_pulls_updates_back_to_what_was_received() -> None:
    """The stronger the pull, the smaller the change; with the same draws."""
    sizes = []
    for mu in (0.0, 1.0, 100.0):
        changes: dict[str, Any] = {"training__optimizer": "sgd", "training__learning_rate": 0.01, "training__steps": 20}
        if mu:
            changes |= {"aggregation__method": "fedprox", "aggregation__proximal_mu": mu}
        update = asked_to_train(tiny_site("aachen", tiny_plan(**changes)))
        sizes.append(float(np.linalg.norm(update.values.astype(np.float64))))
    assert sizes[0] > sizes[1] > sizes[2] > 0
