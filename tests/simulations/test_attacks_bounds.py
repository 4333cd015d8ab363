"""What privacy leaves to an attacker: the formulas against their derivation, limits against scipy, proofs both ways."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from simulations.attacks.bounds import (
    Flags,
    Promise,
    Reals,
    clopper_pearson,
    most_advantage,
    most_tpr,
    proven_epsilon,
)

EPSILONS = st.floats(0.01, 20)
DELTAS = st.floats(0, 0.2)
RATES = st.floats(0, 1)
PROMISE = Promise(1.0, 0.01)


def bound(fpr: float, promise: Promise) -> float:
    return float(most_tpr(np.array([fpr]), promise)[0])


# --- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.2])
def test_at_few_false_alarms_the_bound_is_e_to_the_epsilon_times_fpr_plus_delta(fpr: float) -> None:
    assert bound(fpr, PROMISE) == pytest.approx(math.e * fpr + 0.01)


@pytest.mark.parametrize("fpr", [0.5, 0.7, 0.9])
def test_at_many_false_alarms_the_bound_leaves_strangers_in_doubt_too(fpr: float) -> None:
    """A stranger who is cleared must be as likely, up to e^epsilon and delta, had they been a member."""
    assert 1 - fpr - 0.01 == pytest.approx(math.e * (1 - bound(fpr, PROMISE)))


@given(EPSILONS, DELTAS, RATES)
def test_the_bound_is_a_rate_and_never_below_guessing(epsilon: float, delta: float, fpr: float) -> None:
    found = bound(fpr, Promise(epsilon, delta))
    assert fpr - 1e-12 <= found <= 1


@given(EPSILONS, DELTAS, RATES)
def test_more_privacy_never_allows_more(epsilon: float, delta: float, fpr: float) -> None:
    assert bound(fpr, Promise(epsilon / 2, delta)) <= bound(fpr, Promise(epsilon, delta)) + 1e-12


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("delta", [0.0, 1e-4, 0.05])
def test_the_largest_advantage_is_where_the_bound_is_farthest_above_guessing(epsilon: float, delta: float) -> None:
    grid = np.linspace(0, 1, 200_001)
    promise = Promise(epsilon, delta)
    assert most_advantage(promise) == pytest.approx(float((most_tpr(grid, promise) - grid).max()), abs=2e-5 * epsilon)


def test_the_advantage_is_the_textbook_formula() -> None:
    assert most_advantage(PROMISE) == pytest.approx((math.e - 1 + 0.02) / (math.e + 1))


def test_a_promise_of_almost_nothing_allows_everything_and_does_not_overflow() -> None:
    assert most_advantage(Promise(5000.0, 0.0)) == pytest.approx(1.0)


def test_randomised_response_reaches_the_bound_exactly() -> None:
    """Answering truly with probability e^epsilon / (1 + e^epsilon) is epsilon-private, and nothing leaks more."""
    epsilon = 1.3
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert bound(1 - truth, Promise(epsilon, 0.0)) == pytest.approx(truth)
    assert most_advantage(Promise(epsilon, 0.0)) == pytest.approx(2 * truth - 1)


def test_no_threshold_on_gaussian_noise_exceeds_the_bound_of_its_exact_epsilon() -> None:
    """The Gaussian mechanism's exact delta (Balle & Wang, ICML 2018, theorem 8) is the oracle."""
    sigma, epsilon = 1.0, 1.5
    delta = float(
        norm.cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)
    )
    thresholds = np.linspace(-6, 7, 5000)
    fpr, tpr = norm.sf(thresholds / sigma), norm.sf((thresholds - 1) / sigma)
    assert np.all(tpr <= most_tpr(fpr, Promise(epsilon, delta)) + 1e-12)
    assert not np.all(tpr <= most_tpr(fpr, Promise(epsilon / 2, delta))), "a false promise must be found out"


# --- Clopper and Pearson ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 7, 40, 960])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_limits_are_those_of_scipy(trials: int, share: float, level: float) -> None:
    successes = round(share * trials)
    oracle = binomtest(successes, trials).proportion_ci(level, method="exact")
    assert clopper_pearson(successes, trials, level) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_without_a_trial_nothing_is_known() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


# --- proofs ----------------------------------------------------------------------------------------------------------


def coins(models: int, patients: int, seed: int = 0) -> Flags:
    return np.random.default_rng(seed).random((models, patients)) < 0.5


def responses(members: Flags, epsilon: float, seed: int) -> Reals:
    """Randomised response about each patient: exactly epsilon-private, with a little noise to break ties."""
    rng = np.random.default_rng(seed)
    honest = rng.random(members.shape) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return np.where(members == honest, 1.0, 0.0) + 1e-6 * rng.random(members.shape)


def test_scores_without_information_prove_nothing() -> None:
    proofs = [
        proven_epsilon(np.random.default_rng(1000 + seed).normal(size=(16, 100)), coins(16, 100, seed), 0.0).epsilon
        for seed in range(20)
    ]
    assert sum(proof > 0 for proof in proofs) <= 3, "at 95 % one of twenty may err"
    assert max(proofs) < 0.2


def test_scores_that_are_the_truth_prove_a_large_epsilon() -> None:
    members = coins(16, 100)
    proof = proven_epsilon(members.astype(float), members, 1e-5)
    assert proof.epsilon > 4
    assert (proof.hits, proof.false_alarms) == (proof.members, 0)


def test_what_is_proven_of_randomised_response_is_below_its_epsilon_and_not_far_below() -> None:
    members = coins(20, 400)
    proof = proven_epsilon(responses(members, 2.0, 1), members, 0.0)
    assert 1.6 < proof.epsilon <= 2.0


def test_a_mechanism_that_is_worse_than_its_claim_is_convicted() -> None:
    members = coins(20, 400)
    claimed = 1.0
    assert proven_epsilon(responses(members, 3.0, 2), members, 0.0).epsilon > claimed
    assert proven_epsilon(responses(members, claimed, 2), members, 0.0).epsilon <= claimed


def test_an_attack_that_only_clears_strangers_proves_as_much_as_one_that_only_finds_members() -> None:
    members = coins(16, 200)
    rng = np.random.default_rng(4)
    cleared = np.where(~members & (rng.random(members.shape) < 0.3), -1.0, 0.0)
    finds = np.where(members & (rng.random(members.shape) < 0.3), 1.0, 0.0)
    assert proven_epsilon(cleared, members, 0.0).epsilon > 2
    assert proven_epsilon(finds, members, 0.0).epsilon > 2


def test_delta_is_taken_off_before_the_ratio() -> None:
    """Members found with probability 2 % and no stranger: a delta of 5 % explains that, and epsilon may be 0."""
    members = coins(20, 400)
    rare = np.where(members & (np.random.default_rng(5).random(members.shape) < 0.02), 1.0, 0.0)
    assert proven_epsilon(rare, members, 0.0).epsilon > 0.5
    assert proven_epsilon(rare, members, 0.05).epsilon == 0.0


def test_the_counts_of_a_proof_give_its_epsilon() -> None:
    members = coins(16, 100)
    proof = proven_epsilon(responses(members, 2.0, 6), members, 1e-3)
    least = binomtest(proof.hits, proof.members).proportion_ci(0.95).low
    most = binomtest(proof.false_alarms, proof.strangers).proportion_ci(0.95).high
    assert proof.epsilon == pytest.approx(math.log((least - 1e-3) / most))


def test_only_half_of_the_models_are_measured() -> None:
    members = coins(16, 100)
    proof = proven_epsilon(members.astype(float), members, 0.0)
    measured = members[1::2]
    assert {proof.members, proof.strangers} == {int(measured.sum()), int((~measured).sum())}
