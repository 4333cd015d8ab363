"""Membership inference: planted memorisation is found, chance is chance, and a model's own truth never helps."""

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from simulations.attacks.bounds import Flags, Reals
from simulations.attacks.curves import auc
from simulations.attacks.membership import by_patient, confidence, likelihood_ratio, loss_threshold

MODELS, PATIENTS = 12, 60


def coins(seed: int, models: int = MODELS, patients: int = PATIENTS) -> Flags:
    return np.random.default_rng(seed).random((models, patients)) < 0.5


def lookup_table(members: Flags, seed: int) -> Reals:
    """Losses of models that know their own patients by heart and guess about all others."""
    rng = np.random.default_rng(seed)
    return np.where(members, 0.01, rng.uniform(0.5, 1.0, members.shape))


# --- confidence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1e-6, 0.2, 0.5, 0.9, 0.99999])
def test_confidence_is_the_logit_of_the_probability_of_the_label(share: float) -> None:
    assert confidence(np.array([-np.log(share)]))[0] == pytest.approx(logit(share), rel=1e-5)


def test_a_loss_of_zero_is_very_confident_and_finite() -> None:
    found = confidence(np.array([0.0, 1e-9, 1e-7, 1e-3, 800.0]))
    assert np.isfinite(found).all()
    assert found[0] == found[2] == pytest.approx(16.1, abs=0.1)
    assert np.all(np.diff(found[2:]) < 0)


def test_a_patient_is_the_mean_of_their_images() -> None:
    assert by_patient(np.array([1.0, 3.0, 10.0]), ((0, 1), (2,))).tolist() == [2.0, 10.0]


# --- the loss threshold ----------------------------------------------------------------------------------------------


def test_a_smaller_loss_is_a_higher_score() -> None:
    assert np.all(np.diff(loss_threshold(np.array([[0.1, 0.5, 2.0]]))) < 0)


def test_the_loss_threshold_finds_everybody_in_a_lookup_table() -> None:
    members = coins(1)
    assert auc(loss_threshold(lookup_table(members, 1)), members) == 1.0


# --- the likelihood ratio --------------------------------------------------------------------------------------------


def test_the_likelihood_ratio_finds_everybody_in_a_lookup_table() -> None:
    members = coins(2)
    scores = likelihood_ratio(confidence(lookup_table(members, 2)), members)
    opined = scores != 0
    assert opined.mean() > 0.95
    assert auc(scores[opined], members[opined]) == 1.0


def test_without_training_both_attacks_are_at_chance() -> None:
    """Answers that do not depend on membership, with patients who differ from each other as real ones do."""
    found = {"loss": [], "ratio": []}
    for seed in range(30):
        rng = np.random.default_rng(1000 + seed)
        members = coins(seed)
        losses = rng.uniform(0.1, 2, PATIENTS) * np.exp(0.3 * rng.normal(size=members.shape))
        found["loss"].append(auc(loss_threshold(losses), members))
        found["ratio"].append(auc(likelihood_ratio(confidence(losses), members), members))
    for values in found.values():
        assert abs(np.mean(values) - 0.5) < 3.3 * np.std(values) / np.sqrt(len(values))
        assert np.std(values) < 0.05


def test_a_patient_who_is_hard_for_every_model_is_no_stranger_to_the_likelihood_ratio() -> None:
    """Difficulty hides membership from one threshold for all; a patient's own shadow models see through it."""
    rng = np.random.default_rng(1003)
    members = coins(3)
    confidences = rng.normal(0, 4, PATIENTS) + 1.0 * members + 0.5 * rng.normal(size=members.shape)
    one_threshold, ratio = auc(confidences, members), auc(likelihood_ratio(confidences, members), members)
    assert one_threshold < 0.65
    assert ratio > 0.85


def test_the_score_is_the_ratio_of_two_normal_densities_fitted_to_the_other_models() -> None:
    rng = np.random.default_rng(1004)
    members = coins(4)
    confidences = rng.normal(size=members.shape) + members
    found = likelihood_ratio(confidences, members)
    model, others = 5, np.arange(MODELS) != 5
    held, seen = members[others], confidences[others]

    def fitted(chosen: Flags) -> tuple[Reals, float]:
        means = np.array([seen[chosen[:, p], p].mean() for p in range(PATIENTS)])
        errors = [((seen[chosen[:, p], p] - means[p]) ** 2).sum() for p in range(PATIENTS)]
        return means, float(np.sqrt(sum(errors) / (chosen.sum() - PATIENTS)))

    (inside, spread_in), (outside, spread_out) = fitted(held), fitted(~held)
    oracle = norm.logpdf(confidences[model], inside, spread_in) - norm.logpdf(confidences[model], outside, spread_out)
    np.testing.assert_allclose(found[model], oracle)


def test_a_model_s_own_members_do_not_enter_its_scores() -> None:
    rng = np.random.default_rng(1005)
    members = coins(5)
    confidences = rng.normal(size=members.shape) + members
    changed = members.copy()
    changed[3] = ~changed[3]
    one, two = likelihood_ratio(confidences, members), likelihood_ratio(confidences, changed)
    np.testing.assert_array_equal(one[3], two[3])
    assert not np.array_equal(one[4], two[4]), "a shadow's truth is what the attack lives on"


def test_a_patient_whom_too_few_shadows_hold_gets_no_opinion() -> None:
    members = coins(6)
    members[:, 0] = False
    members[0, 0] = True
    found = likelihood_ratio(np.random.default_rng(6).normal(size=members.shape), members)
    assert found[:, 0].tolist() == [0.0] * MODELS
    assert np.count_nonzero(found[:, 1:]) > 0


def test_models_that_all_answer_alike_give_finite_scores() -> None:
    members = coins(7)
    assert np.isfinite(likelihood_ratio(np.ones(members.shape), members)).all()


def test_more_memorisation_is_found_more_often() -> None:
    members = coins(8)
    noise = np.random.default_rng(1008).normal(size=members.shape)
    areas = [
        roc_auc_score(members.ravel(), likelihood_ratio(noise + gap * members, members).ravel())
        for gap in (0.0, 1.0, 3.0)
    ]
    assert areas == sorted(areas)
    assert areas[-1] > 0.95
