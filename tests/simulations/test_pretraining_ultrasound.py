"""The made-up scanner makes speckle, and its settings do what they are called."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.pretraining.ultrasound import LONG_SIDE_PX, Scanner, image, scanner

PLAIN = Scanner(
    shape=(160, 160),
    mm=0.2,
    spot_px=(1.0, 1.6),
    looks=1,
    range_db=400.0,
    gain_db=0.0,
    tgc_db=0.0,
    tgc_ripple_db=0.0,
    smoothing_px=0.0,
    sharpening=0.0,
    gamma=1.0,
    noise=0.0,
)
FLAT = np.zeros(PLAIN.shape)


def decibels(machine: Scanner, echo_db: np.ndarray = FLAT, seed: int = 0) -> np.ndarray:
    """The image, uncompressed again."""
    grey = image(echo_db, machine, np.random.default_rng(seed))
    return (grey - 0.5) * machine.range_db - machine.gain_db


def test_the_mean_echo_of_an_even_plane_is_the_level_it_was_given() -> None:
    for level in (-20.0, 0.0, 12.0):
        power = 10 ** (decibels(PLAIN, FLAT + level) / 10)
        assert 10 * np.log10(power[8:-8, 8:-8].mean()) == pytest.approx(level + 10 * np.log10(2) - 3.01, abs=0.6)


def test_one_look_is_fully_developed_speckle_and_more_looks_are_smoother() -> None:
    def contrast(looks: int) -> float:
        power = 10 ** (decibels(replace(PLAIN, looks=looks))[8:-8, 8:-8] / 10)
        return float(power.std() / power.mean())

    # The power of speckle is exponential: deviation over mean is 1, and 1 / sqrt(n) for the mean of n.
    assert contrast(1) == pytest.approx(1.0, abs=0.12)
    assert contrast(4) == pytest.approx(0.5, abs=0.08)


def test_speckle_is_longer_across_than_down_where_the_spot_is() -> None:
    grey = decibels(replace(PLAIN, spot_px=(0.8, 3.0)))
    across = np.corrcoef(grey[:, :-2].ravel(), grey[:, 2:].ravel())[0, 1]
    down = np.corrcoef(grey[:-2].ravel(), grey[2:].ravel())[0, 1]
    assert across > down + 0.3


def test_gain_lifts_everything_and_depth_compensation_changes_the_lower_rows() -> None:
    plain = decibels(PLAIN)
    louder = image(FLAT, replace(PLAIN, gain_db=20.0), np.random.default_rng(0))
    assert louder.mean() - image(FLAT, PLAIN, np.random.default_rng(0)).mean() == pytest.approx(0.05, abs=1e-6)
    darker = decibels(replace(PLAIN, tgc_db=-30.0))
    assert (plain - darker)[:20].mean() < 5
    assert (plain - darker)[-20:].mean() > 25


def test_grey_values_stay_between_black_and_white_whatever_the_settings() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        machine = scanner(rng)
        grey = image(rng.normal(0, 30, machine.shape), machine, rng)
        assert grey.shape == machine.shape
        assert max(machine.shape) == LONG_SIDE_PX
        assert 0 <= grey.min() <= grey.max() <= 1
        assert np.isfinite(grey).all()


def test_scanners_differ() -> None:
    rng = np.random.default_rng(5)
    machines = [scanner(rng) for _ in range(30)]
    for name in ("mm", "range_db", "gain_db", "tgc_db", "gamma"):
        assert len({getattr(machine, name) for machine in machines}) == 30
    assert {machine.looks for machine in machines} == {1, 2, 3, 4}
