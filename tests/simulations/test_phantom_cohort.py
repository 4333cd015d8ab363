"""Hospitals as values, and the people and images that follow from them."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from shared.errors import ScenarioError
from simulations.phantoms.anatomy import LESION, Population
from simulations.phantoms.cohort import Identity, Scan, members, scans
from simulations.phantoms.hospitals import (
    FOUR_HOSPITALS,
    Fault,
    Hospital,
    PhantomFederation,
    hospitals,
    tiny_hospitals,
)
from simulations.phantoms.scanner import Encoding, Scanner

SMALL = Hospital(
    "small",
    "Testmed",
    patients=4,
    images=(2, 3),
    scanner=Scanner(shape=(48, 48), spacing_mm=8.0, noise_hu=5.0, slices=8, slice_mm=15.0),
)


def everything(hospital: Hospital, seed: int = 1) -> list[list[Scan]]:
    return [list(scans(hospital, member, seed)) for member in members(hospital, seed)]


@pytest.mark.parametrize(
    ("prevalence", "share", "expected"),
    [(1.0, 0.5, (10, 10, 0)), (0.8, 0.25, (12, 4, 4)), (0.0, 0.5, (0, 0, 20)), (0.55, 1.0, (0, 11, 9))],
)
def test_prevalence_is_exact(prevalence: float, share: float, expected: tuple[int, int, int]) -> None:
    population = Population(lesion_prevalence=prevalence, malignant_share=share)
    people = [one.person for one in members(replace(SMALL, patients=20, population=population), 3)]
    benign = sum(bool(one.lesions) and one.label == "benign" for one in people)
    malignant = sum(one.label == "malignant" for one in people)
    assert (benign, malignant, sum(not one.lesions for one in people)) == expected


def test_who_is_ill_is_drawn_and_not_a_matter_of_order() -> None:
    labels = [one.person.label for one in members(replace(SMALL, patients=20), 3)]
    assert labels != sorted(labels)
    assert labels != sorted(labels, reverse=True)


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    one, same, other = (everything(SMALL, seed)[0][0].stored for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_person_does_not_depend_on_how_many_others_come() -> None:
    population = Population(lesion_prevalence=1.0, malignant_share=1.0)
    few, many = (everything(replace(SMALL, patients=count, population=population)) for count in (2, 5))
    for mine, theirs in zip(few, many, strict=False):
        assert [np.array_equal(a.stored, b.stored) for a, b in zip(mine, theirs, strict=True)] == [True] * len(mine)


def test_two_hospitals_of_one_description_have_different_people() -> None:
    one, other = (everything(replace(SMALL, name=name))[0][0] for name in ("one", "two"))
    assert not np.array_equal(one.truth.mask, other.truth.mask)


def test_everyone_has_a_number_of_images_in_the_range() -> None:
    counts = [len(images) for images in everything(replace(SMALL, patients=12))]
    assert set(counts) == {2, 3}


def test_every_image_of_a_person_with_lesions_shows_one() -> None:
    population = Population(lesion_prevalence=1.0)
    for images in everything(replace(SMALL, patients=8, images=(4, 4), population=population)):
        assert all((scan.truth.mask == LESION).any() for scan in images)


def test_images_of_a_person_are_neighbouring_slices() -> None:
    for images in everything(SMALL):
        levels = [scan.grid.origin_mm[2] for scan in images]
        assert levels == sorted(levels)
        assert max(np.diff(levels)) <= SMALL.scanner.slice_mm + 1e-6
        assert len({scan.grid.origin_mm[:2] for scan in images}) == 1


def test_a_volume_hospital_gives_volumes_that_hold_the_lesions() -> None:
    hospital = replace(SMALL, dimensions=3, images=(1, 1), population=Population(lesion_prevalence=1.0))
    volumes = [scan for person in everything(hospital) for scan in person]
    assert {scan.stored.shape for scan in volumes} == {(8, 48, 48)}
    assert all((scan.truth.mask == LESION).any() for scan in volumes)


def test_each_fault_is_one_more_image() -> None:
    faults: tuple[Fault, ...] = ("truncated", "empty", "text", "mask-shape", "empty")
    healthy, faulty = (everything(replace(SMALL, faults=those)) for those in ((), faults))
    assert [len(one) for one in faulty] == [len(one) + extra for one, extra in zip(healthy, (2, 1, 1, 1), strict=True)]
    found = [scan.fault for person in faulty for scan in person if scan.fault]
    assert sorted(found) == sorted(faults)


def test_no_two_images_share_their_noise() -> None:
    """Differences from the truth, in air, where nothing else differs."""
    residues = [(scan.stored - 1024.0 - scan.truth.hu)[0, :4, :4] for person in everything(SMALL) for scan in person]
    assert len({residue.tobytes() for residue in residues}) == len(residues)


def test_age_counts_completed_years() -> None:
    def age(born: date, examined: date) -> int:
        return Identity("X", "A", "B", "F", born, examined).age

    assert age(date(1980, 5, 17), date(2020, 5, 16)) == 39
    assert age(date(1980, 5, 17), date(2020, 5, 17)) == 40
    assert age(date(1980, 12, 31), date(2021, 1, 1)) == 40
    assert age(date(2000, 2, 29), date(2021, 2, 28)) == 20


def test_patient_identifiers_of_a_hospital_differ() -> None:
    found = [one.identity.patient_id for one in members(replace(SMALL, patients=40), 1)]
    assert len(set(found)) == 40


def test_people_are_adults() -> None:
    assert all(30 <= one.identity.age <= 85 for one in members(replace(SMALL, patients=40), 1))


def test_the_first_four_hospitals_are_always_the_same_characters() -> None:
    for seed in (1, 2):
        assert [one.name for one in hospitals(4, seed).hospitals] == ["north", "east", "south", "west"]
        assert hospitals(4, seed, patients=30).hospitals == FOUR_HOSPITALS


def test_the_four_characters_differ_in_everything_that_matters() -> None:
    for difference in (
        lambda one: one.vendor,
        lambda one: one.scanner.phase,
        lambda one: one.scanner.spacing_mm,
        lambda one: one.scanner.noise_hu,
        lambda one: one.encoding.syntax,
        lambda one: one.population.fat_mm,
    ):
        assert len({difference(one) for one in FOUR_HOSPITALS}) == 4
    assert {one.encoding.photometric for one in FOUR_HOSPITALS} == {"MONOCHROME1", "MONOCHROME2"}
    assert {one.masks for one in FOUR_HOSPITALS} == {"seg", "nifti"}
    assert {one.encoding.signed for one in FOUR_HOSPITALS} == {False, True}
    assert {fault for one in FOUR_HOSPITALS for fault in one.faults} == {"truncated", "empty", "text", "mask-shape"}


def test_later_hospitals_are_variations_that_follow_from_the_seed() -> None:
    one, same, other = (hospitals(9, seed).hospitals for seed in (1, 1, 2))
    assert one == same
    assert one[4:] != other[4:]
    assert len(set(one)) == 9
    assert [late.scanner.phase for late in one[4:8]] == [early.scanner.phase for early in one[:4]]


def test_more_hospitals_do_not_change_the_first_ones() -> None:
    assert hospitals(12, 5).hospitals[:7] == hospitals(7, 5).hospitals


def test_volumes_are_asked_for_by_dimension() -> None:
    assert {one.dimensions for one in hospitals(5, 1, dimensions=3).hospitals} == {3}
    assert {one.images for one in hospitals(5, 1, dimensions=3).hospitals} == {(1, 1)}


def test_a_hundred_tiny_hospitals_are_tiny_and_different() -> None:
    tiny = tiny_hospitals(100, 1).hospitals
    assert len({replace(one, name="same") for one in tiny}) == 100
    assert {one.scanner.shape for one in tiny} == {(64, 64)}
    assert {(one.patients, one.images, one.faults) for one in tiny} == {(4, (3, 3), ())}


def test_tiny_hospitals_see_the_same_field_of_view() -> None:
    for tiny, whole in zip(tiny_hospitals(6, 1).hospitals, hospitals(6, 1).hospitals, strict=True):
        assert tiny.scanner.spacing_mm * 64 == pytest.approx(whole.scanner.spacing_mm * 128)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"patients": 0}, "0 patients"),
        ({"images": (0, 2)}, "0 to 2"),
        ({"images": (3, 2)}, "3 to 2"),
        ({"encoding": Encoding(bits=17)}, "17 bits"),
        ({"encoding": Encoding(bits=8)}, "8 bits"),
        ({"name": "truth"}, "truth"),
        ({"name": "../elsewhere"}, "elsewhere"),
        ({"name": ""}, "''"),
    ],
)
def test_an_impossible_hospital_is_refused_with_its_number(change: dict[str, object], number: str) -> None:
    with pytest.raises(ScenarioError, match=number) as caught:
        replace(SMALL, **change)
    assert caught.value.hint


def test_a_federation_needs_hospitals_of_different_names() -> None:
    with pytest.raises(ScenarioError, match="2 hospitals have 1"):
        PhantomFederation((SMALL, SMALL))
    with pytest.raises(ScenarioError, match="0 hospitals"):
        PhantomFederation(())
    with pytest.raises(ScenarioError, match="0 hospitals were asked"):
        hospitals(0, 1)


@pytest.mark.parametrize(
    ("place", "patient", "organ", "lesion", "mean_hu", "mean_stored"),
    [
        (0, "NO855-00001", 1079, 120, -543.103, 480.91),
        (1, "EA202-00001", 1480, 145, -489.896, -475.26),
        (2, "SO451-00001", 998, 0, -593.578, 3681.12),
        (3, "WE901-00001", 1369, 175, -529.687, 978.72),
    ],
)
def test_the_first_image_of_seed_7_is_fixed_for_ever(
    place: int, patient: str, organ: int, lesion: int, mean_hu: float, mean_stored: float
) -> None:
    """Golden values, within what another processor's last digits may change: new ones mean new published results."""
    hospital = FOUR_HOSPITALS[place]
    member = next(members(hospital, 7))
    scan = next(scans(hospital, member, 7))
    assert member.identity.patient_id == patient
    assert np.count_nonzero(scan.truth.mask == 1) == pytest.approx(organ, abs=1)
    assert np.count_nonzero(scan.truth.mask == LESION) == pytest.approx(lesion, abs=1)
    assert scan.truth.hu.mean() == pytest.approx(mean_hu, abs=0.01)
    assert scan.stored.mean() == pytest.approx(mean_stored, abs=0.02)
