"""A finished run's numbers made again from its cases in one room: scikit-learn for scores, MONAI for masks."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import DiceMetric, compute_hausdorff_distance, compute_iou, compute_surface_dice
from numpy.typing import NDArray
from sklearn import metrics

from server.results import read_predictions, read_results
from server.run_state import ModelFiles
from shared.evaluation.segmentation import TOLERANCE_MM
from shared.preprocessing.image import Case
from simulations.cohorts import Frozen, prepare_stores
from simulations.progress import Silent
from simulations.scenario import Scenario
from simulations.workers import Pool, Sites

Numbers = dict[str, float]


def of_scores(rows: Sequence[dict[str, str]]) -> Numbers:
    """Metrics of rows of predictions.csv with two classes."""
    labels = np.array([int(row["label"]) for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    called = scores > 0.5
    return {
        "accuracy": metrics.accuracy_score(labels, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "sensitivity": metrics.recall_score(labels, called, zero_division=np.nan),
        "specificity": metrics.recall_score(labels, called, pos_label=0, zero_division=np.nan),
        "precision": metrics.precision_score(labels, called, zero_division=0),
        "f1": metrics.f1_score(labels, called, zero_division=np.nan),
        "brier": metrics.brier_score_loss(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
        "auroc": metrics.roc_auc_score(labels, scores),
        "average_precision": metrics.average_precision_score(labels, scores),
    }


def rows_by_site(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of predictions.csv by site, and of all sites under ""."""
    found: dict[str, list[dict[str, str]]] = {"": read_predictions(folder / "predictions.csv")}
    for row in found[""]:
        found.setdefault(row["site"], []).append(row)
    return found


@dataclass(frozen=True)
class Drawn:
    """One test case as the final model draws it: label maps of shape (*spatial)."""

    site: str
    case: Case
    prediction: NDArray[np.int64]

    @property
    def truth(self) -> NDArray[np.int64]:
        assert self.case.mask is not None
        return self.case.mask.astype(np.int64)


def drawn_cases(scenario: Scenario, folder: Path) -> list[Drawn]:
    """The final model, read back from the run folder, on every site's test cases."""
    sites, results = Sites(scenario.plan, folder), read_results(folder)
    with Pool(sites, 1) as pool:
        frozen = {site: Frozen(data.cohort, {}) for site, data in sorted(results.data.items())}
        specs = prepare_stores(frozen, folder, pool, Silent())
    files = ModelFiles(folder, sites.workbench.parameters, scenario.plan.digest())
    sites.workbench.load(files.load(results.checkpoint))
    return [
        Drawn(spec.name, case, scores.argmax(axis=0))
        for spec in specs
        for case, scores in sites.site(spec).scored("test")
    ]


def of_masks(drawn: Sequence[Drawn], structures: int) -> dict[str, NDArray[np.float64]]:
    """MONAI's measures by case and structure, shape (cases, structures); NaN where neither mask holds any."""
    found = [[_measures(one, structure) for structure in range(1, structures + 1)] for one in drawn]
    return {name: np.array([[of[name] for of in case] for case in found]) for name in found[0][0]}


def _measures(one: Drawn, structure: int) -> Numbers:
    pair = [torch.from_numpy(mask == structure)[None, None].float() for mask in (one.prediction, one.truth)]
    inside = [bool(mask.any()) for mask in pair]
    if not any(inside):
        return dict.fromkeys(("dice", "iou", "hd95", "nsd"), np.nan)
    if not all(inside):
        diagonal = float(np.linalg.norm(np.array(one.truth.shape) * one.case.spacing_mm))
        return {"dice": 0.0, "iou": 0.0, "hd95": diagonal, "nsd": 0.0}
    spacing = list(one.case.spacing_mm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=spacing)
    dice, iou = DiceMetric(include_background=True)(*pair), compute_iou(*pair, include_background=True)
    # Single precision there; where both masks are whole numbers of voxels, two counts say the same exactly.
    return {"dice": float(dice), "iou": float(iou), "hd95": float(hd95), "nsd": float(nsd)}


def exact_dice(drawn: Sequence[Drawn], structures: int) -> NDArray[np.float64]:
    """scikit-learn's F1 over voxels, which is Dice, in double precision; shape (cases, structures)."""
    return np.array(list(_exact(drawn, structures)))


def _exact(drawn: Sequence[Drawn], structures: int) -> Iterator[list[float]]:
    for one in drawn:
        flat = [map_.ravel() for map_ in (one.truth, one.prediction)]
        yield [metrics.f1_score(*(of == k for of in flat), zero_division=np.nan) for k in range(1, structures + 1)]


def by_patient(drawn: Sequence[Drawn], values: NDArray[np.float64]) -> float:
    """Mean over patients of the mean over their images where it is defined, then over structures."""
    people: dict[tuple[str, str], list[Any]] = {}
    for one, row in zip(drawn, values, strict=True):
        people.setdefault((one.site, one.case.patient), []).append(row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.array([np.nanmean(rows, axis=0) for rows in people.values()])
    return float(np.nanmean(means, axis=0).mean())


def over_cases(values: NDArray[np.float64]) -> float:
    """Mean over cases where it is defined, then over structures."""
    return float(np.nanmean(values, axis=0).mean())
