"""The audit with canaries: what guesses prove, that a right mechanism passes, and that gross faults do not."""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_training import FIT, make_plan
from torch import Tensor, nn

from client.training import canary
from client.training.batches import Batch
from client.training.canary import CANARIES, GUESSES, ROWS, TEST_DELTA, TEST_EPSILON, Guesses, LookedFor, Trial
from client.training.per_patient import Network, OneByOne, PatientGradients
from client.training.stand_ins import made_up_patient
from client.training.vectorised import SideBySide
from client.workbench import Workbench
from shared.errors import ModelError
from shared.plan import Plan
from shared.privacy.clipping import Clip, ClippedSum
from shared.privacy.noise import Reals, SecureNoise, UnsafeSeededNoise

CPU = torch.device("cpu")
EDGE = 24
PRIVATE: dict[str, Any] = {
    "privacy__unit": "patient",
    "privacy__epsilon": 8.0,
    "privacy__delta": 1e-5,
    "privacy__clip_norm": 1.0,
    "privacy__public_patients": 20,
    "evaluation__release": "dp",
    "preprocessing__size": [EDGE, EDGE],
}
CLASSIFICATION: dict[str, Any] = {
    "plan__task": "classification",
    "model__name": "cnn",
    "model__channels": [4, 8],
    "model__norm": "group",
}


def private_plan(**changes: Any) -> Plan:
    return make_plan(**PRIVATE | changes)


# --- what guesses prove ----------------------------------------------------------------------------------------------


def tail(made: int, right: int, chance: float) -> float:
    """Probability of at least ``right`` successes, term by term."""
    return math.fsum(
        math.comb(made, k) * chance**k * (1 - chance) ** (made - k) for k in range(max(0, right), made + 1)
    )


def p_value_by_hand(found: Guesses, epsilon: float, delta: float) -> float:
    """Theorem 5.2 as it is printed: the largest of P[v > W >= v - i] / i over all i."""
    chance = math.exp(epsilon) / (math.exp(epsilon) + 1)
    enough = tail(found.made, found.right, chance)
    shares = [(tail(found.made, found.right - i, chance) - enough) / i for i in range(1, found.canaries + 1)]
    return min(1.0, enough + 2 * found.canaries * delta * max(shares))


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize(
    ("canaries", "made", "right"), [(10, 6, 0), (10, 6, 3), (10, 10, 10), (60, 40, 31), (96, 48, 47), (96, 96, 70)]
)
def test_the_bound_is_the_theorem_term_by_term(
    canaries: int, made: int, right: int, epsilon: float, delta: float
) -> None:
    found = Guesses(canaries, made, right)
    assert found.p_value(epsilon, delta) == pytest.approx(p_value_by_hand(found, epsilon, delta), rel=1e-6, abs=1e-12)


def test_guesses_that_are_all_right_prove_what_can_be_computed_on_paper() -> None:
    """Without delta, r right guesses of r have probability q^r: 5 % at q = 0.05 ** (1 / r)."""
    for made in (1, 5, 48, 500):
        q = 0.05 ** (1 / made)
        proved = Guesses(made, made, made).epsilon_at_least(0.0, 0.95)
        assert proved == pytest.approx(max(0.0, math.log(q / (1 - q))), abs=1e-5)


def test_what_is_proved_grows_with_right_guesses_and_falls_with_confidence_and_delta() -> None:
    by_right = [Guesses(96, 48, right).epsilon_at_least(1e-5, 0.95) for right in range(49)]
    assert by_right == sorted(by_right)
    assert by_right[24] == 0.0 < by_right[35] < by_right[48]
    found = Guesses(96, 48, 46)
    by_confidence = [found.epsilon_at_least(1e-5, one) for one in (0.9, 0.95, 0.99, 0.999)]
    by_delta = [found.epsilon_at_least(one, 0.95) for one in (0.0, 1e-5, 1e-4, 1e-3)]
    for values in (by_confidence, by_delta):
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 4


def test_the_p_value_grows_with_epsilon_and_is_crossed_where_the_bound_says() -> None:
    found = Guesses(96, 48, 44)
    values = [found.p_value(epsilon, 1e-5) for epsilon in np.linspace(0, 5, 60)]
    assert values == sorted(values)
    bound = found.epsilon_at_least(1e-5, 0.95)
    assert found.p_value(bound - 1e-4, 1e-5) < 0.05 < found.p_value(bound + 1e-4, 1e-5)


def answered(epsilon: float, canaries: int, rng: np.random.Generator) -> Guesses:
    """Randomised response, which has this epsilon exactly, and its best guesser, who believes every answer."""
    truth = rng.random(canaries) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return Guesses(canaries, canaries, int(truth.sum()))


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_of_randomised_response_more_than_its_epsilon_is_proved_at_most_once_in_twenty(epsilon: float) -> None:
    rng = np.random.default_rng(11)
    found = [answered(epsilon, 60, rng) for _ in range(400)]
    proved = functools.cache(Guesses.epsilon_at_least)
    wrong = sum(proved(one, 0.0, 0.95) > epsilon for one in found)
    assert wrong <= 33, "20 are expected at most; 33 are three standard deviations more"
    careless = sum(proved(one, 0.0, 0.5) > epsilon for one in found)
    assert careless > 100, "the control: without confidence it would be wrong often"


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_with_many_canaries_nearly_all_of_the_epsilon_of_randomised_response_is_proved(epsilon: float) -> None:
    found = answered(epsilon, 20_000, np.random.default_rng(12))
    assert 0.9 * epsilon < found.epsilon_at_least(0.0, 0.95) <= epsilon


def test_the_gate_refuses_at_one_in_a_thousand_and_can_refuse_at_all() -> None:
    """At the test's epsilon some number of right guesses fails, and a right mechanism reaches it that rarely."""
    failing = [right for right in range(GUESSES + 1) if not Guesses(CANARIES, GUESSES, right).passed]
    assert failing == [47, 48]
    assert p_value_by_hand(Guesses(CANARIES, GUESSES, 47), TEST_EPSILON, TEST_DELTA) <= 1e-3
    assert p_value_by_hand(Guesses(CANARIES, GUESSES, 46), TEST_EPSILON, TEST_DELTA) > 1e-3


# --- guessing --------------------------------------------------------------------------------------------------------


def test_the_most_extreme_scores_are_guessed_and_the_middle_is_not() -> None:
    inside = np.array([False, False, True, True, False, True])
    scores = np.array([-5.0, -4.0, 0.1, -0.1, 7.0, 9.0])
    assert canary.guessed(scores, inside, made=4) == Guesses(6, 4, 3), "only the fifth, at 7, is guessed wrongly"
    assert canary.guessed(-scores, inside, made=4) == Guesses(6, 4, 1)


def test_who_is_in_decides_every_guess_where_scores_say_it() -> None:
    inside = SecureNoise().coins(CANARIES, 0.5)
    assert canary.guessed(inside.astype(float), inside).right == GUESSES
    assert canary.guessed(-inside.astype(float), inside).right == 0


# --- canaries --------------------------------------------------------------------------------------------------------


def test_a_canary_is_one_image_of_the_plans_size_over_and_over_with_a_target_of_the_plans_task() -> None:
    for changes in (CLASSIFICATION, CLASSIFICATION | {"data__labels": "multilabel"}):
        bench = Workbench.for_plan(private_plan(**changes))
        rng = np.random.default_rng(1)
        one, other = (canary.canary(bench.task, bench.plan, rng) for _ in range(2))
        like = made_up_patient(bench.task, bench.plan, ROWS, rng)
        assert (one.images.shape, one.images.dtype) == (like.images.shape, like.images.dtype)
        assert (one.targets.shape, one.targets.dtype) == (like.targets.shape, like.targets.dtype)
        assert all(torch.equal(row, one.images[0]) for row in one.images)
        assert not torch.equal(one.images, other.images)
        assert float(one.images.std()) == pytest.approx(1.0, abs=0.2)


def test_gradients_of_canaries_point_in_more_directions_than_those_of_random_voxels() -> None:
    """The median length of what is a canary's own, at right angles to all others."""
    trial = linear_trial()
    random = [made_up_patient(FIT, linear_plan(), 1, np.random.default_rng(seed)) for seed in range(CANARIES)]
    bright = [Batch(one.images + 3, one.targets) for one in random]
    waves, voxels = (
        own_length(canary.looked_for(replace(trial, canaries=some)).directions) for some in (trial.canaries, bright)
    )
    assert waves > 0.5
    assert waves > voxels


def own_length(directions: Tensor) -> float:
    lengths = [
        float(np.linalg.lstsq(np.delete(found, place, 0).T, found[place], rcond=None)[1][0]) ** 0.5
        for found in [directions.numpy()]
        for place in range(len(found))
    ]
    return float(np.median(lengths))


# --- mechanisms, right and wrong -------------------------------------------------------------------------------------


def linear_plan() -> Plan:
    return private_plan(privacy__clip_norm=0.5)


def linear_network() -> Network:
    """Whose gradients are its images, up to a factor: 577 coordinates."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(EDGE * EDGE, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
        model[1].bias.fill_(-3.0)
    return Network(model, FIT.loss, CPU)


def linear_trial(kind: str = "loop") -> Trial:
    network, plan = linear_network(), linear_plan()
    clip = Clip(0.5)
    engine = OneByOne(network, clip) if kind == "loop" else SideBySide(network, clip, 8)
    return Trial.of(network, engine, FIT, plan)


class Quiet:
    """Noise that is too weak by a factor."""

    def __init__(self, factor: float) -> None:
        self._factor, self._noise = factor, SecureNoise()

    def normal(self, size: int) -> Reals:
        return self._noise.normal(size) * self._factor

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        return self._noise.coins(count, rate)


Wrong = Callable[[Network, float, Batch], Tensor]


def alone(network: Network, norm: float, patient: Batch) -> Tensor:
    return OneByOne(network, Clip(norm))([patient]).values


def unclipped(network: Network, _norm: float, patient: Batch) -> Tensor:
    return alone(network, 1e30, patient)


def by_row(network: Network, norm: float, patient: Batch) -> Tensor:
    """Each image bounded, and not the patient."""
    rows = [Batch(patient.images[i : i + 1], patient.targets[i : i + 1]) for i in range(len(patient))]
    return sum((alone(network, norm, row) for row in rows), torch.zeros(()))


def twice(network: Network, norm: float, patient: Batch) -> Tensor:
    return 2 * alone(network, norm, patient)


def mean_of_rows(network: Network, norm: float, patient: Batch) -> Tensor:
    """Odd, and no fault of privacy: the mean of bounded rows is bounded."""
    return by_row(network, norm, patient) / len(patient)


class Adding:
    """An engine that adds whatever ``what`` makes of a patient."""

    def __init__(self, network: Network, norm: float, what: Wrong) -> None:
        self._network, self._norm, self._what = network, norm, what

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        total = self._network.empty_sum(Clip(self._norm))
        for patient in patients:
            total.values += self._what(self._network, self._norm, patient)
        return total


def with_engine(trial: Trial, what: Wrong) -> Trial:
    return replace(trial, engine=lambda norm: Adding(trial.network, norm, what))


def failures(trial: Trial, times: int) -> int:
    known = canary.looked_for(trial)
    return sum(not canary.audit(trial, known).passed for _ in range(times))


@pytest.mark.parametrize("kind", ["loop", "vectorised"])
def test_a_right_mechanism_passes_twenty_of_twenty(kind: str) -> None:
    assert failures(linear_trial(kind), 20) == 0


def test_gradients_that_are_not_clipped_are_found_every_time() -> None:
    assert failures(with_engine(linear_trial(), unclipped), 10) == 10


def test_images_that_are_bounded_in_place_of_patients_are_found_most_of_the_time() -> None:
    trial = linear_trial()
    assert failures(with_engine(trial, by_row), 10) >= 2
    assert failures(with_engine(trial, mean_of_rows), 5) == 0, "the control, whose patients are bounded"


@pytest.mark.parametrize(("factor", "least"), [(0.0, 10), (0.05, 9)])
def test_noise_that_is_missing_or_far_too_weak_is_found(factor: float, least: int) -> None:
    assert failures(replace(linear_trial(), noise=Quiet(factor)), 10) >= least


def test_small_faults_are_left_to_the_other_checks() -> None:
    """The module says so: this would be noticed if the audit grew sharper, and its table would then be wrong."""
    trial = linear_trial()
    for wrong in (replace(trial, noise=Quiet(0.5)), with_engine(trial, twice)):
        assert failures(wrong, 10) <= 1


def test_more_is_proved_about_weaker_noise() -> None:
    trial = linear_trial()
    known = canary.looked_for(trial)
    right = [
        np.median([canary.audit(replace(trial, noise=Quiet(factor)), known).right for _ in range(20)])
        for factor in (1.0, 0.25, 0.05)
    ]
    assert right == sorted(set(right)), right
    assert right[0] < 36


def test_a_canary_is_in_by_a_fair_coin_of_its_own() -> None:
    trial = linear_trial()
    known = canary.looked_for(trial)
    drawn: list[int] = []
    places = {id(patient): place for place, patient in enumerate(trial.canaries)}

    def note(_network: Network, _norm: float, patient: Batch) -> Tensor:
        drawn.append(places[id(patient)])
        return torch.zeros(1, dtype=torch.float64)

    times = 40
    for _ in range(times):
        canary.audit(with_engine(trial, note), known)
    counts = np.bincount(drawn, minlength=CANARIES)
    assert abs(len(drawn) / (times * CANARIES) - 0.5) < 5 * 0.5 / math.sqrt(times * CANARIES)
    assert 4 < counts.min() < counts.max() < 36, "nobody is always in or out"


def test_the_bound_is_far_below_every_canary_s_gradient() -> None:
    trial = linear_trial()
    known = canary.looked_for(trial)
    norms = [float(unclipped(trial.network, 0.0, patient).norm()) for patient in trial.canaries]
    assert known.norm == pytest.approx(np.median(norms) / 1000, rel=1e-5)
    lengths = known.directions.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_a_long_gradient_is_looked_at_in_evenly_spread_places(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = linear_trial()
    whole = canary.looked_for(trial).directions
    monkeypatch.setattr(canary, "_COORDINATES", 192)
    some = canary.looked_for(trial).directions
    assert torch.equal(some, whole[:, ::4])
    assert failures(with_engine(trial, unclipped), 3) == 3, "few coordinates still show a gross fault"
    assert failures(trial, 5) == 0


def test_an_engine_is_rebuilt_as_what_it_was_with_the_plans_kind_of_clipping() -> None:
    network, plan = linear_network(), private_plan(privacy__clipping="automatic")
    patient = canary.canary(FIT, plan, np.random.default_rng(3))
    engines: tuple[PatientGradients, ...] = (OneByOne(network, Clip(0.5)), SideBySide(network, Clip(0.5), 8))
    for engine in engines:
        again = canary.rebuilt(engine, network, plan, 1e-3)
        assert type(again) is type(engine)
        length = float(unclipped(network, 0.0, patient).norm())
        assert float(again([patient]).values.norm()) == pytest.approx(1e-3 * length / (length + 0.01), rel=1e-5)


# --- the check -------------------------------------------------------------------------------------------------------


def test_the_check_says_what_was_proved_and_moves_its_progress() -> None:
    moved: list[tuple[int, int]] = []
    found = canary.check(linear_trial(), progress=lambda done, total: moved.append((done, total)))
    assert (found.name, found.passed) == ("canary", True)
    assert f"of {GUESSES} guesses are right" in found.said
    assert f"{TEST_EPSILON:g} was promised" in found.said
    assert moved == [(place, CANARIES) for place in range(1, CANARIES + 1)]
    wrong = canary.check(with_engine(linear_trial(), unclipped))
    assert not wrong.passed
    assert wrong.said.startswith(f"{GUESSES} of {GUESSES} guesses are right: epsilon is 2.")


def test_an_audit_that_would_take_too_long_is_left_out_and_says_so() -> None:
    def never(_norm: float) -> PatientGradients:
        raise AssertionError("nothing was to be audited")

    found = canary.check(replace(linear_trial(), engine=never), at_most_s=0.0)
    assert found.passed
    assert found.said.startswith("left out: about ")
    assert "consilium-site self-test" in found.said


def test_the_network_is_as_it_was() -> None:
    trial = linear_trial()
    before = {name: value.clone() for name, value in trial.network.model.state_dict().items()}
    canary.check(trial)
    for name, value in trial.network.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in trial.network.parameters())


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_a_plans_own_network_passes_and_fails_without_noise(task: str) -> None:
    changes: dict[str, Any] = {
        "classification": CLASSIFICATION,
        "multilabel": CLASSIFICATION | {"data__labels": "multilabel"},
        "segmentation": {"plan__task": "segmentation", "model__name": "unet", "model__channels": [4, 8]},
    }[task]
    bench = Workbench.for_plan(private_plan(**changes))
    trial = Trial.of(bench._network(), bench.patient_gradients, bench.task, bench.plan)
    known: LookedFor = canary.looked_for(trial)
    assert canary.audit(trial, known).passed
    assert not canary.audit(replace(trial, noise=Quiet(0.0)), known).passed


def test_noise_that_can_be_repeated_is_noise_like_any_other_here() -> None:
    """The audit sees how much noise there is, and not who else knows it."""
    assert canary.check(replace(linear_trial(), noise=UnsafeSeededNoise(1))).passed


# --- the gate --------------------------------------------------------------------------------------------------------


def test_nobody_trains_before_the_audit_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench.for_plan(private_plan(**CLASSIFICATION))
    bench.require_tested()
    assert [one.name for one in bench.checks()][-1] == "canary"

    def bare(total: Tensor, *_: object) -> Tensor:
        return total

    monkeypatch.setattr(canary, "noisy_mean", bare)
    with pytest.raises(ModelError, match=r"self-test canary fails .*48 of 48 guesses are right") as refused:
        Workbench.for_plan(private_plan(**CLASSIFICATION)).require_tested()
    assert refused.value.code == "self-test"
    bench.require_tested()  # once is enough
