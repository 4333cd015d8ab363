"""Marks on made-up screens tell where a lesion lies, never what it is."""

import numpy as np

from simulations.pretraining.marks import burned_in

SHAPE = (150, 190)
MASK = np.zeros(SHAPE, np.uint8)
MASK[50:90, 60:130] = 1


def test_marks_are_drawn_over_about_half_of_all_images_and_change_few_pixels() -> None:
    rng = np.random.default_rng(0)
    plain, mask = np.zeros(SHAPE), MASK
    changed = [np.mean(burned_in(rng, plain, mask) != plain) for _ in range(200)]
    assert 0.35 < np.mean([share > 0 for share in changed]) < 0.75
    assert max(changed) < 0.05
    assert not plain.any()  # the image that was given is left as it was


def test_callipers_stand_at_the_ends_of_the_lesion() -> None:
    plain, mask = np.zeros(SHAPE), MASK
    near = np.zeros(mask.shape, bool)
    for row, column in ((50, 94), (89, 94), (69, 60), (69, 129)):
        near[row - 7 : row + 8, column - 7 : column + 8] = True
    shares = []
    for seed in range(300):
        drawn = burned_in(np.random.default_rng(seed), plain, mask) > 0
        if 10 < drawn.sum() < 60 and (drawn & near).any():
            shares.append((drawn & near).sum() / drawn.sum())
    assert len(shares) > 20
    assert np.median(shares) == 1.0


def test_an_image_without_a_lesion_gets_no_callipers_and_no_error() -> None:
    nothing = np.zeros(SHAPE, np.uint8)
    for seed in range(60):
        marked = burned_in(np.random.default_rng(seed), np.zeros(SHAPE), nothing)
        assert marked.shape == SHAPE


def test_marks_are_brighter_than_a_dark_image_and_no_brighter_than_white() -> None:
    for seed in range(60):
        marked = burned_in(np.random.default_rng(seed), np.full(SHAPE, 0.2), MASK)
        assert marked.min() == 0.2
        assert marked.max() <= 1.0


def test_a_lesion_at_the_border_of_a_small_image_is_marked_within_it() -> None:
    small = np.zeros((24, 20), np.uint8)
    small[0:5, 0:20] = 1
    for seed in range(200):
        assert burned_in(np.random.default_rng(seed), np.zeros((24, 20)), small).shape == (24, 20)


def test_the_same_generator_draws_the_same_marks() -> None:
    first, second = (burned_in(np.random.default_rng(6), np.zeros(SHAPE), MASK) for _ in range(2))
    assert np.array_equal(first, second)
