"""Made-up vessels grow as they should, and are painted as wide as they are."""

from functools import cache

import numpy as np
import pytest

from simulations.pretraining.vessels import Eye, Vessels, grow, paint

EYE = Eye(
    edge=300, disc=(150.0, 60.0), macula=(155.0, 170.0), disc_px=20.0, widest_px=3.0, thinnest_px=0.7, reach_px=150.0
)


@cache
def grown(seed: int) -> Vessels:
    """One eye's vessels."""
    return grow(np.random.default_rng(seed), EYE)


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


def test_branches_are_thinner_than_what_they_leave() -> None:
    """Every vessel but the trunks began as a branch: most points are thinner than the thinnest trunk was."""
    vessels = grown(2)
    assert np.mean(vessels.radii < 0.4 * EYE.widest_px) > 0.3


def test_a_thin_vessel_ends_where_another_one_is() -> None:
    """No cell of 5 x 5 pixels off the disc is crossed again and again."""
    vessels = grown(3)
    off = np.hypot(vessels.rows - EYE.disc[0], vessels.columns - EYE.disc[1]) > 2 * EYE.disc_px
    cells = (vessels.rows[off] // 5).astype(int) * 1000 + (vessels.columns[off] // 5).astype(int)
    _, visits = np.unique(cells, return_counts=True)
    # One passage through a cell is four to five steps of a pixel and a half.
    assert np.percentile(visits, 90) <= 3 * 5


def test_eyes_on_the_other_side_are_mirrored() -> None:
    left = Eye(300, (150.0, 240.0), (155.0, 130.0), 20.0, 3.0, 0.7, 150.0)
    vessels = grow(np.random.default_rng(0), left)
    assert np.hypot(vessels.rows - 150, vessels.columns - 240).min() < left.disc_px
    assert (vessels.columns < 150).any()


def test_the_same_generator_grows_the_same_tree() -> None:
    first, second = (grow(np.random.default_rng(8), EYE) for _ in range(2))
    assert first.rows.tobytes() == second.rows.tobytes()
    assert grow(np.random.default_rng(9), EYE).rows.tobytes() != first.rows.tobytes()
