"""Random textures have the mean, variance and correlation that they promise."""

import numpy as np
import pytest

from simulations.pretraining.fields import curve, ridges, smooth

SHAPE = (40, 30)


def draws(lengths: tuple[float, float], number: int = 2000) -> np.ndarray:
    """Many fields, (number, *SHAPE)."""
    rng = np.random.default_rng(3)
    return np.stack([smooth(rng, SHAPE, lengths) for _ in range(number)])


def test_a_smooth_field_has_mean_zero_and_variance_one_at_every_pixel_also_at_the_border() -> None:
    fields = draws((5.0, 9.0))
    assert np.abs(fields.mean(axis=0)).max() < 0.12
    assert fields.var(axis=0) == pytest.approx(np.ones(SHAPE), abs=0.18)


def test_correlation_falls_with_distance_as_the_length_of_each_axis_says() -> None:
    fields = draws((4.0, 8.0))

    def correlation(down: int, across: int) -> float:
        return float((fields[:, 16, 10] * fields[:, 16 + down, 10 + across]).mean())

    # Two Gaussians of width L overlap by exp(-d^2 / 2 L^2).
    assert correlation(4, 0) == pytest.approx(np.exp(-0.5), abs=0.08)
    assert correlation(0, 8) == pytest.approx(np.exp(-0.5), abs=0.08)
    assert abs(correlation(16, 0)) < 0.08
    assert correlation(4, 0) < correlation(0, 4)  # a control: the axes are not taken for one another


def test_ridges_are_one_where_a_field_changes_sign_and_thinner_for_a_smaller_width() -> None:
    wide = ridges(np.random.default_rng(1), SHAPE, (6.0, 6.0), 0.5)
    thin = ridges(np.random.default_rng(1), SHAPE, (6.0, 6.0), 0.1)
    below = smooth(np.random.default_rng(1), SHAPE, (6.0, 6.0)) < 0
    crossing = below[:, 1:] != below[:, :-1]
    assert wide.max() <= 1
    assert wide.min() >= 0
    assert wide[:, 1:][crossing].mean() > 0.8
    assert (thin > 0.5).sum() < 0.4 * (wide > 0.5).sum()


def test_a_curve_is_one_line_of_a_smooth_field() -> None:
    rng = np.random.default_rng(2)
    lines = np.stack([curve(rng, 50, 10.0) for _ in range(1500)])
    assert lines.shape == (1500, 50)
    assert lines.var(axis=0) == pytest.approx(np.ones(50), abs=0.2)
    assert (lines[:, 20] * lines[:, 30]).mean() == pytest.approx(np.exp(-0.5), abs=0.1)


def test_the_same_generator_gives_the_same_bytes() -> None:
    first, second = (smooth(np.random.default_rng(9), SHAPE, (3.0, 3.0)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != smooth(np.random.default_rng(10), SHAPE, (3.0, 3.0)).tobytes()
