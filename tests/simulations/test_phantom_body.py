"""The healthy abdomen: plausible to a radiologist, and exact to a computer."""

import numpy as np
import pytest

from shared.seeds import generator
from simulations.phantoms.body import FIXED_HU, PHASE_HU, Body, Frame, body
from simulations.phantoms.solids import Points, Solid

FRAME = Frame(half_width=165, half_depth=115, fat=14)
STEP = 4.0
SEEDS = range(6)


def volume_grid() -> Points:
    x, y, z = (np.arange(-half, half + STEP / 2, STEP) for half in (200, 150, 140))
    return Points(x[None, None, :], y[None, :, None], z[:, None, None])


def person_of(seed: int) -> Body:
    return body(FRAME, generator(seed, "test-body"))


def inside(solid: Solid, points: Points) -> np.ndarray:
    shape = np.broadcast_shapes(points.x.shape, points.y.shape, points.z.shape)
    return np.broadcast_to(solid(points) < 0, shape)


def part(anatomy: Body, material: str) -> Solid:
    return next(solid for solid, name in anatomy.parts if name == material)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_liver_has_the_size_of_a_liver(seed: int) -> None:
    """Adult livers measure 1.0 to 2.5 litres (Henderson et al. 1981, by computed tomography)."""
    litres = inside(person_of(seed).liver, volume_grid()).sum() * STEP**3 / 1e6
    assert 1.0 < litres < 2.5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_liver_lies_on_the_right_and_the_spleen_on_the_left(seed: int) -> None:
    """Patient coordinates: x grows towards Left."""
    anatomy, points = person_of(seed), volume_grid()
    for solid, side in ((anatomy.liver, -1), (part(anatomy, "spleen"), 1)):
        where = np.argwhere(inside(solid, points))
        assert side * points.x.ravel()[where[:, 2]].mean() > 20


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("material", ["kidney", "bile", "aorta", "cava", "content", "spleen", "cord"])
def test_the_liver_overlaps_no_other_organ(seed: int, material: str) -> None:
    anatomy, points = person_of(seed), volume_grid()
    liver = inside(anatomy.liver, points)
    for solid, name in anatomy.parts:
        if name == material:
            assert not (liver & inside(solid, points)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_veins_of_the_liver_lie_in_it(seed: int) -> None:
    anatomy, points = person_of(seed), volume_grid()
    veins = inside(anatomy.veins, points)
    assert veins.any()
    assert not (veins & ~inside(anatomy.liver, points)).any()


def test_everything_but_the_couch_lies_in_the_skin() -> None:
    anatomy, points = person_of(1), volume_grid()
    skin = inside(anatomy.parts[1][0], points)
    assert anatomy.parts[0][1] == "couch"
    for solid, name in anatomy.parts[2:]:
        assert not (inside(solid, points) & ~skin).any(), name


def test_the_couch_is_behind_the_back_and_below_everyone() -> None:
    points = volume_grid()
    couch = np.argwhere(inside(part(person_of(1), "couch"), points))
    assert points.y.ravel()[couch[:, 1]].max() > FRAME.half_depth
    assert not (inside(part(person_of(1), "couch"), points) & inside(person_of(1).parts[1][0], points)).any()


def test_the_spine_is_in_the_middle_and_behind() -> None:
    points = volume_grid()
    canal = np.argwhere(inside(part(person_of(1), "cord"), points))
    assert abs(points.x.ravel()[canal[:, 2]].mean()) < 1
    assert points.y.ravel()[canal[:, 1]].mean() == pytest.approx(FRAME.canal, abs=STEP)
    assert 0 < FRAME.vertebra < FRAME.canal < FRAME.back < FRAME.half_depth


def test_gas_floats_in_the_stomach() -> None:
    """A patient on the back: gas is anterior, so its y is smaller than that of what it floats on."""
    anatomy, points = person_of(1), volume_grid()
    gas, content = (np.argwhere(inside(part(anatomy, name), points))[:, 1].mean() for name in ("gas", "content"))
    assert gas < content


def test_two_people_differ_and_one_person_does_not() -> None:
    points = volume_grid()
    livers = [inside(person_of(seed).liver, points) for seed in (1, 1, 2)]
    assert np.array_equal(livers[0], livers[1])
    assert not np.array_equal(livers[0], livers[2])


def test_every_part_has_an_attenuation_in_every_phase() -> None:
    materials = {material for _, material in person_of(1).parts} | {"liver", "vein"}
    for enhanced in PHASE_HU.values():
        assert materials == set(FIXED_HU) | set(enhanced)


def test_phases_are_in_the_order_in_which_contrast_arrives() -> None:
    """Aorta first, then veins and liver, then all of it washes out; without contrast all soft tissue is alike."""
    native, arterial, portal, late = (PHASE_HU[phase] for phase in ("native", "arterial", "portal", "late"))
    assert arterial["aorta"] > portal["aorta"] > late["aorta"] > native["aorta"]
    assert portal["liver"] > late["liver"] > arterial["liver"] > native["liver"]
    assert portal["vein"] > portal["liver"]
    assert arterial["vein"] < arterial["liver"]
    assert max(native.values()) - min(native.values()) < 30


def test_a_fatter_person_has_a_smaller_cavity() -> None:
    points = volume_grid()
    lean, fat = (
        inside(body(Frame(165, 115, fat_mm), generator(1, "test-body")).parts[3][0], points).sum() for fat_mm in (8, 30)
    )
    assert lean > 1.3 * fat
