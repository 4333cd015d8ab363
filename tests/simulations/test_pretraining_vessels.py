"""Made-up fundus photographs: vessels grow as they should, and the mask lies on what is dark."""

from functools import cache

import numpy as np
import pytest

from simulations.pretraining.example import Example
from simulations.pretraining.fundus import EDGE_PX, fundus
from simulations.pretraining.vessels import Eye, Vessels, grow, paint

EYE = Eye(
    edge=300, disc=(150.0, 60.0), macula=(155.0, 170.0), disc_px=20.0, widest_px=3.0, thinnest_px=0.7, reach_px=150.0
)


@cache
def grown(seed: int) -> Vessels:
    """One eye's vessels."""
    return grow(np.random.default_rng(seed), EYE)


@cache
def photographs() -> tuple[Example, ...]:
    """A few, drawn once."""
    return tuple(fundus(21, index) for index in range(8))


@pytest.mark.parametrize("seed", range(4))
def test_vessels_start_at_the_disc_keep_off_the_macula_and_end_at_the_field(seed: int) -> None:
    vessels = grown(seed)
    from_disc = np.hypot(vessels.rows - EYE.disc[0], vessels.columns - EYE.disc[1])
    from_macula = np.hypot(vessels.rows - EYE.macula[0], vessels.columns - EYE.macula[1])
    from_middle = np.hypot(vessels.rows - 150, vessels.columns - 150)
    assert from_disc.min() < EYE.disc_px
    assert from_macula.min() > 0.7 * EYE.disc_px - 1
    assert from_middle.max() < EYE.reach_px


@pytest.mark.parametrize("seed", range(4))
def test_vessels_taper_away_from_the_disc(seed: int) -> None:
    vessels = grown(seed)
    away = np.hypot(vessels.rows - EYE.disc[0], vessels.columns - EYE.disc[1])
    assert vessels.radii.max() <= EYE.widest_px * 1.06
    assert vessels.radii.min() > EYE.thinnest_px
    assert np.median(vessels.radii[away < 40]) > np.median(vessels.radii[away > 120])


def test_there_are_arteries_and_veins_and_arteries_are_thinner() -> None:
    thick = {
        kind: np.mean([np.percentile(grown(seed).radii[grown(seed).artery == kind], 95) for seed in range(4)])
        for kind in (True, False)
    }
    assert thick[True] < thick[False]


def test_no_vessel_ties_a_knot() -> None:
    """Along a line of neighbours the direction may change by little from step to step: gaps stay one step long."""
    vessels = grown(1)
    # Steps of one tip are not stored in a row, so this asks for the nearest other point of each.
    places = np.stack([vessels.rows, vessels.columns], axis=1)[:600]
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + np.eye(len(places)) * 99
    assert apart.min(axis=1).max() < 12


def test_a_painted_vessel_is_as_wide_as_twice_its_radius() -> None:
    rows = np.arange(10.0, 90.0, 0.5)
    for radius in (1.0, 2.0, 3.5):
        line = Vessels(rows, np.full(rows.size, 50.0), np.full(rows.size, radius), np.zeros(rows.size, bool))
        canvas = paint(line, np.ones(rows.size), line.radii, 100)
        assert canvas[50].sum() == pytest.approx(2 * radius, abs=0.6)
        assert canvas[50, 50] == 1.0
        assert not canvas[:, :40].any()


def test_where_two_vessels_cross_the_stronger_one_is_seen() -> None:
    along = np.arange(5.0, 45.0, 0.5)
    still = np.full(along.size, 25.0)
    rows, columns = np.concatenate([along, still]), np.concatenate([still, along])
    strength = np.repeat([0.3, 0.8], along.size)
    cross = Vessels(rows, columns, np.full(rows.size, 1.5), np.zeros(rows.size, bool))
    canvas = paint(cross, strength, cross.radii, 50)
    assert canvas[25, 25] == pytest.approx(0.8)
    assert canvas[10, 25] == pytest.approx(0.3)


def test_what_lies_partly_outside_the_image_is_cut_off_and_nothing_wraps_around() -> None:
    edge = Vessels(np.array([20.0]), np.array([0.0]), np.array([4.0]), np.array([False]))
    canvas = paint(edge, np.ones(1), edge.radii, 40)
    assert canvas[20, :4].all()
    assert not canvas[:, 8:].any()


def test_vessels_are_darker_than_what_is_beside_them() -> None:
    for photograph in photographs():
        light, mask = photograph.image.voxels[0], photograph.mask > 0
        near = np.zeros_like(mask)
        for down, across in ((-7, 0), (7, 0), (0, -7), (0, 7)):
            near |= np.roll(mask, (down, across), (0, 1))
        seen = light > 0.15 * light.max()
        assert light[mask & seen].mean() < light[near & ~mask & seen].mean()


def test_masks_cover_a_share_of_the_image_as_annotators_do_and_nothing_outside_the_field() -> None:
    shares = [photograph.mask.mean() for photograph in photographs()]
    assert 0.02 < min(shares) < max(shares) < 0.25
    corner = np.hypot(*(np.indices((EDGE_PX, EDGE_PX)) - EDGE_PX / 2)) > 0.5 * EDGE_PX
    assert not any(photograph.mask[corner].any() for photograph in photographs())


def test_the_field_is_round_and_dark_beyond() -> None:
    corner = np.hypot(*(np.indices((EDGE_PX, EDGE_PX)) - EDGE_PX / 2)) > 0.5 * EDGE_PX
    for photograph in photographs():
        light = photograph.image.voxels[0]
        assert light[corner].max() < 0.15 * light.max()
        assert photograph.image.modality == "fundus"


def test_cameras_differ_in_level_and_noise() -> None:
    levels = [float(np.median(photograph.image.voxels[0][200:340, 200:340])) for photograph in photographs()]
    assert max(levels) > 1.15 * min(levels)


def test_the_same_seed_and_index_give_the_same_photograph() -> None:
    again = fundus(21, 2)
    assert again.image.voxels.tobytes() == photographs()[2].image.voxels.tobytes()
    assert again.mask.tobytes() == photographs()[2].mask.tobytes()
    assert fundus(22, 2).mask.tobytes() != again.mask.tobytes()
