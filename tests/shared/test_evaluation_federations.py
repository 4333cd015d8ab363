"""Two hundred random federations: what is computed from summed counts is what scikit-learn says of the pooled cases.

Sites have any size, some have one class only, and scores are smooth, coarse (ties) or saturated at 0 and 1. How small
the bounds are that hold here is measured in ``test_evaluation_order.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics as sk

from shared.evaluation import classification as counted
from shared.evaluation.additive import Statistics, collect

CLASSES = ("benign", "malignant")
SCHEMA = counted.exclusive_schema(2)


@dataclass(frozen=True)
class Federation:
    """Labels and scores of each site; scores of the second class, float32."""

    sites: tuple[tuple[NDArray[Any], NDArray[Any]], ...]

    @property
    def labels(self) -> NDArray[Any]:
        return np.concatenate([labels for labels, _ in self.sites])

    @property
    def scores(self) -> NDArray[Any]:
        return np.concatenate([scores for _, scores in self.sites])


def site(seed: int, number: int, prevalence: float, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(number) < prevalence).astype(np.int64)
    scores = expit(2 * labels - 1 + 1.5 * rng.normal(size=number))
    if kind == "coarse":
        scores = np.round(scores * 7) / 7
    if kind == "saturated":
        scores = np.clip((scores - 0.5) * 4 + 0.5, 0, 1)
    return labels, scores.astype(np.float32)


SITES = st.builds(
    site,
    seed=st.integers(0, 2**20),
    number=st.integers(0, 30),
    prevalence=st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9, 1.0]),
    kind=st.sampled_from(["smooth", "coarse", "saturated"]),
)
FEDERATIONS = st.builds(lambda sites: Federation(tuple(sites)), st.lists(SITES, min_size=1, max_size=5))


def statistics(labels: NDArray[Any], scores: NDArray[Any], name: str) -> Statistics:
    pairs = enumerate(zip(scores, labels.tolist(), strict=True))
    return collect(
        SCHEMA,
        (
            (f"{name}-{number}", counted.observe_exclusive(np.array([1 - score, score], np.float32), label))
            for number, (score, label) in pairs
        ),
    )


def pooled(federation: Federation) -> Statistics:
    parts = [statistics(*of, f"site-{place}").flat() for place, of in enumerate(federation.sites)]
    return Statistics.from_flat(SCHEMA, np.sum(parts, axis=0))


def decisions(labels: NDArray[Any], called: NDArray[Any]) -> dict[str, float]:
    """What scikit-learn says of decisions, where it has something to say."""
    nan = float("nan")
    some, none = bool(labels.any()), bool((1 - labels).any())
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, called, labels=[0, 1], zero_division=0.0)
    return {
        "accuracy": sk.accuracy_score(labels, called),
        "sensitivity": recall[1] if some else nan,
        "specificity": recall[0] if none else nan,
        "precision": precision[1] if some or called.any() else nan,
        "f1": f1[1] if some or called.any() else nan,
        "balanced_accuracy": recall.mean() if some and none else nan,
    }


@given(FEDERATIONS)
@settings(max_examples=200, deadline=None)
def test_pooled_numbers_of_a_random_federation_are_those_of_scikit_learn(federation: Federation) -> None:
    labels, scores = federation.labels, federation.scores
    counts = pooled(federation).total()

    found = counted.exclusive_metrics(counts, CLASSES)

    assert int(counts["cases"]) == len(labels)
    if not len(labels):
        assert np.isnan(list(found.values())).all()
        return
    expected = decisions(labels, (scores > np.float32(1) - scores).astype(int))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    exact = scores.astype(np.float64)
    assert found["brier"] == pytest.approx(np.mean((exact - labels) ** 2), abs=1e-6)
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, scores, labels=[0, 1]), abs=1e-5)
    bounds = counted.exclusive_bounds(counts, CLASSES)
    if labels.any():
        expected_precision = sk.average_precision_score(labels, scores)
        assert abs(found["average_precision"] - expected_precision) <= bounds["average_precision"] + 1e-12
    if 0 < labels.sum() < len(labels):
        assert abs(found["auroc"] - sk.roc_auc_score(labels, scores)) <= bounds["auroc"] + 1e-12


@given(FEDERATIONS)
@settings(max_examples=30, deadline=None)
def test_tenths_of_the_score_are_exact_for_any_federation(federation: Federation) -> None:
    labels, scores = federation.labels, federation.scores.astype(np.float64)
    if not len(labels):
        return
    tenth = np.minimum(np.digitize(scores, np.arange(1, 10) / 10), 9)
    gaps = [abs(scores[tenth == part].sum() - labels[tenth == part].sum()) for part in range(10)]

    found = counted.exclusive_metrics(pooled(federation).total(), CLASSES)["ece_equal_width"]

    assert found == pytest.approx(sum(gaps) / len(labels), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_of_five_large_smooth_sites_are_within_a_ten_thousandth_of_scikit_learn(seed: int) -> None:
    federation = Federation(tuple(site(10 * seed + place, 400, 0.3, "smooth") for place in range(5)))

    found = counted.exclusive_metrics(pooled(federation).total(), CLASSES)

    assert found["auroc"] == pytest.approx(sk.roc_auc_score(federation.labels, federation.scores), abs=1e-4)
    expected = sk.average_precision_score(federation.labels, federation.scores)
    assert found["average_precision"] == pytest.approx(expected, abs=1e-4)


def test_means_over_sites_are_other_numbers_than_the_pooled_ones() -> None:
    federation = Federation((site(1, 60, 0.9, "smooth"), site(2, 10, 0.1, "smooth"), site(3, 30, 0.3, "saturated")))
    alone = [counted.exclusive_metrics(statistics(*of, "site").total(), CLASSES) for of in federation.sites]

    found = counted.exclusive_metrics(pooled(federation).total(), CLASSES)

    for name in ("auroc", "log_loss", "sensitivity", "ece_equal_width"):
        assert abs(np.mean([of[name] for of in alone]) - found[name]) > 1e-3
