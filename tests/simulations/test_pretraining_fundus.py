"""Made-up fundus photographs: the mask lies on what is dark, and what is dark is not all in the mask."""

from functools import cache

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from simulations.pretraining.example import Example
from simulations.pretraining.fundus import EDGE_PX, fundus


@cache
def photographs() -> tuple[Example, ...]:
    """A few, drawn once."""
    return tuple(fundus(21, index) for index in range(8))


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


def test_a_photograph_has_a_bright_disc_where_the_vessels_meet() -> None:
    """Blurred, the brightest place lies among vessels more often than a place drawn at random would."""
    near = 0
    for photograph in photographs():
        light = gaussian_filter(photograph.image.voxels[0], 12)
        row, column = np.unravel_index(light.argmax(), light.shape)
        around = photograph.mask[max(0, row - 40) : row + 41, max(0, column - 40) : column + 41]
        near += around.mean() > photograph.mask.mean()
    assert near >= 5


def test_there_are_edges_that_are_no_vessels() -> None:
    """Were every steep place a vessel's, a network would learn to find steep places."""
    for photograph in photographs():
        light = gaussian_filter(photograph.image.voxels[0], 1.5)
        steep = np.hypot(*np.gradient(light))
        sure = ~binary_dilation(photograph.mask, iterations=4)
        assert (steep[sure] > np.percentile(steep, 95)).any()


def test_images_are_what_an_eight_bit_file_holds() -> None:
    for photograph in photographs():
        values = photograph.image.voxels
        assert values.shape == (1, EDGE_PX, EDGE_PX)
        assert (values == np.rint(values)).all()
        assert values.max() <= 255
        assert set(np.unique(photograph.mask)) == {0, 1}
