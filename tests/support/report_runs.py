"""Run folders as a finished run leaves them, made up in code: four hospitals with retinas, drawn from a fixed seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from server.report.examples import PhantomExample
from server.results import (
    PLAN,
    PREDICTIONS,
    ROUNDS,
    Noted,
    Participation,
    Prediction,
    Results,
    RoundRecord,
    SiteData,
    Timing,
    append_round,
    write_predictions,
    write_results,
)
from shared.plan import parse

SITES = ("chase", "drive", "hrf", "stare")
SKILL = {"chase": 0.782, "drive": 0.811, "hrf": 0.796, "stare": 0.738}
ALONE = {"chase": 0.641, "drive": 0.697, "hrf": 0.702, "stare": 0.541}
PATIENTS = {"chase": 14, "drive": 10, "hrf": 23, "stare": 5}
ROUNDS_RUN = 40

PLAN_TEXT = """\
[plan]
name = "retina-vessels"
task = "segmentation"
rounds = 40
seed = 7

[data]
modality = "fundus"
classes = ["background", "vessel"]

[preprocessing]
size = [256, 256]
colour = "green"

[model]
name = "unet"
channels = [16, 32, 64, 128]

[training]
steps = 20
patients_per_step = 8
learning_rate = 1e-3

[privacy]
unit = "none"

[participation]
quorum = 3

[evaluation]
every = 5
release = "site"
"""

PRIVATE = PLAN_TEXT.replace(
    'unit = "none"',
    'unit = "patient"\nepsilon = 8.0\ndelta = 1e-4\nclip_norm = 1.0\npublic_patients = 50\ncovers = "training"',
)
SUMS_ONLY = PLAN_TEXT.replace('release = "site"', 'release = "sum"')


def interval(value: float, half: float, patients: int) -> dict[str, float | int]:
    """A metric as ``results.json`` holds it."""
    return {"value": value, "low": value - half, "high": min(value + half, 1.0), "n_patients": patients}


def overlap(dice: float, half: float, patients: int) -> dict[str, Any]:
    """Four metrics of a segmentation that go with a Dice."""
    return {
        "dice": interval(dice, half, patients),
        "iou": interval(dice / (2 - dice), half, patients),
        "hd95": interval(9.5 - 8 * dice, 4 * half, patients) | {"high": 9.5 - 8 * dice + 4 * half},
        "nsd": interval(0.5 + dice / 2, half / 2, patients),
    }


def block(gain: float = 0.0, half: float = 0.019) -> dict[str, Any]:
    """A ``final`` block: macro and worst follow from the sites by the definition of ``docs/run-folder.md``."""
    sites = {site: overlap(SKILL[site] + gain, 2.4 * half, PATIENTS[site]) for site in SITES}
    macro = {name: float(np.mean([sites[site][name]["value"] for site in SITES])) for name in sites["drive"]}
    lowest = {
        name: (max if name == "hd95" else min)(SITES, key=lambda site: sites[site][name]["value"]) for name in macro
    }
    worst = {name: {"site": site, "value": sites[site][name]["value"]} for name, site in lowest.items()}
    pooled = overlap(0.791234 + gain, half, sum(PATIENTS.values()))
    return {"pooled": pooled, "sites": sites, "macro": macro, "worst": worst, "undetermined": {}}


def differences() -> tuple[dict[str, Any], ...]:
    """The federation minus pooled training, and a pair that could not be compared."""
    lost = {name: interval(value, 0.006, 52) for name, value in {"dice": -0.011, "hd95": 0.09, "nsd": -0.004}.items()}
    named = {"second": "federation", "patients": "test"}
    reason = "3 of 20 groups hold other patients: 52 in all on the first side, 47 on the second"
    return (
        {**named, "first": "central", "metrics": lost, "reason": ""},
        {**named, "first": "federation", "second": "personalised", "metrics": {}, "reason": reason},
    )


def attendance() -> tuple[Participation, ...]:
    """Forty rounds: ``stare`` misses rounds 12 to 14 and ``hrf`` round 27."""
    late = {at: {"stare": "deadline"} for at in (12, 13, 14)} | {27: {"hrf": "unreachable"}}
    return tuple(
        Participation(at, tuple(site for site in SITES if site not in late.get(at, {})), late.get(at, {}))
        for at in range(1, ROUNDS_RUN + 1)
    )


def results(plan_text: str = PLAN_TEXT) -> Results:
    """A whole set of results of the plan: four sites, baselines, personalised models."""
    local = {site: overlap(ALONE[site], 0.027, 52) for site in SITES}
    return Results(
        run="retina-vessels-7",
        plan_digest=parse(plan_text).digest(),
        seed=7,
        versions={"consilium": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0", "monai": "1.6.1", "python": "3.11.7"},
        headline="dice",
        lower_is_better=("hd95",),
        checkpoint="c" * 64,
        command="consilium-sim run retina-vessels --seed 7",
        final=block(),
        personalised=block(0.021, 0.017),
        baselines={"local": local, "central": overlap(0.8021, 0.018, 52)},
        checks={"data": [], "findings": []},
        differences=differences(),
        privacy={site: {"unit": "none"} for site in SITES},
        participation=attendance(),
        data={
            "chase": SiteData(56, 112, {"mask-shape": 4}),
            "drive": SiteData(40, 40, {}, "d" * 64, {"mask-tiny-islands": Noted("warning", 7)}),
            "hrf": SiteData(92, 92, {"image-not-finite": 7, "image-spacing": 2}),
            "stare": SiteData(20, 20, {"mask-shape": 1}, "e" * 64, {"label-spelling": Noted("error", 0)}),
        },
        timing=Timing(252.4, 240.1, 1.051),
    )


def private_results() -> Results:
    """Results of ``PRIVATE``, with what each ledger paid."""
    spent = {"unit": "patient", "delta": 1e-4, "sigma": 1.2, "q": 0.05, "steps": 800}
    privacy = {site: spent | {"epsilon": 7.9 - 0.1 * place} for place, site in enumerate(SITES)}
    return replace(results(PRIVATE), privacy=privacy)


def sums_only_results() -> Results:
    """Results under ``SUMS_ONLY``: nothing by site, no baselines, no personalised models, an undetermined metric."""
    pooled = block()["pooled"] | {"nsd": {"value": None, "low": None, "high": None, "n_patients": 52}}
    final: Mapping[str, Any] = {"pooled": pooled, "sites": {}, "macro": {}, "worst": {}, "undetermined": {}}
    bare = replace(results(SUMS_ONLY), final=final, personalised=None, baselines={}, data={}, privacy={})
    return replace(bare, checks={}, differences=())


def records(by_site: Mapping[str, float]) -> list[RoundRecord]:
    """Forty rounds whose Dice climbs to ``SKILL``; sites named in ``by_site`` are released, shifted by its value."""
    rng = np.random.default_rng(3)
    found = []
    for entry in attendance():
        climbed = 1 - 0.62 * float(np.exp(-entry.round / 7))
        sites = {
            site: {"dice": interval(SKILL[site] * climbed + shift + float(rng.normal(0, 0.006)), 0.05, PATIENTS[site])}
            for site, shift in by_site.items()
        }
        measured = {"pooled": {"dice": interval(0.791 * climbed, 0.021, 52)}, "sites": sites}
        loss = 0.21 + 0.9 * float(np.exp(-entry.round / 6)) + float(rng.normal(0, 0.012))
        metrics = measured if entry.round % 5 == 0 or entry.round == 1 else None
        found.append(RoundRecord(entry, loss, f"{entry.round:064x}", metrics, seconds=6.1))
    return found


def write_run(folder: Path, found: Results, plan_text: str = PLAN_TEXT, released: tuple[str, ...] = SITES) -> Path:
    """Write results, rounds and plan into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(plan_text, encoding="utf-8")
    write_results(folder, found)
    for record in records(dict.fromkeys(released, 0.0)):
        append_round(folder / ROUNDS, record)
    return folder


def write_dice(folder: Path, gain: float, noise: float, seed: int) -> None:
    """Predictions of 2 images per patient: patients differ by 0.08, the model adds ``gain`` and its own noise."""
    patients, own = np.random.default_rng(11), np.random.default_rng(seed)
    rows = []
    for site in SITES:
        for person in range(PATIENTS[site]):
            level = SKILL[site] + patients.normal(0, 0.08)
            for image in range(2):
                dice = float(np.clip(level + gain + own.normal(0, noise), 0, 1))
                rows.append(Prediction(site, f"p{person:03}", f"c{person:03}{image}", {"dice": dice}, {"sex": "f"}))
    write_predictions(folder / PREDICTIONS, rows)


def phantoms() -> list[PhantomExample]:
    """Two generated fundi with a vessel tree; the prediction misses the thin branches."""
    rows, columns = np.mgrid[0:160, 0:160] / 160.0
    found = []
    for place, bend in enumerate((0.16, -0.22)):
        spine = np.abs(columns - 0.5 - bend * np.sin(5 * rows))
        branch = np.abs(columns - 0.5 - 0.9 * (rows - 0.5) * (1 if place else -1))
        truth = ((spine < 0.028) | (branch < 0.014)).astype(np.uint8)
        prediction = ((spine < 0.022) | ((branch < 0.016) & (rows > 0.35))).astype(np.uint8)
        grain = np.random.default_rng(place).normal(0, 0.05, truth.shape)
        disc = np.clip(1.2 - 2.2 * np.hypot(rows - 0.5, columns - 0.5), 0, None)
        found.append(
            PhantomExample(
                f"Phantom {place + 1}, Dice {0.83 - 0.05 * place:.2f}", disc - 0.35 * truth + grain, truth, prediction
            )
        )
    return found
