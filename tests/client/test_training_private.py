"""Private local training: what it is without noise, what noise does to weights, and that nothing else is seen."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from patients import private_plan
from scipy import stats
from tiny_training import CPU, FIT, make_model, squared_error
from torch import Tensor, nn

from client.training import private
from client.training.batches import Batch, TrainingData
from client.training.local import Assignment, round_assignment
from client.training.per_patient import Network, OneByOne
from client.training.sampling import Sampler
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.privacy.clipping import Clip, ClippedSum
from shared.privacy.mechanism import noisy_mean
from shared.privacy.noise import Noise, SecureNoise, UnsafeSeededNoise
from shared.privacy.terms import Terms
from shared.seeds import generator

UNREACHED = Clip(1e9)
SIZE = 17
"""Parameters of the linear model."""


@dataclass
class Fixed:
    """Coins and noise that a test decides."""

    coin: bool = True
    value: float = 0.0
    asked: list[int] = field(default_factory=list)

    def normal(self, size: int) -> NDArray[np.float64]:
        self.asked.append(size)
        return np.full(size, self.value)

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        assert 0 < rate <= 1
        return np.full(count, self.coin)


def people(count: int = 6) -> TrainingData:
    """Patients with one to three images each."""
    rng, cases, patients = np.random.default_rng(5), [], []
    for one in range(count):
        images = one % 3 + 1
        patients.append(tuple(range(len(cases), len(cases) + images)))
        for image in range(images):
            voxels = rng.standard_normal((1, 4, 4), dtype=np.float32)
            cases.append(Case(f"c{one}.{image}", f"p{one}", voxels, None, int(rng.integers(3)), (1.0, 1.0)))
    return TrainingData(cases, tuple(patients))


def make_sampler(plan: Plan, noise: Noise, data: TrainingData | None = None) -> Sampler:
    return Sampler(data or people(), FIT, plan, lambda step, name: generator(3, "private", step, name), noise)


def make_terms(**changes: Any) -> Terms:
    fitting = {"sampling_rate": 0.5, "noise_multiplier": 1.0, "clip_norm": 1.0, "denominator": 6.0}
    return Terms(**{**fitting, "steps_per_round": 5, "rounds": 4, **changes})


def run(plan: Plan, noise: Noise, terms: Terms | None = None, clip: Clip = UNREACHED) -> nn.Module:
    model = make_model()
    engine = OneByOne(Network(model, squared_error, CPU), clip)
    private.train(model, engine, make_sampler(plan, noise), terms or make_terms(), round_assignment(plan, 1))
    return model


def weights(model: nn.Module) -> NDArray[np.float64]:
    return np.concatenate([one.detach().double().numpy().ravel() for one in model.parameters()])


PLAIN = private_plan(privacy__images_per_patient=3, training__learning_rate=0.05)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_without_noise_and_bound_it_is_plain_training_on_the_mean_over_patients(kind: str) -> None:
    """Oracle: torch's optimizer on the mean over patients of the mean loss over each patient's images."""
    optimizer = "sgd" if kind == "momentum" else kind
    plan = private_plan(
        privacy__images_per_patient=3,
        training__optimizer=optimizer,
        training__momentum=0.9 if kind == "momentum" else 0.0,
        training__weight_decay=0.01,
        training__learning_rate=0.05,
        training__schedule="cosine",
    )
    found = run(plan, Fixed())
    model, data = make_model(), people()
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    extra = {"momentum": plan.training.momentum} if optimizer == "sgd" else {}
    theirs = kinds[optimizer](model.parameters(), lr=0.05, weight_decay=0.01, **extra)
    for step in range(5):
        losses = [mean_loss(model, data, places) for places in data.patients]
        theirs.param_groups[0]["lr"] = round_assignment(plan, 1).rate(step)
        theirs.zero_grad()
        (sum(losses) / len(losses)).backward()  # type: ignore[union-attr]
        theirs.step()
    np.testing.assert_allclose(weights(found), weights(model), rtol=1e-5, atol=1e-6)
    assert np.abs(weights(found) - weights(make_model())).max() > 0.01, "something was trained"


def mean_loss(model: nn.Module, data: TrainingData, places: tuple[int, ...]) -> Tensor:
    images = torch.stack([torch.from_numpy(data.cases[place].voxels) for place in places])
    labels = torch.tensor([float(data.cases[place].label or 0) for place in places])  # type: ignore[arg-type]
    return squared_error(model(images), labels).mean()


def test_the_divisor_is_the_public_constant_and_not_the_number_of_those_drawn() -> None:
    one = run(replace_steps(PLAIN, 1), Fixed(), make_terms(denominator=6.0))
    half = run(replace_steps(PLAIN, 1), Fixed(), make_terms(denominator=12.0))
    start = weights(make_model())
    np.testing.assert_allclose((weights(one) - start) / 2, weights(half) - start, rtol=1e-4, atol=1e-9)


def replace_steps(plan: Plan, steps: int) -> Plan:
    return plan.model_copy(update={"training": plan.training.model_copy(update={"steps": steps})})


def test_a_step_in_which_nobody_is_drawn_is_a_step_of_noise() -> None:
    """Every step asks for noise, and the weights move by the rate times sigma C / L."""
    nobody = Fixed(coin=False, value=1.0)
    terms = make_terms(noise_multiplier=3.0, clip_norm=0.5, denominator=10.0)
    found = run(PLAIN, nobody, terms, Clip(0.5))
    assert nobody.asked == [SIZE] * 5
    np.testing.assert_allclose(weights(make_model()) - weights(found), 5 * 0.05 * 3.0 * 0.5 / 10.0, rtol=1e-4)


def test_every_step_draws_noise_anew_for_every_parameter() -> None:
    noise = Fixed()
    run(PLAIN, noise)
    assert noise.asked == [SIZE] * 5


@dataclass
class Counting:
    """An engine that is told who was drawn, and gives the sum it was made with."""

    total: ClippedSum
    drawn: list[int] = field(default_factory=list)

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        self.drawn.append(sum(1 for _ in patients))
        return self.total


def test_the_engine_is_asked_once_a_step_with_those_the_coins_chose() -> None:
    engine = Counting(ClippedSum(SIZE, UNREACHED, CPU))
    private.train(make_model(), engine, make_sampler(PLAIN, Fixed()), make_terms(), round_assignment(PLAIN, 1))
    assert engine.drawn == [6] * 5
    nobody = Counting(ClippedSum(SIZE, UNREACHED, CPU))
    source = make_sampler(PLAIN, Fixed(coin=False))
    private.train(make_model(), nobody, source, make_terms(), round_assignment(PLAIN, 1))
    assert nobody.drawn == [0] * 5


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimizer_sees_the_noisy_mean_and_nothing_else(optimizer: str) -> None:
    """Two sites of different patients, whose sums and noise add up to the same, end with the same weights."""
    plan = private_plan(training__optimizer=optimizer, training__weight_decay=0.1, training__momentum=0.5)
    found = []
    for share in (0.0, 0.25, 1.0):
        total = ClippedSum(SIZE, UNREACHED, CPU)
        total.values += share
        model, engine = make_model(), Counting(total)
        data = people(3 if share else 6)
        source = make_sampler(plan, Fixed(value=1.0 - share), data)
        private.train(model, engine, source, make_terms(), round_assignment(plan, 1))
        found.append(weights(model))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-7)


def test_the_same_seeded_noise_gives_the_same_weights_and_secure_noise_never_does() -> None:
    one, same, other = (weights(run(PLAIN, UnsafeSeededNoise(seed))) for seed in (4, 4, 5))
    assert one.tobytes() == same.tobytes() != other.tobytes()
    assert weights(run(PLAIN, SecureNoise())).tobytes() != weights(run(PLAIN, SecureNoise())).tobytes()


def test_noise_on_the_weights_has_the_planned_size() -> None:
    """Over 300 rounds of five SGD steps with nobody there: lr sigma C / L sqrt(5); two thirds of it is rejected."""
    terms = make_terms(noise_multiplier=1.5, clip_norm=0.8, denominator=4.0, sampling_rate=1e-9)
    start = weights(make_model())
    moved = np.concatenate([weights(run(PLAIN, SecureNoise(), terms, Clip(0.8))) - start for _ in range(300)])
    planned = 0.05 * terms.noise_per_coordinate * np.sqrt(5)
    assert planned == pytest.approx(0.05 * 1.5 * 0.8 / 4.0 * 5**0.5)
    assert is_as_wide_as(moved, planned)
    assert not is_as_wide_as(moved, planned * 2 / 3)
    assert not is_as_wide_as(moved, planned * 3 / 2)
    assert not is_as_wide_as(moved, planned / np.sqrt(5)), "noise of one step only"


def is_as_wide_as(values: NDArray[np.float64], spread: float) -> bool:
    """Chi-squared test of the spread and Kolmogorov's of the shape."""
    square = float(((values / spread) ** 2).sum())
    tail = 2 * min(stats.chi2(values.size).cdf(square), stats.chi2(values.size).sf(square))
    return bool(tail > 1e-6 and stats.kstest(values / spread, "norm").pvalue > 1e-6)


def test_noise_does_not_depend_on_what_is_under_it() -> None:
    """The difference of two means with the same noise is the difference of the sums."""
    terms = make_terms(noise_multiplier=2.0, clip_norm=0.5, denominator=8.0)
    zeros, ones = torch.zeros(9, dtype=torch.float64), torch.full((9,), 3.0, dtype=torch.float64)
    one, other = (noisy_mean(total, terms, UnsafeSeededNoise(1)) for total in (zeros, ones))
    np.testing.assert_allclose((other - one).numpy(), 3.0 / 8.0, rtol=1e-12)
    drawn = UnsafeSeededNoise(1).normal(9)
    np.testing.assert_allclose(one.numpy(), drawn * 2.0 * 0.5 / 8.0, rtol=1e-12)
    assert not zeros.any(), "the sum is left as it was"
    assert one.dtype == torch.float64


def test_the_rate_is_the_assignment_s_at_every_step() -> None:
    noise = Fixed(coin=False, value=1.0)
    model, seen = make_model(), []

    def rate(step: int) -> float:
        seen.append(step)
        return 10.0**-step

    engine = OneByOne(Network(model, squared_error, CPU), UNREACHED)
    terms = make_terms(denominator=1.0)
    private.train(model, engine, make_sampler(PLAIN, noise), terms, Assignment(3, rate))
    assert seen == [0, 1, 2]
    np.testing.assert_allclose(weights(make_model()) - weights(model), 1.11, rtol=1e-5)


def test_training_says_nothing_and_leaves_frozen_parameters_where_they_are() -> None:
    model = make_model()
    first, second = model.parameters()
    first.requires_grad_(False)
    engine = OneByOne(Network(model, squared_error, CPU), UNREACHED)
    noise = Fixed(value=1.0)
    said = private.train(model, engine, make_sampler(PLAIN, noise), make_terms(), round_assignment(PLAIN, 1))  # type: ignore[func-returns-value]
    assert said is None
    assert noise.asked == [1] * 5, "noise is drawn for what trains"
    assert bool((first == 0.05).all())
    assert not bool((second == 0.05).all())
    assert first.grad is None


def test_a_gradient_is_given_to_parameters_in_the_order_of_the_vector() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    private.give_gradient(model, torch.arange(12, dtype=torch.float64))
    found = [one.grad for one in model.parameters()]
    assert [None if one is None else one.flatten().tolist() for one in found] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8],
        [9, 10, 11],
    ]
    assert all(one is not None and one.dtype == torch.float32 for one in found)


def test_images_of_nan_do_not_reach_the_weights() -> None:
    """A broken patient trains nobody's network to NaN, and does not show by an error."""
    data = people()
    broken = [replace(one, voxels=one.voxels * np.nan) if one.patient == "p1" else one for one in data.cases]
    model = make_model()
    engine = OneByOne(Network(model, squared_error, CPU), Clip(1.0))
    source = make_sampler(PLAIN, Fixed(), TrainingData(broken, data.patients))
    private.train(model, engine, source, make_terms(), round_assignment(PLAIN, 1))
    assert np.isfinite(weights(model)).all()
    other = make_model()
    without = TrainingData(data.cases, tuple(places for place, places in enumerate(data.patients) if place != 1))
    engine = OneByOne(Network(other, squared_error, CPU), Clip(1.0))
    private.train(other, engine, make_sampler(PLAIN, Fixed(), without), make_terms(), round_assignment(PLAIN, 1))
    assert weights(model).tobytes() == weights(other).tobytes()
