"""Curves for the report: each point was counted, all of them fit in little room, and small bins are not told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import auc, roc_auc_score

from shared.evaluation.additive import Statistics, collect
from shared.evaluation.calibration import equal_mass, equal_width
from shared.evaluation.classification import SCORE_SUMS, histograms, observe_exclusive, observe_multilabel
from shared.evaluation.curves import FLOOR, MOST_BYTES, MOST_POINTS, curves
from shared.plan import from_document
from shared.tasks import task_for
from shared.tasks.task import Task

Cases = tuple[NDArray[Any], NDArray[Any]]


def task_of(*classes: str, labels: str = "exclusive", task: str = "classification") -> Task:
    return task_for(
        from_document(
            {
                "plan": {"name": "curves", "task": task, "rounds": 1},
                "data": {"modality": "us", "classes": list(classes), "labels": labels},
                "preprocessing": {"size": [16, 16]},
                "model": {"name": "cnn" if task == "classification" else "unet"},
                "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
                "privacy": {"unit": "none"},
            }
        )
    )


BINARY = task_of("benign", "malignant")


def simulated(seed: int, number: int = 300) -> Cases:
    rng = np.random.default_rng(seed)
    positive = rng.random(number) < 0.3
    return positive, expit(2.5 * positive - 1.5 + rng.normal(size=number)).astype(np.float32)


def statistics(positive: NDArray[Any], scores: NDArray[Any]) -> Statistics:
    pairs = zip(positive.tolist(), scores.tolist(), strict=True)
    return collect(
        BINARY.schema,
        (
            (f"p{number}", observe_exclusive(np.array([1 - score, score], np.float32), int(label)))
            for number, (label, score) in enumerate(pairs)
        ),
    )


def findings_of(task: Task, number: int, seed: int = 0) -> Statistics:
    rng = np.random.default_rng(seed)
    count = task.output_channels
    labels = rng.random((number, count)) < 0.4
    scores = expit(2 * labels - 1 + rng.normal(size=labels.shape)).astype(np.float32)
    rows = enumerate(zip(scores, labels.astype(int).tolist(), strict=True))
    return collect(task.schema, ((f"p{place}", observe_multilabel(*row)) for place, row in rows))


def numbers(of: list[float | None]) -> NDArray[np.float64]:
    return np.array(of, np.float64)


def test_every_point_of_the_roc_curve_was_counted_at_some_threshold() -> None:
    positive, scores = simulated(1)

    found = curves(BINARY, statistics(positive, scores))["roc"][""]

    counted = {
        (round(float((scores[~positive] >= at).mean()), 4), round(float((scores[positive] >= at).mean()), 4))
        for at in [*scores.tolist(), 2.0]
    }
    points = list(zip(found["false_positive_rate"], found["sensitivity"], strict=True))
    # A bin may hold two cases; all others are counts at a score.
    assert len(set(points) - counted) <= 3
    assert (points[0], points[-1]) == ((1.0, 1.0), (0.0, 0.0))
    assert len(points) <= MOST_POINTS + 1


def test_the_area_under_the_drawn_roc_curve_is_nearly_the_auroc() -> None:
    positive, scores = simulated(2)

    found = curves(BINARY, statistics(positive, scores))["roc"][""]

    drawn = auc(numbers(found["false_positive_rate"]), numbers(found["sensitivity"]))
    assert drawn == pytest.approx(roc_auc_score(positive, scores), abs=0.01)


def test_the_pr_curve_starts_at_the_prevalence_and_ends_at_the_highest_scores() -> None:
    positive, scores = simulated(3)

    found = curves(BINARY, statistics(positive, scores))["pr"][""]

    assert (found["recall"][0], found["precision"][0]) == (1.0, round(float(positive.mean()), 4))
    top = scores >= scores.max() - 1e-4
    assert found["recall"][-1] == round(float(positive[top].sum() / positive.sum()), 4)
    assert (np.diff(numbers(found["recall"])) <= 0).all()


@pytest.mark.parametrize("kind", ["reliability_width", "reliability_mass"])
def test_reliability_is_that_of_the_pooled_counts_with_small_bins_left_out(kind: str) -> None:
    both = statistics(*simulated(4, 40))
    positives, negatives = (of[0] for of in histograms(both.total()))
    of = equal_width if kind == "reliability_width" else equal_mass
    curve = of(positives, negatives, both.total()[SCORE_SUMS][0])

    found = curves(BINARY, both)[kind][""]

    shown = curve.cases >= FLOOR
    np.testing.assert_allclose(numbers(found["observed"])[shown], curve.observed[shown], atol=5e-5)
    np.testing.assert_allclose(numbers(found["score"])[shown], curve.score[shown], atol=5e-5)
    assert [value is None for value in found["observed"]] == (~shown).tolist()


def test_a_bin_of_two_cases_is_null_and_not_zero() -> None:
    scores = np.array([0.15, 0.15, 0.55, 0.55, 0.55], np.float32)
    found = curves(BINARY, statistics(np.array([False, True, True, False, True]), scores))["reliability_width"][""]

    assert found["observed"][1] is None
    assert found["observed"][5] == round(2 / 3, 4)


def test_net_benefit_is_drawn_at_thresholds_next_to_every_twentieth() -> None:
    positive, scores = simulated(5)

    found = curves(BINARY, statistics(positive, scores))["decision"][""]

    thresholds = numbers(found["threshold"])
    np.testing.assert_allclose(thresholds, np.arange(1, 20) / 20, atol=1e-3)
    half = found["threshold"].index(0.5)
    expected = ((scores >= 0.5) & positive).mean() - ((scores >= 0.5) & ~positive).mean()
    assert found["model"][half] == round(float(expected), 4)
    assert found["treat_all"][half] == round(float(2 * positive.mean() - 1), 4)


def test_sites_that_are_added_up_draw_the_curves_of_all_cases_in_one_room() -> None:
    sites = [simulated(seed, 50) for seed in range(3)]
    room = [np.concatenate(of) for of in zip(*sites, strict=True)]

    summed = sum((statistics(*site) for site in sites[1:]), start=statistics(*sites[0]))

    assert curves(BINARY, summed) == curves(BINARY, statistics(room[0], room[1]))
    assert curves(BINARY, summed) != curves(BINARY, statistics(*sites[0]))


@pytest.mark.parametrize("findings", [1, 2, 3, 5, 8])
def test_all_curves_fit_into_the_stated_room(findings: int) -> None:
    names = tuple(f"finding-{number}" for number in range(findings))
    if findings == 1:
        found = curves(BINARY, statistics(*simulated(6, 1500)))
    else:
        task = task_of(*names, labels="multilabel")
        found = curves(task, findings_of(task, 800))
        assert set(found["roc"]) == set(names)

    size = len(json.dumps(found, separators=(",", ":"), allow_nan=False))

    assert MOST_BYTES / 5 < size <= MOST_BYTES


def test_three_exclusive_classes_have_a_curve_each_under_their_names() -> None:
    task = task_of("normal", "benign", "malignant")
    rng = np.random.default_rng(7)
    rows = [(rng.dirichlet(np.ones(3)).astype(np.float32), int(rng.integers(3))) for _ in range(60)]

    found = curves(task, collect(task.schema, ((f"p{i}", observe_exclusive(*row)) for i, row in enumerate(rows))))

    assert all(list(by_finding) == ["normal", "benign", "malignant"] for by_finding in found.values())
    first = found["pr"]["normal"]["precision"][0]
    assert first == round(sum(label == 0 for _, label in rows) / 60, 4)


@pytest.mark.parametrize(
    ("positive", "missing"),
    [([True, True], {"roc"}), ([False, False], {"roc", "pr"})],
    ids=["positives only", "negatives only"],
)
def test_a_curve_that_one_class_does_not_determine_is_left_out(positive: list[bool], missing: set[str]) -> None:
    every = {"roc", "pr", "reliability_width", "reliability_mass", "decision"}

    found = curves(BINARY, statistics(np.array(positive), np.array([0.2, 0.6], np.float32)))

    assert set(found) == every - missing


def test_no_case_and_no_classification_have_no_curves() -> None:
    outlines = task_of("background", "vessel", task="segmentation")

    assert curves(BINARY, Statistics.zero(BINARY.schema)) == {}
    assert curves(outlines, Statistics.zero(outlines.schema)) == {}
