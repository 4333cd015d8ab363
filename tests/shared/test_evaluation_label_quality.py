"""Checks of a site's data: statistics against scikit-learn, honest federations in peace, planted faults by name."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from shared.evaluation import label_quality
from shared.evaluation.label_quality import (
    EITHER,
    FLIPPED,
    INVERTED,
    LEVEL,
    ONE_CLASS,
    SHIFTED,
    Check,
    Evidence,
    Outlines,
    Ranks,
    assess,
    auroc_of_patients,
    displacements,
    findings,
    one_class_p,
)

NAMES = ("aachen", "bergen", "coimbra", "dublin")
Rng = np.random.Generator


def ranked(rng: Rng, site: str, patients: int, signal: float, names: tuple[str, ...] = NAMES) -> Ranks:
    """Models that see the label at ``signal`` standard deviations, with a part of the noise that all of them share."""
    others = tuple(name for name in names if name != site)
    labels = (np.arange(patients) % 2).astype(float)[:, None]
    shared = rng.normal(size=(patients, 1)) * 0.7
    scores = signal * labels + shared + rng.normal(size=(len(others), patients, 1)) * 0.7
    return Ranks(others, labels, scores, rng.normal(size=scores.shape))


def federation(rng: Rng, patients: int = 40, signal: float = 2.0) -> dict[str, Evidence]:
    return {site: ranked(rng, site, patients, signal) for site in NAMES}


def outlined(rng: Rng, site: str, patients: int, reach: int = 4) -> Outlines:
    """Dice falls with the displacement, from about 0.8; negatives are met by chance."""
    others = tuple(name for name in NAMES if name != site)
    dice = rng.uniform(0.7, 0.9, (len(others), patients))
    away = np.array([max(map(abs, step)) for step in displacements(reach, 2)]).reshape(2 * reach + 1, -1)
    moved = dice.mean(axis=0)[:, None, None] - 0.1 * away + 0.01 * rng.normal(size=(patients, *away.shape))
    moved[:, reach, reach] = dice.mean(axis=0)
    return Outlines(others, dice, rng.uniform(0.0, 0.4, dice.shape), moved)


def segmented(rng: Rng, patients: int = 30) -> dict[str, Evidence]:
    return {site: outlined(rng, site, patients) for site in NAMES}


def said(evidence: dict[str, Evidence], seed: int = 0) -> list[tuple[str, str]]:
    return [(one.site, one.code) for one in findings(assess(evidence, np.random.default_rng(seed)))]


def flipped(own: Ranks) -> Ranks:
    return replace(own, labels=1 - own.labels)


def with_ranks(evidence: dict[str, Evidence], site: str, damage: Callable[[Ranks], Ranks]) -> dict[str, Evidence]:
    own = evidence[site]
    assert isinstance(own, Ranks)
    return evidence | {site: damage(own)}


# --- the statistic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_auroc_of_patients_with_one_image_is_scikit_learn_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(50) < 0.3).astype(float)
    scores = np.round(rng.normal(size=(3, 50)) + labels, 1)
    found = auroc_of_patients(labels[:, None], scores[..., None])
    assert found == pytest.approx([roc_auc_score(labels, of) for of in scores], abs=1e-12)


def test_a_patient_of_both_kinds_counts_as_a_share_of_either() -> None:
    """By hand over all pairs: weight y_a (1 - y_b) for a above b, half of it for a tie."""
    labels, scores = np.array([0.0, 0.5, 1.0, 1.0, 0.0]), np.array([0.1, 0.4, 0.4, 0.9, 0.6])
    above = weight = 0.0
    for a in range(5):
        for b in range(5):
            pair = labels[a] * (1 - labels[b])
            weight += pair
            above += pair * (1.0 if scores[a] > scores[b] else 0.5 if scores[a] == scores[b] else 0.0)
    assert auroc_of_patients(labels[:, None], scores[None, :, None])[0] == pytest.approx(above / weight)


def test_several_findings_are_averaged_and_one_that_nobody_has_is_left_out() -> None:
    rng = np.random.default_rng(1)
    labels = np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0, np.zeros(20)], axis=1).astype(float)
    scores = rng.normal(size=(1, 20, 3))
    by_hand = np.mean([roc_auc_score(labels[:, finding], scores[0, :, finding]) for finding in (0, 1)])
    assert auroc_of_patients(labels, scores)[0] == pytest.approx(by_hand)
    assert math.isnan(auroc_of_patients(np.zeros((20, 1)), scores[..., :1])[0])


def test_the_p_value_of_exchanged_labels_is_mann_and_whitney_s() -> None:
    """Oracle: the exact test of SciPy, for one model and untied scores."""
    rng = np.random.default_rng(3)
    labels = (np.arange(14) % 2).astype(float)
    scores = rng.normal(size=14) - 0.5 * labels
    own = Ranks(("bergen",), labels[:, None], scores[None, :, None], rng.normal(size=(1, 14, 1)))
    check = next(one for one in assess({"aachen": own}, rng) if one.code == FLIPPED)
    exact = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0], alternative="less", method="exact").pvalue
    # The p-value stops after ten draws that reach the statistic: a relative error of about 1 / sqrt(10).
    assert exact / 2.5 < check.p < exact * 2.5


def test_the_statistic_of_a_check_is_the_mean_over_models() -> None:
    evidence = federation(np.random.default_rng(5))
    for check in assess(evidence, np.random.default_rng(0)):
        own = evidence[check.site]
        assert isinstance(own, Ranks)
        if check.code == FLIPPED:
            assert check.statistic == pytest.approx(own.by_model().mean())
        if check.code == INVERTED:
            assert check.repaired == pytest.approx(auroc_of_patients(own.labels, own.negatives).mean())


def test_what_is_expected_is_the_median_over_the_other_sites_alone() -> None:
    evidence = federation(np.random.default_rng(5))
    check = next(one for one in assess(evidence, np.random.default_rng(0)) if one.site == "bergen")
    values = [
        value
        for site in NAMES
        for model, value in zip(evidence[site].models, evidence[site].by_model(), strict=True)
        if "bergen" not in {site, model}
    ]
    assert len(values) == 6
    assert check.expected == pytest.approx(np.median(values))


@pytest.mark.parametrize(("alone", "pooled"), [([5, 0], [9, 6]), ([0, 4], [9, 6]), ([3, 0, 0], [5, 4, 3])])
def test_the_chance_of_one_class_is_counted_by_dealing_all_hands(alone: list[int], pooled: list[int]) -> None:
    patients = [kind for kind, count in enumerate(pooled) for _ in range(count)]
    hands = list(combinations(patients, sum(alone)))
    counted = sum(len(set(hand)) == 1 for hand in hands) / len(hands)
    assert one_class_p(np.array(alone, float), np.array(pooled, float)) == pytest.approx(counted)


def test_a_site_of_two_classes_or_of_nobody_is_no_evidence_of_one_class() -> None:
    assert one_class_p(np.array([3.0, 1.0]), np.array([9.0, 6.0])) == 1.0
    assert one_class_p(np.zeros(2), np.array([9.0, 6.0])) == 1.0


def test_displacements_are_in_the_order_of_the_cube() -> None:
    cube = np.array(displacements(2, 2)).reshape(5, 5, 2)
    assert cube[0, 0].tolist() == [-2, -2]
    assert cube[2, 2].tolist() == [0, 0]
    assert cube[2, 4].tolist() == [0, 2]


# --- planted faults --------------------------------------------------------------------------------------------------


def test_exchanged_labels_are_named() -> None:
    evidence = with_ranks(federation(np.random.default_rng(0)), "bergen", flipped)
    assert said(evidence) == [("bergen", FLIPPED)]


def test_inverted_images_are_named() -> None:
    """Models say nothing of the images as they are, and what they should of the negatives."""
    evidence = with_ranks(
        federation(np.random.default_rng(0)),
        "coimbra",
        lambda own: replace(own, scores=own.negatives, negatives=own.scores),
    )
    assert said(evidence) == [("coimbra", INVERTED)]


def test_where_both_repairs_serve_the_finding_says_so() -> None:
    evidence = with_ranks(
        federation(np.random.default_rng(0)),
        "aachen",
        lambda own: replace(own, scores=-own.scores, negatives=own.scores),
    )
    assert said(evidence) == [("aachen", EITHER)]


def test_moved_masks_are_named_with_how_far() -> None:
    rng = np.random.default_rng(0)
    evidence = segmented(rng)
    own = evidence["dublin"]
    assert isinstance(own, Outlines)
    moved = np.roll(own.moved, (3, -2), axis=(1, 2))
    evidence["dublin"] = replace(own, moved=moved, dice=np.tile(moved[:, 4, 4], (3, 1)))
    checks = assess(evidence, rng)
    (finding,) = findings(checks)
    assert (finding.site, finding.code) == ("dublin", SHIFTED)
    assert "moved by +3 x -2 voxels" in finding.sentence
    assert next(one for one in checks if one.site == "dublin" and one.code == SHIFTED).shift == (3, -2)


def test_masks_moved_by_one_voxel_are_a_difference_in_outlining() -> None:
    rng = np.random.default_rng(0)
    evidence = segmented(rng)
    own = evidence["dublin"]
    assert isinstance(own, Outlines)
    moved = np.roll(own.moved, (1, 1), axis=(1, 2))
    evidence["dublin"] = replace(own, moved=moved, dice=np.tile(moved[:, 4, 4], (3, 1)))
    assert said(evidence) == []


def test_inverted_images_are_named_by_dice_too() -> None:
    rng = np.random.default_rng(0)
    evidence = segmented(rng)
    own = evidence["bergen"]
    assert isinstance(own, Outlines)
    low = np.zeros_like(own.moved) + own.negatives.mean(axis=0)[:, None, None]
    evidence["bergen"] = replace(own, dice=own.negatives, negatives=own.dice, moved=low)
    assert said(evidence) == [("bergen", INVERTED)]


def test_a_site_of_one_class_is_named_and_its_ranks_are_not_tested() -> None:
    evidence = with_ranks(
        federation(np.random.default_rng(0)), "bergen", lambda own: replace(own, labels=np.zeros_like(own.labels))
    )
    assert said(evidence) == [("bergen", ONE_CLASS)]
    own = [one for one in assess(evidence, np.random.default_rng(0)) if one.site == "bergen" and one.code != ONE_CLASS]
    assert [one.p for one in own] == [1.0, 1.0]


def test_two_faults_at_two_of_five_sites_are_both_named() -> None:
    names = (*NAMES, "evora")
    rng = np.random.default_rng(0)
    evidence: dict[str, Evidence] = {site: ranked(rng, site, 40, 2.0, names) for site in names}
    evidence = with_ranks(evidence, "aachen", flipped)
    evidence = with_ranks(evidence, "evora", lambda own: replace(own, scores=own.negatives, negatives=own.scores))
    assert said(evidence) == [("aachen", FLIPPED), ("evora", INVERTED)]


def test_the_sentence_has_the_numbers_and_no_claim_about_a_side_that_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    one_of_four = findings(assess(with_ranks(federation(rng), "bergen", flipped), rng))
    assert "over 40 patients" in one_of_four[0].sentence
    assert "cannot be told" not in one_of_four[0].sentence
    both = {
        "aachen": flipped(ranked(rng, "aachen", 40, 2.0, ("aachen", "bergen"))),
        "bergen": flipped(ranked(rng, "bergen", 40, 2.0, ("aachen", "bergen"))),
    }
    found = findings(assess(both, rng))
    assert {one.site for one in found} == {"aachen", "bergen"}
    assert all("which side is right cannot be told" in one.sentence for one in found)


# --- honest federations ----------------------------------------------------------------------------------------------


def honest(seed: int, signal: float) -> dict[str, Evidence]:
    """Three to five sites of 6 to 60 patients; one in three segments."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return {site: outlined(rng, site, int(rng.integers(6, 60)), reach=2) for site in NAMES[: 3 + seed % 2]}
    names = (*NAMES, "evora")[: 3 + seed % 3]
    return {site: ranked(rng, site, int(rng.integers(6, 60)), signal, names) for site in names}


def alarms(federations: int, signal: float) -> int:
    return sum(bool(said(honest(seed, signal), seed)) for seed in range(federations))


def test_a_hundred_honest_federations_raise_no_alarm() -> None:
    assert alarms(100, signal=1.0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("signal", [0.0, 0.5, 2.0])
def test_of_a_thousand_honest_federations_at_most_one_in_a_hundred_raises_an_alarm(signal: float) -> None:
    """At signal 0 models are useless: the edge of the null hypothesis, where the level is used up."""
    assert alarms(1000, signal) <= stats.binom.ppf(0.99, 1000, LEVEL)


def test_without_its_correction_and_its_demand_for_gain_the_check_does_raise_alarms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: the same federations of useless models, tested at 5 % a check."""
    monkeypatch.setattr(label_quality, "holm", list)
    monkeypatch.setattr(label_quality, "LEVEL", 0.05)
    monkeypatch.setattr(Check, "material", property(lambda _check: True))
    assert alarms(60, signal=0.0) >= 6


@pytest.mark.parametrize(
    ("patients", "signal", "least", "most"), [(8, 2.5, 0.0, 0.05), (20, 2.5, 0.9, 1.0), (40, 1.5, 0.9, 1.0)]
)
def test_how_often_exchanged_labels_are_found(patients: int, signal: float, least: float, most: float) -> None:
    """Power: sites of eight patients cannot be told from chance, those of twenty can where models are good."""
    found = 0
    for seed in range(20):
        evidence = federation(np.random.default_rng(seed), patients, signal)
        found += said(with_ranks(evidence, "bergen", flipped), seed) == [("bergen", FLIPPED)]
    assert least <= found / 20 <= most


# --- edges -----------------------------------------------------------------------------------------------------------


def test_models_that_are_weak_everywhere_accuse_nobody() -> None:
    """Below chance, significantly, but by less than ``MIN_GAIN`` can repair."""
    weak = Check("aachen", FLIPPED, 0.46, 0.54, 0.55, 1e-9, 5000, adjusted=1e-8)
    bad = replace(weak, statistic=0.3, repaired=0.7)
    assert findings((weak,)) == ()
    assert [one.site for one in findings((bad,))] == ["aachen"]


def test_a_repair_that_closes_less_than_half_of_the_gap_is_none() -> None:
    little = Check("aachen", INVERTED, 0.3, 0.45, 0.9, 1e-9, 500, adjusted=1e-8)
    assert findings((little,)) == ()
    assert findings((replace(little, repaired=0.65),)) != ()


@pytest.mark.parametrize("patients", [0, 1, 2])
def test_sites_with_next_to_no_patients_are_neither_accused_nor_an_error(patients: int) -> None:
    rng = np.random.default_rng(0)
    assert said({site: ranked(rng, site, patients, 1.0) for site in NAMES}) == []
    assert said({site: outlined(rng, site, patients) for site in NAMES}) == []


def test_a_site_alone_has_nobody_to_be_compared_with() -> None:
    rng = np.random.default_rng(0)
    alone = Ranks((), np.array([[0.0], [1.0]]), np.zeros((0, 2, 1)), np.zeros((0, 2, 1)))
    assert said({"aachen": alone}) == []
    assert assess({}, rng) == ()


def test_the_same_seed_gives_the_same_checks() -> None:
    evidence = federation(np.random.default_rng(9))
    assert assess(evidence, np.random.default_rng(1)) == assess(evidence, np.random.default_rng(1))


def test_findings_that_may_occur_together_have_no_one_class_check() -> None:
    rng = np.random.default_rng(0)
    labels = np.stack([np.ones(20), np.arange(20) % 2], axis=1)
    own = Ranks(("bergen",), labels, rng.normal(size=(1, 20, 2)), rng.normal(size=(1, 20, 2)))
    assert next(one.p for one in assess({"aachen": own}, rng) if one.code == ONE_CLASS) == 1.0
