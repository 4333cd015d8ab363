"""From the cases of every task to the report: what is counted, written, recomputed and shown is the same number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import PLAN_TEXT, results, write_run

from server.report import more_tables, tables
from server.report.compare import compare
from server.report.metrics import NAMES, label, measure
from server.report.page import render
from server.report.paired import estimator
from server.report.run import Run, read_run
from server.results import PREDICTIONS, RESULTS, Prediction, Results, read_predictions, write_predictions
from shared.evaluation.additive import Statistics, collect
from shared.evaluation.summary import final_block, summarise
from shared.plan import parse
from shared.preprocessing.image import Case
from shared.tasks import task_for
from shared.tasks.task import Task

SITES = {"north": 30, "south": 18, "west": 12}
CLASSIFICATION = PLAN_TEXT.replace('"segmentation"', '"classification"').replace('"fundus"', '"us"')
PLANS = {
    "one structure": PLAN_TEXT,
    "several structures": PLAN_TEXT.replace('["background", "vessel"]', '["background", "disc", "cup"]'),
    "two classes": CLASSIFICATION.replace('["background", "vessel"]', '["benign", "malignant"]'),
    "three classes": CLASSIFICATION.replace('["background", "vessel"]', '["normal", "benign", "malignant"]'),
    "findings": CLASSIFICATION.replace('["background", "vessel"]', '["mass", "nodule"]\nlabels = "multilabel"'),
}
Scored = tuple[np.ndarray, Case]


@dataclass(frozen=True)
class World:
    """What three sites saw: the run's folder, its final block, and the rows as they were predicted."""

    folder: Path
    final: dict[str, Any]
    task: Task


def segmented(rng: np.random.Generator, classes: int, case_id: str, patient: str) -> Scored:
    """A mask of blocks, and scores that agree with it in about four voxels of five; one case in six is empty."""
    mask = np.kron(rng.integers(0, classes, (3, 3)), np.ones((4, 4))).astype(np.uint8)
    if rng.random() < 1 / 6:
        mask[:] = 0
    noise = rng.random((classes, 12, 12)).astype(np.float32)
    scores = 0.45 * noise + 0.55 * (np.arange(classes)[:, None, None] == mask) * (rng.random((12, 12)) < 0.8)
    case = Case(case_id, patient, np.zeros((1, 12, 12), np.float32), mask, None, (1.0, 1.0))
    return scores.astype(np.float32), case


def classified(rng: np.random.Generator, classes: int, case_id: str, patient: str) -> Scored:
    """An exclusive label, and scores that lean towards it."""
    truth = int(rng.integers(classes))
    logits = rng.normal(0, 1, classes) + 1.2 * (np.arange(classes) == truth)
    scores = np.exp(logits) / np.exp(logits).sum()
    return scores.astype(np.float32), Case(case_id, patient, np.zeros((1, 4, 4), np.float32), None, truth, (1.0, 1.0))


def found(rng: np.random.Generator, classes: int, case_id: str, patient: str) -> Scored:
    """Findings that may occur together, and scores that lean towards them."""
    truth = rng.integers(0, 2, classes)
    scores = 1 / (1 + np.exp(-rng.normal(0, 1, classes) - 1.2 * (2 * truth - 1)))
    case = Case(case_id, patient, np.zeros((1, 4, 4), np.float32), None, tuple(truth.tolist()), (1.0, 1.0))
    return scores.astype(np.float32), case


def cases_of(kind: str, site: str, skill: int) -> list[Scored]:
    """Two images a patient at one site; ``skill`` seeds the network, the truth is the same for every skill."""
    plan = parse(PLANS[kind])
    draw = segmented if "structure" in kind else found if kind == "findings" else classified
    made = []
    for place in range(SITES[site]):
        for image in range(2):
            rng = np.random.default_rng([len(site), ord(site[0]), place, image])
            scores, case = draw(rng, len(plan.data.classes), f"c{place}{image}", f"{site}-p{place:02}")
            shift = np.random.default_rng([skill, place, image]).normal(0, 0.02 * skill, scores.shape)
            made.append((np.clip(scores + shift, 0, 1).astype(np.float32), case))
    return made


def statistics(task: Task, scored: Sequence[Scored]) -> Statistics:
    return collect(task.schema, [(case.patient, task.observe(scores, case)) for scores, case in scored])


def world_of(kind: str, folder: Path, skill: int = 1) -> World:
    """Write the run folder that a federation of the three sites leaves."""
    text = PLANS[kind]
    task = task_for(parse(text))
    scored = {site: cases_of(kind, site, skill) for site in SITES}
    per_site = {site: statistics(task, cases) for site, cases in scored.items()}
    pooled = statistics(task, [case for cases in scored.values() for case in cases])
    final = final_block(summarise(task, pooled, per_site))
    made = replace(
        results(text),
        final=final,
        headline=task.headline,
        lower_is_better=tuple(sorted(task.lower_is_better)),
        personalised=None,
        baselines={},
    )
    write_run(folder, made, text, ())
    rows = [
        Prediction(site, case.patient, case.case_id, task.describe(scores, case))
        for site, cases in scored.items()
        for scores, case in cases
    ]
    write_predictions(folder / PREDICTIONS, rows)
    return World(folder, final, task)


@pytest.fixture(scope="module", params=PLANS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(request.param, tmp_path_factory.mktemp("run"))


def test_the_final_block_of_any_task_goes_through_results_json_unchanged(world: World) -> None:
    written = json.loads((world.folder / RESULTS).read_text(encoding="utf-8"))["final"]
    assert written == world.final
    assert read_run(world.folder).results.final == world.final


def test_the_headline_recomputed_from_predictions_is_the_one_in_results_json(world: World) -> None:
    """Exact but for the rounding that ``shared.evaluation`` states: 2**-20 a case for Dice, bins for AUROC."""
    rows = read_predictions(world.folder / PREDICTIONS)
    recompute = estimator(world.task.headline, rows)
    assert recompute is not None
    pooled = measure(world.final["pooled"][world.task.headline]).value
    bound = 1e-6 if world.task.headline == "dice" else 2e-3
    assert recompute(np.ones(len(rows))) == pytest.approx(pooled, abs=bound)


def test_the_headline_of_each_site_recomputed_from_its_rows_is_the_one_released(world: World) -> None:
    rows = read_predictions(world.folder / PREDICTIONS)
    recompute = estimator(world.task.headline, rows)
    assert recompute is not None
    for site in SITES:
        weights = np.array([float(row["site"] == site) for row in rows])
        released = measure(world.final["sites"][site][world.task.headline]).value
        assert recompute(weights) == pytest.approx(released, abs=1e-6 if world.task.headline == "dice" else 5e-3)


def test_every_metric_that_a_task_counts_has_a_name_and_a_meaning(world: World) -> None:
    run = read_run(world.folder)
    assert set(run.overall_metrics) <= NAMES.keys()
    assert all(label(metric) != metric.replace("_", " ") for metric in run.metrics)


def test_every_metric_of_all_patients_stands_in_a_table(world: World) -> None:
    run = read_run(world.folder)
    shown = {cell.value for _, cells in tables.pooled_table(run).rows for cell in cells}
    by_class = tables.class_table(run)
    shown |= {cell.value for _, cells in (by_class.rows if by_class else ()) for cell in cells}
    for table in (more_tables.size_table(run), more_tables.rest_table(run)):
        shown |= {cell.value for _, cells in (table.rows if table else ()) for cell in cells}
    counted = {measured["value"] for measured in world.final["pooled"].values()}
    assert counted <= shown


def test_the_page_can_be_written_for_any_task(world: World) -> None:
    page = render(read_run(world.folder))
    value = world.final["pooled"][world.task.headline]["value"]
    assert f'<data value="{value}">' in page


def test_the_worst_site_is_the_one_at_the_bottom_of_the_figure(world: World) -> None:
    page = render(read_run(world.folder))
    said = next(part for part in page.split('aria-label="') if part.startswith(f"{label(world.task.headline)} as dots"))
    places = {site: said.index(f"{site}: ") for site in SITES}
    assert max(places, key=lambda site: places[site]) == world.final["worst"][world.task.headline]["site"]


@pytest.mark.parametrize("kind", PLANS)
def test_two_runs_of_any_task_on_the_same_cases_are_paired(kind: str, tmp_path: Path) -> None:
    first, second = (world_of(kind, tmp_path / str(skill), skill) for skill in (1, 6))
    (contrast,) = compare([first.folder, second.folder]).contrasts
    metric = first.task.headline
    expected = measure(second.final["pooled"][metric]).value - measure(first.final["pooled"][metric]).value
    assert contrast.method == "paired"
    assert contrast.difference.n_patients == sum(SITES.values())
    assert contrast.difference.value == pytest.approx(expected, abs=4e-3)
    assert contrast.difference.low < contrast.difference.value < contrast.difference.high


def test_a_task_nobody_has_named_yet_needs_no_change_here() -> None:
    text = PLAN_TEXT.replace('"segmentation"', '"detection"')
    pooled = {"froc": {"value": 0.61, "low": 0.5, "high": 0.7, "n_patients": 52}, "hits_per_image": {"value": 1.5}}
    made: Results = replace(results(text), headline="froc", final={"pooled": pooled}, personalised=None, baselines={})
    run = Run(parse(text), text, made, ())
    page = render(run)
    assert "for detection on fundus photographs" in page
    assert '<data value="0.61">0.610</data>' in page
    assert "hits per image" in page
