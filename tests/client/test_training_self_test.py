"""The self-test: right engines pass it, and each check fails for the mistake it is there for.

The table ``MUTANTS`` is the list of mistakes, with the checks that notice each, all of them and no others.
"""

import copy
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from patients import EngineName, engine_of, private_plan, small_network, some_patients, state_of
from tiny_training import CPU
from torch import Tensor

from client.training import engines, self_test
from client.training.batches import Batch, pieces
from client.training.per_patient import Network, OneByOne, PatientGradients
from client.training.self_test import Subject
from client.training.vectorised import SideBySide
from shared import models, tasks
from shared.errors import ModelError
from shared.fixed_point import Integers
from shared.plan import FixedPoint, Plan
from shared.privacy.clipping import Clip, ClippedSum
from shared.privacy.mechanism import noisy_mean
from shared.privacy.noise import Noise, SecureNoise, UnsafeSeededNoise
from shared.privacy.shared_noise import noised
from shared.privacy.terms import Terms
from shared.tasks.task import Task

CLIP = Clip(1.6)
"""Between the norms of the made-up patients' gradients: some are clipped, some are not."""


def make_subject(engine: PatientGradients | None = None, noise: Noise | None = None) -> Subject:
    network = fresh_network()
    patients = some_patients("cnn", 2, "group", (2, 1, 1, 1))
    return Subject(network, engine or engine_of("loop", network, CLIP), CLIP, patients, noise or SecureNoise())


def fresh_network() -> Network:
    """One that a mutant may spoil; it has a buffer."""
    shared = small_network("cnn", 2, "group")
    model = copy.deepcopy(shared.model)
    model.register_buffer("seen", torch.zeros(()))
    return replace(shared, model=model)


def failed(subject: Subject) -> set[str]:
    return {check.name for check in self_test.run(subject) if not check.passed}


def gradient(network: Network, batch: Batch) -> Tensor:
    """Mean gradient of a patient, (P,), float32, not clipped."""
    found = torch.autograd.grad(network.losses(batch).mean(), network.parameters())
    return torch.cat([one.flatten() for one in found])


def summed(network: Network, vectors: Iterable[Tensor]) -> ClippedSum:
    """A sum of vectors as they are."""
    total = network.empty_sum(CLIP)
    for vector in vectors:
        total.values += vector
        total.contributing += 1
    return total


def shortened(vector: Tensor, norm: float = CLIP.norm) -> Tensor:
    return vector * min(1.0, norm / float(vector.norm())) if bool(vector.isfinite().all()) else torch.zeros_like(vector)


@dataclass
class Mutant:
    """An engine with one mistake; ``make`` gives the sum."""

    make: Callable[["Mutant", list[Batch]], ClippedSum]
    network: Network = field(default_factory=fresh_network)

    def __call__(self, patients: Iterable[Batch]) -> ClippedSum:
        return self.make(self, list(patients))

    def each(self, patients: Sequence[Batch]) -> list[Tensor]:
        return [gradient(self.network, one) for one in patients]


def right(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    return summed(engine.network, map(shortened, engine.each(patients)))


def without_clipping(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    return summed(engine.network, (one.nan_to_num(0, 0, 0) for one in engine.each(patients)))


def clips_twice_as_long(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    return summed(engine.network, (shortened(one, 2 * CLIP.norm) for one in engine.each(patients)))


def rows_clipped_and_added(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    rows = ([shortened(one) for one in engine.each(list(pieces(patient, 1)))] for patient in patients)
    whole = (sum(some) if all(one.any() for one in some) else torch.zeros_like(some[0]) for some in rows)
    return summed(engine.network, whole)  # type: ignore[arg-type]


def sum_over_rows(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    found = zip(engine.each(patients), map(len, patients), strict=True)
    return summed(engine.network, (shortened(one * rows) for one, rows in found))


def first_row_only(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    found = [shortened(one) for one in engine.each([next(pieces(patient, 1)) for patient in patients])]
    return summed(engine.network, found)


def divided_by_those_drawn(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    total = right(engine, patients)
    total.values /= max(1, sum(bool(one.isfinite().all()) for one in engine.each(patients)))
    return total


def everybody_clipped_together(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    finite = [one for one in engine.each(patients) if one.isfinite().all()]
    return summed(engine.network, [shortened(torch.stack(finite).sum(dim=0))] if finite else [])


def nan_let_through(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    lengths = ((one, float(one.norm())) for one in engine.each(patients))
    return summed(engine.network, (one * min(1.0, CLIP.norm / norm) for one, norm in lengths))


def nan_made_zero_in_the_sum(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    total = nan_let_through(engine, patients)
    total.values.nan_to_num_(0)
    return total


def counted_twice(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    return right(engine, [*patients, *patients])


def loss_of_everybody(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    """Each loss is divided by the mean of all."""
    losses = [float(engine.network.losses(one).mean().detach()) for one in patients]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return summed(engine.network, (shortened(one / np.mean(finite)) for one in engine.each(patients)))


def in_type(dtype: torch.dtype, engine: Mutant, patients: list[Batch]) -> ClippedSum:
    network = replace(engine.network, model=copy.deepcopy(engine.network.model).to(dtype))
    rounded = [gradient(network, Batch(one.images.to(dtype), one.targets)).float() for one in patients]
    return summed(network, map(shortened, rounded))


def in_float16(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    return in_type(torch.float16, engine, patients)


def in_bfloat16(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    return in_type(torch.bfloat16, engine, patients)


def leaves_a_trace(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    engine.network.model.get_buffer("seen").add_(len(patients))
    return right(engine, patients)


def leaves_gradients(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    for one in patients:
        engine.network.losses(one).mean().backward()  # type: ignore[no-untyped-call]
    return right(engine, patients)


def switches_to_evaluation(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    found = right(engine, patients)
    engine.network.model.eval()
    return found


def freezes_a_layer(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    """Only after the last check but one has looked: the vector would be shorter."""
    found = right(engine, patients)
    (engine.network.model.requires_grad_(False) if not patients else engine.network.model).train()
    return found


def forgets_the_last(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    """What is left over when patients do not divide into groups of two is lost."""
    return right(engine, patients[: len(patients) // 2 * 2])


def adds_to_the_last_sum(engine: Mutant, patients: list[Batch]) -> ClippedSum:
    total = right(engine, patients)
    seen = getattr(engine, "seen", 0.0)
    engine.seen = seen + total.values.clone()  # type: ignore[attr-defined]
    total.values += seen
    return total


MUTANTS: dict[Callable[[Mutant, list[Batch]], ClippedSum], str] = {
    right: "",
    without_clipping: "bound scaled exact unit",
    clips_twice_as_long: "bound scaled exact unit",
    rows_clipped_and_added: "bound scaled exact unit",
    counted_twice: "bound scaled exact unit",
    sum_over_rows: "exact",
    first_row_only: "exact",
    divided_by_those_drawn: "exact",
    everybody_clipped_together: "exact",
    in_float16: "exact",
    in_bfloat16: "exact",
    loss_of_everybody: "bound exact",
    forgets_the_last: "exact not-finite",
    nan_let_through: "not-finite",
    nan_made_zero_in_the_sum: "not-finite",
    adds_to_the_last_sum: "bound scaled exact unit not-finite empty",
    leaves_a_trace: "untouched",
    leaves_gradients: "untouched",
    switches_to_evaluation: "untouched",
    freezes_a_layer: "untouched",
}


@pytest.mark.parametrize("mistake", MUTANTS, ids=lambda made: made.__name__)
def test_each_mistake_of_an_engine_is_noticed_by_these_checks_and_no_others(
    mistake: Callable[[Mutant, list[Batch]], ClippedSum],
) -> None:
    engine = Mutant(mistake)
    subject = replace(make_subject(engine), network=engine.network)
    assert failed(subject) == set(MUTANTS[mistake].split())


@dataclass(frozen=True)
class NoiseOf:
    """Noise with a mistake."""

    change: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def normal(self, size: int) -> NDArray[np.float64]:
        return self.change(SecureNoise().normal(size))

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        return SecureNoise().coins(count, rate)


def uniform(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """As wide as a normal, and of another shape."""
    return np.random.default_rng(1).uniform(-math.sqrt(3), math.sqrt(3), values.shape)


NOISES: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], str]] = {
    "right": (lambda values: values, ""),
    "none": (lambda values: values * 0, "empty noise shared"),
    "two thirds": (lambda values: values * 2 / 3, "empty noise shared"),
    "three halves": (lambda values: values * 3 / 2, "empty noise shared"),
    "two percent less": (lambda values: values * 0.98, "noise shared"),
    "uniform": (uniform, "noise shared"),
    "the same for all": (np.ones_like, "noise shared"),
    "a sixteenth missing": (lambda values: np.where(np.arange(values.size) % 16, values, 0), "noise shared"),
}


@pytest.mark.parametrize("name", sorted(NOISES))
def test_each_mistake_of_the_noise_is_noticed_by_these_checks_and_no_others(name: str) -> None:
    change, noticed = NOISES[name]
    assert failed(make_subject(noise=NoiseOf(change))) == set(noticed.split())


def none_for_nobody(total: Tensor, terms: Terms, noise: Noise) -> Tensor:
    """An empty draw is answered with zeros: that nobody was drawn can be seen."""
    return noisy_mean(total, terms, noise) if total.any() else total / terms.denominator


def none_at_all(total: Tensor, terms: Terms, _: Noise) -> Tensor:
    return total / terms.denominator


@pytest.mark.parametrize("mistake", [none_for_nobody, none_at_all], ids=lambda made: made.__name__)
def test_a_mechanism_that_forgets_its_noise_is_noticed(
    mistake: Callable[[Tensor, Terms, Noise], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "noisy_mean", mistake)
    assert failed(make_subject()) == {"empty", "noise"}


def each_a_third(change: NDArray[np.float64], deviation: float, fixed_point: FixedPoint, noise: Noise) -> Integers:
    """Parts for one honest site more than there are."""
    return noised(change, deviation * math.sqrt(2 / 3), fixed_point, noise)


def drawn_once(change: NDArray[np.float64], deviation: float, fixed_point: FixedPoint, _: Noise) -> Integers:
    """Every site adds the same."""
    return noised(change, deviation / math.sqrt(2), fixed_point, UnsafeSeededNoise(1))


@pytest.mark.parametrize("mistake", [each_a_third, drawn_once], ids=lambda made: made.__name__)
def test_parts_of_noise_that_do_not_add_up_are_noticed(
    mistake: Callable[..., Integers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "noised", mistake)
    assert failed(make_subject()) == {"shared"}


def test_every_check_fails_for_some_mistake() -> None:
    """So none of them is idle."""
    noticed = {
        name for names in [*MUTANTS.values(), *(names for _, names in NOISES.values())] for name in names.split()
    }
    assert noticed == {*self_test.CHECKS, "untouched"}
    assert sum(bool(names) for names in MUTANTS.values()) >= 10


@pytest.mark.parametrize("engine", ["loop", "vectorised"])
@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("name", ["cnn", "unet", "segresnet"])
def test_right_engines_pass_every_check(name: str, clipping: str, engine: EngineName) -> None:
    network, clip = small_network(name, 2, "group"), Clip(0.6, clipping)  # type: ignore[arg-type]
    before = state_of(network.model)
    patients = some_patients(name, 2, "group", (3, 1, 1, 1))
    checks = list(self_test.run(Subject(network, engine_of(engine, network, clip), clip, patients, SecureNoise())))
    assert [check.name for check in checks] == [*self_test.CHECKS, "untouched"]
    assert [check for check in checks if not check.passed] == []
    assert state_of(network.model) == before


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("name", ["densenet121", "resnet50", "resnet18"])
def test_deep_narrow_networks_pass_although_rounding_changes_their_gradients(name: str, norm: str) -> None:
    network = small_network(name, 2, norm)  # type: ignore[arg-type]
    patients = some_patients(name, 2, norm, (2, 1, 1, 1))  # type: ignore[arg-type]
    for engine in ("loop", "vectorised"):
        subject = Subject(network, engine_of(engine, network, CLIP), CLIP, patients, SecureNoise())
        assert failed(subject) == set()


def test_the_document_of_the_module_lists_every_check() -> None:
    text = self_test.__doc__ or ""
    assert all(f"\n{name} " in text for name in (*self_test.CHECKS, "untouched"))


def test_a_failed_check_refuses_to_train_and_names_numbers_and_a_way_on() -> None:
    engine = Mutant(clips_twice_as_long)
    with pytest.raises(ModelError) as caught:
        self_test.require(replace(make_subject(engine), network=engine.network))
    assert caught.value.code == "self-test"
    assert "self-test bound fails" in caught.value.sentence
    assert re.search(r"one patient moves the sum by 1\.[78]\d*, 1\.6\d* allowed", caught.value.sentence)
    assert "do not train here" in caught.value.hint
    self_test.require(make_subject())


def test_noise_that_repeats_itself_is_normal_too() -> None:
    """What the test cannot see: whether anybody knows the seed. ``SecureNoise`` is the caller's to choose."""
    assert failed(make_subject(noise=UnsafeSeededNoise(3))) == set()


def small_plan(**changes: Any) -> Plan:
    fitting = {"plan__task": "classification", "model__name": "cnn", "model__channels": [4, 8]}
    return private_plan(**{**fitting, "preprocessing__size": [16, 16], **changes})


def network_of(plan: Plan) -> tuple[Network, Task]:
    task = tasks.task_for(plan)
    return Network.of(models.build(plan, task.output_channels, task.output).train(), task, plan, CPU), task


@pytest.mark.parametrize("asked", ["auto", "loop", "vectorised"])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_the_engine_of_a_plan_passes_on_patients_made_for_the_plan(task: str, asked: str) -> None:
    network = {"classification": ("cnn", [4, 8]), "segmentation": ("unet", [4, 8, 8])}[task]
    plan = small_plan(
        plan__task=task,
        model__name=network[0],
        model__channels=network[1],
        training__patient_gradients=asked,
        privacy__images_per_patient=2,
    )
    made, what = network_of(plan)
    engine = engines.chosen(made, what, plan)
    wanted = {"auto": (OneByOne, SideBySide), "loop": OneByOne, "vectorised": SideBySide}[asked]
    assert isinstance(engine, wanted)
    subject = Subject.of(made, engine, what, plan)
    assert [len(one) for one in subject.patients] == [2, 1, 1, 1]
    assert isinstance(subject.noise, SecureNoise)
    assert failed(subject) == set()


def test_auto_takes_the_loop_where_the_other_refuses_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is a stub: the other engine would always be the faster one."""
    plan = small_plan()
    made, what = network_of(plan)
    monkeypatch.setattr(engines, "_seconds", lambda engine, *_: 1.0 if isinstance(engine, SideBySide) else 2.0)
    assert isinstance(engines.chosen(made, what, plan), SideBySide)
    monkeypatch.setattr(engines, "_seconds", lambda engine, *_: 2.0 if isinstance(engine, SideBySide) else 1.0)
    assert isinstance(engines.chosen(made, what, plan), OneByOne)
    made.model.stages[0].conv.padding_mode = "reflect"  # type: ignore[union-attr,index]
    monkeypatch.setattr(engines, "_seconds", lambda engine, *_: 1.0 if isinstance(engine, SideBySide) else 2.0)
    assert isinstance(engines.chosen(made, what, plan), OneByOne)
    demanding = small_plan(training__patient_gradients="vectorised")
    with pytest.raises(ModelError, match=r"the layer stages.0.conv \(Conv2d\) has no rule"):
        engines.chosen(made, what, demanding)


@pytest.mark.parametrize("asked", ["auto", "loop", "vectorised"])
def test_no_engine_is_chosen_for_a_network_with_dropout(asked: str) -> None:
    """Plans with privacy refuse it too; this is for whoever makes a network by hand."""
    plan = small_plan(training__patient_gradients=asked)
    made, what = network_of(plan)
    made.model.dropout.p = 0.2  # type: ignore[union-attr,assignment]
    with pytest.raises(ModelError, match="draws one stream of random numbers"):
        engines.chosen(made, what, plan)


def test_choosing_leaves_the_network_as_it_was_and_reads_no_case() -> None:
    plan = small_plan(privacy__views_per_image=3)
    made, what = network_of(plan)
    before = state_of(made.model)
    engines.chosen(made, what, plan)
    assert state_of(made.model) == before
    assert [len(one) for one in engines.trial(what, plan)] == [3] * 4
