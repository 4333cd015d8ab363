"""Numbers as the report shows them: a value with its interval, a name a clinician knows, digits that can be compared.

Promises
- ``Measure`` reads both forms in which ``results.json`` gives a metric, a bare number and an interval.
- An undetermined value is shown as ``UNDETERMINED``, never as zero and never left out.
- All numbers of one metric have the same number of decimals.

A metric that has no entry in ``NAMES`` is shown under its own name: a new task needs no change here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
UNDETERMINED = DASH
Better = Literal["higher", "lower"]
"""Which end of a metric is the good one."""
LEVEL = "95\N{NO-BREAK SPACE}% interval"

NAMES: Mapping[str, tuple[str, str]] = {
    "dice": ("Dice", "overlap of predicted and true area, mean over images; 1 is perfect"),
    "dice_micro": (
        "Dice of all voxels",
        "overlap of all predicted and all true voxels together, so large structures dominate",
    ),
    "iou": ("IoU", "intersection over union of predicted and true area; 1 is perfect"),
    "precision": ("Precision", "share of what the model calls positive that is"),
    "recall": ("Recall", "share of the true area that the model finds"),
    "hd95": (
        "HD95",
        "95th percentile of the distance between the borders, in mm (pixels where spacing is unknown); 0 is perfect",
    ),
    "nsd": ("NSD", "share of the border that is within tolerance of the true one; 1 is perfect"),
    "accuracy": ("Accuracy", "share of decisions that are right"),
    "balanced_accuracy": ("Balanced accuracy", "recall averaged over the classes, so rare ones count as much"),
    "sensitivity": ("Sensitivity", "share of the positive cases that the model finds"),
    "specificity": ("Specificity", "share of the negative cases that the model clears"),
    "f1": ("F1", "harmonic mean of precision and sensitivity"),
    "auroc": ("AUROC", "chance that a positive case scores above a negative one; 0.5 is guessing"),
    "average_precision": (
        "Average precision",
        "precision averaged over all sensitivities; guessing gives the prevalence",
    ),
    "brier": ("Brier score", "mean squared error of the predicted probability; 0 is perfect"),
    "log_loss": ("Log loss", "surprise at the truth; 0 is perfect"),
    "ece_equal_width": (
        "Calibration error",
        "mean gap between predicted and observed, in ten equal widths; 0 is perfect",
    ),
    "ece_equal_mass": (
        "Calibration error, equal shares",
        "mean gap between predicted and observed, in tenths of the cases; 0 is perfect",
    ),
    "calibration_slope": ("Calibration slope", "1 is ideal; below 1 the model is too sure of itself"),
    "calibration_intercept": ("Calibration intercept", "0 is ideal; below 0 the model expects too many positives"),
    "dice_patient": ("Dice by patient", "as Dice, each patient weighing the same however many images they have"),
    "iou_patient": ("IoU by patient", "as IoU, each patient weighing the same"),
    "hd95_patient": ("HD95 by patient", "as HD95, each patient weighing the same"),
    "nsd_patient": ("NSD by patient", "as NSD, each patient weighing the same"),
    "iou_micro": ("IoU of all voxels", "of all predicted and all true voxels together"),
    "nsd_micro": ("NSD of all borders", "of all borders together"),
    "area_error_mm2": ("Area error, mm²", "size of the difference between predicted and true area"),
    "area_bias_mm2": ("Area bias, mm²", "predicted minus true area; 0 is best"),
    "area_error_relative": ("Area error, relative", "as a share of the true area"),
    "area_bias_relative": ("Area bias, relative", "as a share of the true area; 0 is best"),
    "volume_error_ml": ("Volume error, ml", "size of the difference between predicted and true volume"),
    "volume_bias_ml": ("Volume bias, ml", "predicted minus true volume; 0 is best"),
    "volume_error_relative": ("Volume error, relative", "as a share of the true volume"),
    "volume_bias_relative": ("Volume bias, relative", "as a share of the true volume; 0 is best"),
    "lesion_f1_micro": ("Lesion F1, all together", "harmonic mean of lesions found and lesions that are real"),
    "lesion_dice_micro": ("Dice of found lesions", "overlap of the lesions that were found"),
    "lesion_sensitivity": ("Lesions found", "share of the true lesions that the model finds, mean over images"),
    "lesion_sensitivity_micro": ("Lesions found, all together", "share of all true lesions that the model finds"),
    "lesion_f1": ("Lesion F1", "harmonic mean of lesions found and lesions that are real, mean over images"),
    "lesion_false_positives_per_case": ("False lesions an image", "lesions that the model makes up, for each image"),
    "ece": ("Calibration error", "mean gap between predicted probability and observed frequency; 0 is perfect"),
}

MAIN = (
    "dice", "dice_patient", "dice_micro", "iou", "precision", "recall", "hd95", "nsd",
    "auroc", "average_precision", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1",
    "brier", "ece_equal_width", "calibration_slope", "calibration_intercept",
)  # fmt: skip
"""Metrics that stand in the tables of every model, site and class; the others have a table of their own."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's value and the bounds of its 95 % interval; NaN stands for undetermined, and for no interval."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n_patients: int | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def determined(self) -> bool:
        """Whether there is a value at all."""
        return math.isfinite(self.value)


def measure(raw: float | Mapping[str, Any] | None) -> Measure:
    """A metric as ``results.json`` holds it: a number, ``{value, low, high, n_patients}``, or null."""
    if isinstance(raw, Mapping):
        value, low, high = (_known(raw.get(name)) for name in ("value", "low", "high"))
        return Measure(value, low, high, raw.get("n_patients"))
    return Measure(_known(raw))


def label(metric: str) -> str:
    """The metric's name for people; ``dice_optic-disc`` is the Dice of one class, "Dice, optic disc"."""
    if metric in NAMES:
        return NAMES[metric][0]
    known = max((name for name in NAMES if metric.startswith(f"{name}_")), key=len, default="")
    rest = metric.removeprefix(f"{known}_").replace("_", " ").replace("-", " ")
    return f"{NAMES[known][0]}, {rest}" if known else rest


def meaning(metric: str) -> str:
    """What the metric says, in half a sentence; empty where nothing is known."""
    return NAMES[metric][1] if metric in NAMES else ""


def number(metric: str, value: float | None) -> str:
    """The value with the metric's decimals: 2 for distances, 3 for everything else."""
    if value is None or not math.isfinite(value):
        return UNDETERMINED
    text = f"{value:.2f}" if metric.startswith("hd95") else f"{value:.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(metric: str, measured: Measure) -> str:
    """Both bounds with a dash between, or a word where a minus would meet it; empty without an interval."""
    if not measured.has_interval:
        return ""
    between = " to " if measured.low < 0 else DASH
    return f"{number(metric, measured.low)}{between}{number(metric, measured.high)}"


def ordered(names: Iterable[str], headline: str) -> list[str]:
    """Metric names with the headline first, the others as they come."""
    given = list(dict.fromkeys(names))
    return [headline] * (headline in given) + [name for name in given if name != headline]


def duration(seconds: float) -> str:
    """Seconds for people: ``8.4 s``, ``4 min 12 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
