"""Why federate phantoms: what one hospital can learn, and why that does not carry to the next one.

A learner of two numbers stands in for a network here: a threshold on smoothed Hounsfield units inside the liver, and
the side of it on which lesions lie. It takes a second where a network takes minutes, and sees the same shift.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from simulations.phantoms.anatomy import LESION
from simulations.phantoms.cohort import members, scans
from simulations.phantoms.hospitals import FOUR_HOSPITALS, Hospital
from simulations.phantoms.scanner import Encoding

NAMES = [one.name for one in FOUR_HOSPITALS]
PATIENTS, TRAINING = 12, 8


@dataclass(frozen=True)
class Seen:
    """An image as a learner sees it: smoothed Hounsfield units, where the liver is, where lesions are."""

    patient: int
    hu: np.ndarray
    liver: np.ndarray
    lesion: np.ndarray


def looked_at(name: str) -> Hospital:
    """The character with plain storage, so that stored numbers are Hounsfield units but for an offset."""
    character = next(one for one in FOUR_HOSPITALS if one.name == name)
    return replace(character, patients=PATIENTS, images=(2, 2), faults=(), encoding=Encoding(bits=12))


@cache
def images_of(name: str) -> tuple[Seen, ...]:
    hospital = looked_at(name)
    found = []
    for member in members(hospital, 5):
        for scan in scans(hospital, member, 5):
            hu = ndimage.gaussian_filter(scan.stored[0].astype(float) - 1024, 1.5)
            liver = ndimage.binary_erosion(scan.truth.mask[0] > 0, iterations=2)
            found.append(Seen(member.place, hu, liver, liver & (scan.truth.mask[0] == LESION)))
    return tuple(found)


def split(name: str, part: str) -> list[Seen]:
    return [one for one in images_of(name) if (one.patient < TRAINING) == (part == "train")]


def dice(images: list[Seen], threshold: float, side: int) -> float:
    """Pooled Dice of calling everything in the liver beyond ``threshold`` on ``side`` a lesion."""
    called = [one.liver & (side * (one.hu - threshold) > 0) for one in images]
    hits = sum(int((one.lesion & guess).sum()) for one, guess in zip(images, called, strict=True))
    sizes = sum(int(one.lesion.sum()) + int(guess.sum()) for one, guess in zip(images, called, strict=True))
    return 2 * hits / sizes


@cache
def learnt(name: str) -> tuple[float, int]:
    """The threshold and side that fit a hospital's training patients best."""
    choices = [(float(threshold), side) for threshold in range(-20, 220, 4) for side in (-1, 1)]
    return max(choices, key=lambda choice: dice(split(name, "train"), *choice))


@pytest.mark.parametrize("name", NAMES)
def test_a_hospital_can_learn_to_find_its_own_lesions(name: str) -> None:
    assert dice(split(name, "test"), *learnt(name)) > 0.4


@pytest.mark.parametrize("name", NAMES)
def test_what_a_hospital_has_learnt_fails_elsewhere(name: str) -> None:
    at_home = dice(split(name, "test"), *learnt(name))
    elsewhere = [dice(split(other, "test"), *learnt(name)) for other in NAMES if other != name]
    assert np.mean(elsewhere) < at_home - 0.2


def test_hospitals_disagree_on_the_side_that_lesions_are_on() -> None:
    assert [learnt(name)[1] for name in NAMES] == [-1, -1, 1, 1]


def test_prevalence_of_lesions_in_pixels_is_neither_rare_nor_common() -> None:
    """Lesions fill 3 to 25 % of the livers: enough to learn from, too few to guess everything."""
    for name in NAMES:
        share = sum(one.lesion.sum() for one in images_of(name)) / sum(one.liver.sum() for one in images_of(name))
        assert 0.03 < share < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_lesions_stand_out_of_the_noise(name: str) -> None:
    """Contrast to noise of the unsmoothed image, over a lesion of 20 pixels: visible is above 3 to 5 (Rose 1948)."""
    hospital = looked_at(name)
    member = next(one for one in members(hospital, 5) if one.person.lesions)
    detectability = abs(member.person.contrast_hu) / hospital.scanner.noise_hu * np.sqrt(20)
    assert detectability > 5
