"""A classification as a finished run leaves it: curves, subgroups, every model at every site, and findings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from report_runs import PLAN_TEXT, interval, results

from server.results import Results
from shared.evaluation.label_quality import EITHER, FLIPPED, INVERTED, ONE_CLASS, SHIFTED
from shared.plan import parse
from simulations.duplicates import CODE as AT_TWO_SITES

CLASSIFIED = (
    PLAN_TEXT.replace('"segmentation"', '"classification"')
    .replace('"fundus"', '"us"')
    .replace('["background", "vessel"]', '["benign", "malignant"]')
    .replace("every = 5", "every = 5\noperating_point = { sensitivity = 0.9 }")
    + '\n[evaluation.subgroups]\nsex = ["F", "M"]\n'
)
FAULTS = (FLIPPED, INVERTED, EITHER, SHIFTED, ONE_CLASS, AT_TWO_SITES)
CROSSED = ("chase", "drive", "hrf", "stare")


def roc(area: float = 0.85, points: int = 25) -> dict[str, list[float]]:
    """A ROC curve of known area: sensitivity is a power of the false alarms, whose integral is 1 / (1 + power)."""
    false = np.linspace(1, 0, points)
    return {"false_positive_rate": false.tolist(), "sensitivity": (false ** (1 / area - 1)).tolist()}


def curves() -> dict[str, Any]:
    """``final.curves`` of one finding."""
    recall, score = np.linspace(1, 0.02, 20), np.linspace(0.05, 0.95, 10)
    at = np.linspace(0.05, 0.95, 19)
    return {
        "roc": {"": roc()},
        "pr": {"": {"recall": recall.tolist(), "precision": (0.95 - 0.6 * recall**2).tolist()}},
        "reliability_mass": {"": {"score": score.tolist(), "observed": [*(score[:-1] ** 1.2).tolist(), None]}},
        "reliability_width": {"": {"score": score.tolist(), "observed": (score**1.1).tolist()}},
        "decision": {
            "": {
                "threshold": at.tolist(),
                "model": (0.3 * (1 - at) ** 2).tolist(),
                "treat_all": (0.35 - 0.65 * at / (1 - at)).tolist(),
            }
        },
    }


def measures(value: float, patients: int = 52) -> dict[str, Any]:
    """Three metrics of a classification."""
    return {
        "auroc": interval(value, 0.05, patients),
        "brier": interval(0.4 - 0.3 * value, 0.02, patients),
        "calibration_intercept": interval(-0.2, 0.1, patients),
    }


def subgroups() -> dict[str, Any]:
    """Two levels told apart, one withheld, one without a patient."""
    gap = {"auroc": {"value": -0.09, "low": -0.15, "high": -0.03, "n_patients": 52}}
    other = {"auroc": {"value": 0.09, "low": -0.01, "high": 0.19, "n_patients": 52}}
    nobody = {name: {"value": None, "low": None, "high": None, "n_patients": 0} for name in measures(0.8)}
    return {
        "sex": {
            "F": measures(0.79, 30),
            "M": measures(0.88, 22),
            "other": "suppressed",
            "unknown": nobody,
            "gaps": {"range": {}, "rest": {"F": gap, "M": other}},
        }
    }


def crossed() -> dict[str, Any]:
    """``baselines.cross_site``: each model is best at home, and one pair was not measured."""
    found = {
        model: {
            site: {"auroc": interval(0.9 - 0.04 * abs(row - column), 0.03, 12)} for column, site in enumerate(CROSSED)
        }
        for row, model in enumerate(CROSSED)
    }
    found["hrf"]["chase"] = {}
    return found


def finding(code: str, site: str = "stare", p: float | None = 0.0004) -> dict[str, Any]:
    """One finding as results.json holds it."""
    return {"code": code, "site": site, "statistic": 0.28, "p": p, "sentence": f"{site} looks odd over 40 patients"}


def classified(*codes: str) -> Results:
    """A whole set of results, with a finding for each of ``codes``."""
    sites = {site: measures(0.8 + 0.02 * place, 13) for place, site in enumerate(CROSSED)}
    at_point = {"sensitivity": interval(0.9, 0.05, 52), "specificity": interval(0.6, 0.05, 52)}
    final = {
        "pooled": measures(0.84),
        "sites": sites,
        "curves": curves(),
        "site_curves": {site: {"roc": {"": roc(0.8)}} for site in CROSSED[:2]},
        "subgroups": subgroups(),
        "operating_point": {"thresholds": {"": 0.21}, "pooled": at_point, "sites": dict.fromkeys(CROSSED, at_point)},
    }
    return replace(
        results(CLASSIFIED),
        plan_digest=parse(CLASSIFIED).digest(),
        headline="auroc",
        lower_is_better=("brier",),
        final=final,
        personalised=None,
        differences=(),
        baselines={"cross_site": crossed()},
        checks={"data": [], "findings": [finding(code) for code in codes]},
    )
