"""Cases of several sites, measured apart and added up, against the same cases measured in one room."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.evaluation.additive import Observation, Statistics, collect
from shared.evaluation.intervals import with_intervals
from shared.plan import from_document
from shared.preprocessing.image import Case
from shared.tasks import task_for
from shared.tasks.task import Task

KINDS: dict[str, dict[str, Any]] = {
    "binary": {"task": "classification", "classes": ["a", "b"]},
    "multi-class": {"task": "classification", "classes": ["a", "b", "c"]},
    "multi-label": {"task": "classification", "classes": ["a", "b", "c"], "labels": "multilabel"},
    "one structure": {"task": "segmentation", "classes": ["a", "b"]},
    "two structures": {"task": "segmentation", "classes": ["a", "b", "c"]},
}


def task_of(kind: str) -> Task:
    header, data = {"name": "pooling", "rounds": 1}, dict(KINDS[kind])
    header["task"] = data.pop("task")
    return task_for(
        from_document(
            {
                "plan": header,
                "data": {"modality": "other", **data},
                "preprocessing": {"size": [8, 8]},
                "model": {"name": "unet"},
                "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
                "privacy": {"unit": "none"},
            }
        )
    )


def observed(kind: str, task: Task) -> list[tuple[str, Observation]]:
    """Forty cases of fifteen patients, with absent classes and empty masks among them."""
    rng = np.random.default_rng(3)
    classes, shape = len(KINDS[kind]["classes"]), (8, 8)
    spatial = shape if task.output == "dense" else ()
    pairs = []
    for number in range(40):
        label = tuple(rng.integers(0, 2, classes).tolist()) if kind == "multi-label" else int(rng.integers(classes))
        mask = (rng.integers(0, classes, shape) * rng.integers(0, 2)).astype(np.uint8)
        voxels = np.zeros((1, *shape), np.float32)
        case = Case(f"c{number}", f"p{rng.integers(15)}", voxels, mask, label, (1.0, 1.0))
        scores = rng.dirichlet(np.ones(classes), spatial).astype(np.float32)
        pairs.append((case.patient, task.observe(np.moveaxis(scores, -1, 0), case)))
    return pairs


TASKS = {kind: task_of(kind) for kind in KINDS}
CASES_OF = {kind: observed(kind, task) for kind, task in TASKS.items()}


def by_site(task: Task, pairs: list[tuple[str, Observation]], site_of: dict[str, int]) -> list[Statistics]:
    """Statistics of each site; a patient is at one site, with all their images."""
    return [
        collect(task.schema, [pair for pair in pairs if site_of[pair[0]] == site])
        for site in sorted({*site_of.values()})
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=12, deadline=None)
def test_pooled_metrics_and_intervals_are_bit_for_bit_those_of_all_cases_in_one_room(
    kind: str, data: st.DataObject
) -> None:
    task, pairs = TASKS[kind], CASES_OF[kind]
    one_room = collect(task.schema, pairs)
    patients = sorted({patient for patient, _ in pairs})
    site_of = {patient: data.draw(st.integers(0, 4)) for patient in patients}
    shuffled = data.draw(st.permutations(pairs))

    sites = data.draw(st.permutations(by_site(task, shuffled, site_of)))
    arrived = sum(sites[1:], start=sites[0])
    received = Statistics.from_flat(task.schema, arrived.flat())

    np.testing.assert_array_equal(received.flat(), one_room.flat())
    np.testing.assert_equal(dict(task.metrics(received.total())), dict(task.metrics(one_room.total())))
    pooled, alone = (with_intervals(of, task.metrics, task.limits) for of in (received, one_room))
    np.testing.assert_equal(
        {name: dataclasses.astuple(interval) for name, interval in pooled.items()},
        {name: dataclasses.astuple(interval) for name, interval in alone.items()},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_sites_is_another_number_than_the_pooled_one(kind: str) -> None:
    task, pairs = TASKS[kind], CASES_OF[kind]
    site_of = {patient: int(patient == "p1") for patient, _ in pairs}

    sites = [task.metrics(of.total())[task.headline] for of in by_site(task, pairs, site_of)]

    assert np.mean(sites) != pytest.approx(task.metrics(collect(task.schema, pairs).total())[task.headline], abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_every_kind_lies_within_its_stated_range(kind: str) -> None:
    task = TASKS[kind]

    intervals = with_intervals(collect(task.schema, CASES_OF[kind]), task.metrics, task.limits)

    assert set(task.limits) == set(intervals)
    for name, found in intervals.items():
        lowest, highest = task.limits[name]
        if not math.isfinite(found.low):
            assert not math.isfinite(found.high), "no interval at all, or a whole one"
            continue
        assert lowest <= found.low <= found.value <= found.high <= highest
