"""How well an attack does: numbers against scikit-learn, intervals by their coverage, thresholds without peeking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score, roc_curve

from simulations.attacks.bounds import Flags, Reals
from simulations.attacks.curves import auc, curve, decisions, success, tpr_at

SHAPE = (6, 20)


def scored(seed: int, gap: float, shape: tuple[int, int] = SHAPE) -> tuple[Reals, Flags]:
    """Scores of members a ``gap`` above those of strangers, one standard deviation wide."""
    rng = np.random.default_rng(seed)
    members = rng.random(shape) < 0.5
    return rng.normal(size=shape) + gap * members, members


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_the_curve_is_scikit_learns(seed: int, decimals: int) -> None:
    scores, members = scored(seed, 1.0)
    scores = scores.round(decimals)
    fpr, tpr, _ = roc_curve(members.ravel(), scores.ravel(), drop_intermediate=False)
    found = curve(scores, members)
    np.testing.assert_allclose(found.fpr, fpr)
    np.testing.assert_allclose(found.tpr, tpr)


@given(arrays(np.float64, (4, 6), elements=st.integers(-3, 3).map(float)), st.integers(0, 1000))
def test_the_area_is_scikit_learns_ties_included(scores: Reals, seed: int) -> None:
    members = np.random.default_rng(seed).random(scores.shape) < 0.5
    members[0, 0], members[0, 1] = True, False
    assert auc(scores, members) == pytest.approx(roc_auc_score(members.ravel(), scores.ravel()))


def test_the_area_is_that_under_the_curve() -> None:
    scores, members = scored(1, 0.7)
    found = curve(scores, members)
    assert auc(scores, members) == pytest.approx(float(np.trapezoid(found.tpr, found.fpr)))


def test_without_strangers_there_is_no_area() -> None:
    assert np.isnan(auc(np.zeros((2, 2)), np.ones((2, 2), bool)))


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.5])
def test_members_found_are_counted_at_the_last_threshold_that_keeps_the_false_alarms(fpr: float) -> None:
    scores, members = scored(2, 1.0, (10, 40))
    best = 0.0
    for threshold in np.append(scores.ravel(), np.inf):
        said = scores >= threshold
        if said[~members].mean() <= fpr:
            best = max(best, said[members].mean())
    assert tpr_at(curve(scores, members), fpr) == pytest.approx(best)


def test_false_alarms_are_not_interpolated_away() -> None:
    """One stranger of four above all members: at 10 % false alarms nobody may be accused, so nobody is found."""
    scores = np.array([[3.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    members = np.array([[False, True, True, False], [False, False, True, True]])
    assert tpr_at(curve(scores, members), 0.1) == 0.0


# --- decisions -------------------------------------------------------------------------------------------------------


def test_a_perfect_score_decides_rightly_about_everybody() -> None:
    _, members = scored(3, 0.0)
    assert np.array_equal(decisions(members.astype(float), members), members)


def test_a_model_s_own_truth_does_not_choose_its_threshold() -> None:
    scores, members = scored(4, 0.5)
    changed = members.copy()
    changed[::2] = ~changed[::2]
    assert np.array_equal(decisions(scores, members)[::2], decisions(scores, changed)[::2])
    assert not np.array_equal(decisions(scores, members)[1::2], decisions(scores, changed)[1::2])


def test_guessing_has_no_advantage_on_average_where_the_best_threshold_in_hindsight_has() -> None:
    honest, hindsight = [], []
    for seed in range(60):
        scores, members = scored(seed, 0.0)
        said = decisions(scores, members)
        honest.append(said[members].mean() - said[~members].mean())
        found = curve(scores, members)
        hindsight.append((found.tpr - found.fpr).max())
    assert abs(np.mean(honest)) < 3 * np.std(honest) / np.sqrt(len(honest))
    assert np.mean(hindsight) > 10 * np.std(hindsight) / np.sqrt(len(hindsight)), "which is why nobody may peek"


def test_the_advantage_of_a_known_gap_is_that_of_the_normal_distribution() -> None:
    """The best threshold between N(0, 1) and N(2, 1) is 1: 0.841 found, 0.159 accused."""
    scores, members = scored(5, 2.0, (20, 500))
    found = success(scores, members, np.random.default_rng(0))
    assert found.advantage.value == pytest.approx(0.683, abs=0.02)
    assert found.auc.value == pytest.approx(0.921, abs=0.01)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_intervals_hold_the_value_that_all_patients_would_give() -> None:
    truth = 0.760  # AUC of N(1, 1) against N(0, 1): Phi(1 / sqrt(2))
    held = 0
    for seed in range(40):
        scores, members = scored(seed, 1.0, (6, 60))
        found = success(scores, members, np.random.default_rng(seed)).auc
        held += found.low <= truth <= found.high
    assert 34 <= held <= 40


def test_patients_who_are_alike_in_all_models_do_not_count_as_many() -> None:
    """Ten copies of the same answers are no more evidence than one."""
    scores, members = scored(7, 1.0, (4, 30))
    copied = np.tile(scores, (10, 1)), np.tile(members, (10, 1))
    once = success(scores, members, np.random.default_rng(1)).auc
    often = success(*copied, np.random.default_rng(1)).auc
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.05)
    independent = success(*scored(8, 1.0, (40, 30)), np.random.default_rng(1)).auc
    assert independent.high - independent.low < 0.6 * (once.high - once.low)


def test_the_same_generator_gives_the_same_interval() -> None:
    scores, members = scored(9, 1.0)
    one, two = (success(scores, members, np.random.default_rng(3)) for _ in range(2))
    assert one == two
