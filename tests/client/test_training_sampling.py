"""Poisson sampling: everybody's own coin, everybody's own stream, and a patient as one unit however they are stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from patients import private_plan
from scipy import stats
from tiny_training import CPU, FIT, make_model, squared_error

from client.training.batches import Batch, TrainingData, draw
from client.training.per_patient import Network, OneByOne
from client.training.sampling import Sampler
from client.training.vectorised import SideBySide
from shared.errors import CaseError, SiteDataError
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.privacy.clipping import Clip
from shared.privacy.noise import SecureNoise
from shared.seeds import generator
from shared.tasks.task import Task

IMAGES = (1, 3, 2, 1, 4)
"""Of five patients."""
CHANGING = {"training__augmentation": {"flip": True, "noise": 0.1, "brightness": 0.2}}


@dataclass
class Everybody:
    """Coins that all fall; those for whom it matters are asked for."""

    counts: list[int] = field(default_factory=list)

    def normal(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        assert 0 < rate <= 1
        self.counts.append(count)
        return np.ones(count, bool)


def case(patient: int, image: int) -> Case:
    voxels = np.random.default_rng(100 * patient + image).standard_normal((1, 4, 4), dtype=np.float32)
    return Case(f"c{patient}.{image}", f"p{patient}", voxels, None, image, (1.0, 1.0))


def site(images: Sequence[int] = IMAGES, without: int | None = None) -> TrainingData:
    """Cases of patients, interleaved: a first image of each, then a second one, and so on."""
    found = [
        case(patient, image)
        for image in range(max(images))
        for patient, count in enumerate(images)
        if image < count and patient != without
    ]
    patients = [
        tuple(place for place, one in enumerate(found) if one.patient == f"p{patient}")
        for patient in range(len(images))
        if patient != without
    ]
    return TrainingData(found, tuple(patients))


def streams(step: int, patient: str) -> np.random.Generator:
    return generator(7, "private", "here", step, patient)


def sampler(data: TrainingData, plan: Plan | None = None, task: Task = FIT, noise: Any = None) -> Sampler:
    return Sampler(data, task, plan or private_plan(), streams, noise or Everybody())


def by_patient(data: TrainingData, plan: Plan, step: int = 0) -> dict[str, Batch]:
    found = sampler(data, plan).step(step, 1.0)
    return {data.cases[places[0]].patient: batch for places, batch in zip(data.patients, found, strict=True)}


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("most", [1, 2, 9])
def test_a_batch_has_at_most_k_images_in_v_views_each(most: int, views: int) -> None:
    plan = private_plan(privacy__images_per_patient=most, privacy__views_per_image=views)
    lengths = [len(batch) for batch in sampler(site(), plan).step(0, 1.0)]
    assert lengths == [min(count, most) * views for count in IMAGES]


def test_a_patient_with_k_images_or_fewer_gives_all_of_them_once() -> None:
    plan = private_plan(privacy__images_per_patient=4)
    for name, batch in by_patient(site(), plan).items():
        wanted = [one.voxels for one in site().cases if one.patient == name]
        np.testing.assert_array_equal(batch.images.numpy(), np.stack(wanted))


def test_which_k_images_are_taken_changes_from_step_to_step_and_is_uniform() -> None:
    plan = private_plan(privacy__images_per_patient=2)
    chosen = [by_patient(site(), plan, step)["p4"].targets.tolist() for step in range(600)]
    assert all(len(set(two)) == 2 for two in chosen), "no image twice"
    counts = np.bincount([int(image) for two in chosen for image in two], minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.chisquare(counts + np.array([90, -30, -30, -30])).pvalue < 1e-4, "control"


@pytest.mark.parametrize("changes", [{}, CHANGING], ids=["plain", "augmented"])
@pytest.mark.parametrize("gone", range(5))
def test_taking_a_patient_away_leaves_everybody_else_s_images_as_they_were(gone: int, changes: dict[str, Any]) -> None:
    """To the bit; otherwise what one patient does to a sum would not be bounded by the clip norm."""
    plan = private_plan(privacy__images_per_patient=2, privacy__views_per_image=2, **changes)
    for step in range(3):
        whole, rest = by_patient(site(), plan, step), by_patient(site(without=gone), plan, step)
        assert rest.keys() == whole.keys() - {f"p{gone}"}
        assert all(same(rest[name], whole[name]) for name in rest)


def test_augmentation_differs_between_steps_patients_and_views() -> None:
    """Control of the test above: there is something random."""
    plan = private_plan(privacy__views_per_image=2, **CHANGING)
    first, second = by_patient(site(), plan, 0)["p0"], by_patient(site(), plan, 1)["p0"]
    assert not same(first, second)
    assert not torch.equal(first.images[0], first.images[1])
    assert same(first, by_patient(site(), plan, 0)["p0"]), "and repeats itself"


def test_streams_are_asked_for_by_step_and_salted_name_and_once_a_patient() -> None:
    asked: list[tuple[int, str]] = []

    def spy(step: int, patient: str) -> np.random.Generator:
        asked.append((step, patient))
        return streams(step, patient)

    plan = private_plan(privacy__images_per_patient=3, privacy__views_per_image=2)
    list(replace(sampler(site(), plan), streams=spy).step(5, 1.0))
    assert asked == [(5, f"p{patient}") for patient in range(5)]


def test_there_is_a_coin_for_each_patient_and_not_for_each_image() -> None:
    noise = Everybody()
    list(sampler(site(), noise=noise).step(0, 0.5))
    assert noise.counts == [5]


def test_nobody_s_images_are_read_before_they_are_asked_for() -> None:
    read: list[int] = []

    class Watched(Sequence[Case]):
        def __len__(self) -> int:
            return len(site().cases)

        @overload
        def __getitem__(self, index: int) -> Case: ...
        @overload
        def __getitem__(self, index: slice) -> Sequence[Case]: ...
        def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
            assert isinstance(index, int)
            read.append(index)
            return site().cases[index]

    batches = sampler(TrainingData(Watched(), site().patients)).step(0, 1.0)
    assert read == []
    next(batches)
    assert set(read) == {0}


@pytest.mark.parametrize("rate", [0.1, 0.37])
def test_each_patient_takes_part_with_the_rate_whoever_else_is_there(rate: float) -> None:
    """Oracle: the binomial distribution; a rate a fifth larger is rejected."""
    drawn, steps, data = np.zeros(5, int), 4000, site((1, 1, 1, 1, 1))
    source = sampler(data, noise=SecureNoise())
    who = {one.voxels.tobytes(): place for place, one in enumerate(data.cases)}
    together = np.zeros(steps, int)
    for step in range(steps):
        names = [who[batch.images.numpy().tobytes()] for batch in source.step(step, rate)]
        drawn[names] += 1
        together[step] = len(names)
    assert all(stats.binomtest(int(count), steps, rate).pvalue > 1e-6 for count in drawn)
    assert any(stats.binomtest(int(count), steps, rate * 1.2).pvalue < 1e-3 for count in drawn), "control"
    expected = stats.binom.pmf(np.arange(6), 5, rate) * steps
    seen = np.bincount(together, minlength=6)
    pooled = [np.append(one[:4], one[4:].sum()) for one in (seen, expected)]
    assert stats.chisquare(*pooled, sum_check=False).pvalue > 1e-6, "numbers drawn are binomial: coins are independent"


class Unreadable(Sequence[Case]):
    """Cases of which some raise when they are read."""

    def __init__(self, cases: Sequence[Case], broken: set[int], error: Exception) -> None:
        self.cases, self.broken, self.error = cases, broken, error

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return (self[place] for place in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        assert isinstance(index, int)
        if index in self.broken:
            raise self.error
        return self.cases[index]


ALL = private_plan(privacy__images_per_patient=9)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["first", "middle", "last"])
def test_an_image_that_cannot_be_read_leaves_the_patient_s_others(which: int) -> None:
    data = site()
    places = data.patients[1]
    broken = TrainingData(Unreadable(data.cases, {places[which]}, CaseError("bad", code="bad")), data.patients)
    found = list(sampler(broken, ALL).step(0, 1.0))
    assert [len(batch) for batch in found] == [1, 2, 2, 1, 4]
    left = [data.cases[place].voxels for place in places if place != places[which]]
    np.testing.assert_array_equal(found[1].images.numpy(), np.stack(left))
    whole = list(sampler(data, ALL).step(0, 1.0))
    assert all(same(found[other], whole[other]) for other in (0, 2, 3, 4))


def test_an_image_that_the_task_cannot_use_leaves_the_patient_s_others() -> None:
    def picky(one: Case) -> NDArray[np.generic]:
        if one.label == 1:
            raise CaseError("the case has no label", code="label-missing")
        return np.array(one.label, np.float32)

    found = list(sampler(site(), ALL, replace(FIT, target=picky)).step(0, 1.0))
    assert [batch.targets.tolist() for batch in found] == [[0], [0, 2], [0], [0], [0, 2, 3]]


def test_a_patient_without_a_usable_image_is_left_out_without_a_word() -> None:
    data = site()
    broken = TrainingData(Unreadable(data.cases, set(data.patients[2]), CaseError("bad", code="bad")), data.patients)
    assert [len(batch) for batch in sampler(broken, ALL).step(0, 1.0)] == [1, 3, 1, 4]


def test_a_damaged_store_is_an_error_of_the_site_and_not_of_a_patient() -> None:
    data = site()
    broken = TrainingData(Unreadable(data.cases, {0}, SiteDataError("damaged", code="store-damaged")), data.patients)
    with pytest.raises(SiteDataError):
        list(sampler(broken, ALL).step(0, 1.0))


def test_a_batch_holds_what_drawing_by_hand_with_the_patient_s_stream_gives() -> None:
    """Oracle: the functions of plain training, called one by one."""
    plan = private_plan(privacy__images_per_patient=3, privacy__views_per_image=2, **CHANGING)
    data = site()
    rng = streams(4, "p1")
    wanted = [draw(data.cases[place], FIT, plan, rng) for place in data.patients[1] for _ in range(2)]
    found = sampler(data, plan).patient(4, data.patients[1])
    assert found is not None
    np.testing.assert_array_equal(found.images.numpy(), np.stack([image for image, _ in wanted]))
    np.testing.assert_array_equal(found.targets.numpy(), np.stack([target for _, target in wanted]))


@pytest.mark.parametrize("engine", [OneByOne, lambda *given: SideBySide(*given, 8)], ids=["loop", "vectorised"])
def test_one_patient_over_three_files_is_one_unit_and_three_patients_are_three(engine: Any) -> None:
    """The same three images; only who they belong to differs."""
    cases = [replace(case(0, image), label=5) for image in range(3)]
    network, clip = Network(make_model().train(), squared_error, CPU), Clip(0.5)

    def length(patients: tuple[tuple[int, ...], ...]) -> float:
        drawn = sampler(TrainingData(cases, patients), ALL).step(0, 1.0)
        return float(engine(network, clip)(drawn).values.norm())

    assert length(((0, 1, 2),)) <= clip.norm * (1 + 1e-9)
    assert length(((0,), (1,), (2,))) > 1.5 * clip.norm
