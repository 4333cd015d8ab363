"""The truth of a phantom: lesions where the mask says, with the attenuation the phase says."""

import math

import numpy as np
import pytest
from scipy import ndimage

from shared.seeds import generator
from simulations.phantoms.anatomy import (
    BACKGROUND,
    CONTRAST_HU,
    LESION,
    ORGAN,
    RADIUS_MM,
    Cut,
    Kind,
    Person,
    Population,
    cut,
    person,
)
from simulations.phantoms.body import PHASE_HU, Phase
from simulations.phantoms.solids import Points, at

PHASES: tuple[Phase, ...] = ("native", "arterial", "portal", "late")
STEP = 1.5


def slice_grid(z: float, step: float = STEP, half: float = 180.0) -> Points:
    axis = np.arange(-half + step / 2, half, step)
    return Points(axis[None, None, :], axis[None, :, None], np.array([[[z]]]))


def someone(seed: int, kind: Kind | None = "benign", phase: Phase = "portal") -> Person:
    return person(Population(), phase, kind, generator(seed, "test-anatomy"))


def through_first_lesion(subject: Person) -> Cut:
    return cut(subject, slice_grid(subject.lesions[0].centre_mm[2]), STEP)


def first_component(subject: Person, truth: Cut) -> np.ndarray:
    """The lesion that the slice was laid through, apart from other lesions in it."""
    labels, _ = ndimage.label(truth.mask[0] == LESION)
    x, y, _ = subject.lesions[0].centre_mm
    column, row = (int((place + 180 - STEP / 2) / STEP + 0.5) for place in (x, y))
    return labels == labels[row, column]


def roundness(region: np.ndarray) -> float:
    """4 pi area / perimeter^2 with the perimeter from a smoothed outline: 1 for a disc, less for a star."""
    smooth = ndimage.gaussian_filter(region.astype(float), 1.0)
    perimeter = np.hypot(*np.gradient(smooth)).sum()
    return float(4 * math.pi * region.sum() / perimeter**2)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["benign", "malignant"])
def test_lesions_lie_in_the_liver_and_apart(seed: int, kind: Kind) -> None:
    subject = someone(seed, kind)
    centres = np.array([lesion.centre_mm for lesion in subject.lesions])
    assert 1 <= len(centres) <= 2
    assert (subject.body.liver(at(centres)) < -0.5 * RADIUS_MM[0]).all()
    assert all(RADIUS_MM[0] <= lesion.radius_mm <= RADIUS_MM[1] for lesion in subject.lesions)
    if len(centres) == 2:
        assert math.dist(*centres) > sum(lesion.radius_mm for lesion in subject.lesions)


def test_a_lesion_free_person_has_no_lesion_and_is_benign() -> None:
    subject = someone(1, None)
    truth = cut(subject, slice_grid(0.0), STEP)
    assert subject.lesions == ()
    assert subject.label == "benign"
    assert set(np.unique(truth.mask)) == {BACKGROUND, ORGAN}


def test_the_label_is_the_kind_of_the_lesions() -> None:
    assert someone(1, "malignant").label == "malignant"
    assert someone(1, "benign").label == "benign"


@pytest.mark.parametrize("seed", range(6))
def test_a_benign_lesion_has_the_area_of_its_disc(seed: int) -> None:
    """Bumps of at most 8 % of the radius change the area by at most 17 %; the liver's surface may cut some off."""
    subject = someone(seed, "benign")
    area = first_component(subject, through_first_lesion(subject)).sum() * STEP**2
    disc = math.pi * subject.lesions[0].radius_mm ** 2
    assert 0.75 * disc < area < 1.17 * disc


def test_shape_tells_malignant_from_benign_whatever_the_phase() -> None:
    """The roundest malignant lesion is less round than the least round benign one, in nine of ten people."""
    rounds = {
        kind: sorted(roundness(first_component(one, through_first_lesion(one))) for one in people)
        for kind in ("benign", "malignant")
        for people in [[someone(seed, kind, PHASES[seed % 4]) for seed in range(12)]]
    }
    assert rounds["malignant"][10] < rounds["benign"][1]


def test_malignant_lesions_are_mottled_and_benign_ones_are_not() -> None:
    def spread(kind: Kind) -> float:
        subject = someone(4, kind)
        truth = through_first_lesion(subject)
        core = ndimage.binary_erosion(first_component(subject, truth), iterations=2)
        return float(truth.hu[0][core].std())

    assert spread("benign") < 1e-9
    assert spread("malignant") > 5


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", ["benign", "malignant"])
def test_lesions_are_brighter_than_the_liver_where_the_phase_says_so(phase: Phase, kind: Kind) -> None:
    subject = someone(3, kind, phase)
    truth = through_first_lesion(subject)
    lesion = truth.hu[0][first_component(subject, truth)].mean()
    liver = np.median(truth.hu[truth.mask == ORGAN])
    assert np.sign(lesion - liver) == np.sign(CONTRAST_HU[phase][kind])
    assert abs(lesion - liver) > 20


def test_half_of_the_phases_show_dark_lesions_and_half_bright_ones() -> None:
    """Otherwise one hospital's threshold would serve all, and there would be nothing to federate."""
    signs = [np.sign(CONTRAST_HU[phase][kind]) for phase in PHASES for kind in ("benign", "malignant")]
    assert sorted(signs) == [-1] * 4 + [1] * 4


@pytest.mark.parametrize("phase", PHASES)
def test_deep_in_the_liver_the_attenuation_is_that_of_liver(phase: Phase) -> None:
    subject = someone(2, None, phase)
    truth = cut(subject, slice_grid(0.0), STEP)
    deep = ndimage.binary_erosion(truth.mask[0] == ORGAN, iterations=3)
    assert np.median(truth.hu[0][deep]) == pytest.approx(subject.attenuation_hu["liver"])
    assert subject.attenuation_hu["liver"] == pytest.approx(PHASE_HU[phase]["liver"], abs=4 * 5)


def test_hounsfield_units_are_those_of_a_body_in_air() -> None:
    truth = through_first_lesion(someone(5, "malignant"))
    assert truth.hu.min() == -1000
    assert 300 < truth.hu.max() < 600
    corner = truth.hu[0, :10, :10]
    assert (corner == -1000).all()


def test_the_mask_is_what_lies_at_the_voxels_centre_at_any_resolution() -> None:
    """A fine grid holds every third voxel centre of a coarse one."""
    subject = someone(6, "malignant")
    z = subject.lesions[0].centre_mm[2]
    coarse = cut(subject, slice_grid(z, 4.5), 4.5)
    fine = cut(subject, slice_grid(z, 1.5), 1.5)
    assert np.array_equal(coarse.mask, fine.mask[:, 1::3, 1::3])


def test_a_surface_is_mixed_over_one_voxel_only() -> None:
    """Coarse voxels mix more: the share of liver voxels off the liver's own value grows with the voxel."""
    subject = someone(2, None)
    mixed = [
        float((np.abs(cut(subject, slice_grid(0.0), voxel).hu - subject.attenuation_hu["liver"]) > 1e-6)[inside].mean())
        for inside in [cut(subject, slice_grid(0.0), 1.0).mask == ORGAN]
        for voxel in (0.5, 3.0)
    ]
    assert mixed[0] < mixed[1] < 0.5


def test_a_volume_is_its_slices() -> None:
    subject = someone(7, "malignant")
    axis = np.arange(-180, 180, 6.0)
    levels = np.array([-20.0, 0.0, 20.0])
    volume = cut(subject, Points(axis[None, None, :], axis[None, :, None], levels[:, None, None]), 6.0)
    for place, z in enumerate(levels):
        alone = cut(subject, Points(axis[None, None, :], axis[None, :, None], np.array([[[z]]])), 6.0)
        assert np.array_equal(volume.mask[place], alone.mask[0])
        np.testing.assert_allclose(volume.hu[place], alone.hu[0], atol=1e-9)


def test_neighbouring_slices_show_the_same_person() -> None:
    subject, other = someone(1), someone(2)
    one, near = (cut(subject, slice_grid(z), STEP).mask > 0 for z in (0.0, 3.0))
    elsewhere = cut(other, slice_grid(0.0), STEP).mask > 0

    def dice(a: np.ndarray, b: np.ndarray) -> float:
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    assert dice(one, near) > 0.95
    assert dice(one, near) > dice(one, elsewhere) + 0.02


def test_the_same_generator_gives_the_same_person() -> None:
    one, same, other = (through_first_lesion(someone(seed)) for seed in (9, 9, 10))
    assert np.array_equal(one.hu, same.hu)
    assert np.array_equal(one.mask, same.mask)
    assert not np.array_equal(one.hu, other.hu)


def test_build_and_fat_change_the_size_of_a_body() -> None:
    def area(population: Population) -> float:
        subject = person(population, "portal", None, generator(1, "test-anatomy"))
        return float((cut(subject, slice_grid(0.0, half=260), STEP).hu > -500).sum())

    assert area(Population(build=1.2)) / area(Population(build=1.0)) == pytest.approx(1.44, rel=0.05)
