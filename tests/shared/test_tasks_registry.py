"""The table of tasks, and a third task that needs no change outside its own module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import CaseError, PlanError
from shared.evaluation.additive import CASES, UNIT, Observation, Schema, Statistics, collect, in_units
from shared.evaluation.summary import final_block, summarise
from shared.evaluation.undetermined import ratio
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from shared.tasks import TASKS, task_for
from shared.tasks.task import Metrics, Task


def plan_for(task: str, **data: Any) -> Plan:
    return from_document(
        {
            "plan": {"name": "registry", "task": task, "rounds": 1},
            "data": {"modality": "other", "classes": ["background", "vessel"], **data},
            "preprocessing": {"size": [8, 8]},
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


def case_of(label: int | None, patient: str = "p") -> Case:
    return Case("c", patient, np.zeros((1, 8, 8), np.float32), np.zeros((8, 8), np.uint8), label, (1.0, 1.0))


def test_a_misspelt_task_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(PlanError, match="'segmentaton' is not a task") as refused:
        task_for(plan_for("segmentaton"))

    assert refused.value.hint == "did you mean segmentation?"


def test_a_task_that_resembles_none_is_answered_with_all() -> None:
    with pytest.raises(PlanError) as refused:
        task_for(plan_for("genomics"))

    assert refused.value.hint == "known here: classification, segmentation"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_keeps_the_contract(name: str) -> None:
    task = task_for(plan_for(name))
    spatial = (8, 8) if task.output == "dense" else ()
    logits = torch.randn(3, task.output_channels, *spatial, generator=torch.Generator().manual_seed(0))
    case = case_of(1)

    targets = torch.from_numpy(np.stack([task.target(case)] * 3))
    losses = task.loss(logits, targets)
    scores = task.decode(logits)
    observation = task.observe(scores[0], case)
    metrics = task.metrics(collect(task.schema, [(case.patient, observation)]).total())

    assert task.name == name
    assert losses.shape == (3,)
    assert losses.isfinite().all()
    assert (scores.shape, scores.dtype) == (tuple(logits.shape), np.float32)
    assert ((scores >= 0) & (scores <= 1)).all()
    grouped = dict(task.schema.shapes)
    assert {key: values.shape for key, values in observation.items() if key in grouped} == grouped
    assert set(observation) - set(grouped) == {key for key, _ in task.schema.ungrouped}
    assert task.headline in metrics
    assert set(task.limits) == set(metrics)
    assert task.lower_is_better <= set(metrics)
    assert all(isinstance(value, (float, int, str)) for value in task.describe(scores[0], case).values())


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_loss_of_an_image_does_not_depend_on_the_others_in_its_batch(name: str) -> None:
    task = task_for(plan_for(name))
    spatial = (8, 8) if task.output == "dense" else ()
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 2, *spatial, generator=generator)
    targets = torch.randint(0, 2, (4, *spatial), generator=generator)

    together = task.loss(logits, targets)
    alone = torch.cat([task.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(4)])

    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_an_empty_batch_has_no_losses(name: str) -> None:
    task = task_for(plan_for(name))
    spatial = (8, 8) if task.output == "dense" else ()

    assert task.loss(torch.zeros(0, 2, *spatial), torch.zeros(0, *spatial, dtype=torch.int64)).shape == (0,)


AGES = Schema("age-1", (("error", ()),))
OLDEST = 120.0


def age_task(_plan: Plan) -> Task:
    """Estimate a patient's age in years from one output in [0, 1], measured by the mean absolute error."""

    def target(case: Case) -> NDArray[np.generic]:
        if not isinstance(case.label, int):
            raise CaseError("the case has no age", code="label-missing")
        return np.array(case.label / OLDEST, np.float32)

    def error_years(scores: NDArray[np.float32], case: Case) -> float:
        return abs(float(scores[0]) - float(target(case))) * OLDEST

    def observe(scores: NDArray[np.float32], case: Case) -> Observation:
        return {"error": np.array(in_units(error_years(scores, case)), np.int64)}

    def metrics(counts: Mapping[str, NDArray[np.int64]]) -> Metrics:
        return {"mae_years": float(ratio(counts["error"] * UNIT, counts[CASES]))}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0].sigmoid() - targets).abs()

    return Task(
        name="age",
        output_channels=1,
        output="image",
        headline="mae_years",
        target=target,
        loss=loss,
        decode=lambda outputs: outputs.sigmoid().numpy(),
        schema=AGES,
        observe=observe,
        metrics=metrics,
        describe=lambda scores, case: {"age": float(scores[0]) * OLDEST, "error_years": error_years(scores, case)},
        lower_is_better=frozenset({"mae_years"}),
        limits={"mae_years": (0.0, OLDEST)},
    )


def test_a_third_task_is_a_function_and_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "age", age_task)
    task = task_for(plan_for("age"))
    rng = np.random.default_rng(0)
    years, guessed = rng.integers(20, 90, 60), rng.uniform(0.2, 0.7, 60).astype(np.float32)
    cases = [case_of(int(age), f"p{number // 2}") for number, age in enumerate(years)]
    sites = {
        site: collect(task.schema, [(cases[i].patient, task.observe(guessed[i : i + 1], cases[i])) for i in members])
        for site, members in {"graz": range(20), "bern": range(20, 60)}.items()
    }

    block = final_block(summarise(task, sites["graz"] + sites["bern"], sites))

    errors = np.abs(guessed * OLDEST - years)
    assert block["pooled"]["mae_years"]["value"] == pytest.approx(errors.mean(), abs=1e-5)
    assert block["pooled"]["mae_years"]["low"] < errors.mean() < block["pooled"]["mae_years"]["high"]
    assert block["pooled"]["mae_years"]["n_patients"] == 30
    assert block["macro"]["mae_years"] == pytest.approx((errors[:20].mean() + errors[20:].mean()) / 2, abs=1e-5)
    assert block["worst"]["mae_years"]["site"] == ("graz" if errors[:20].mean() > errors[20:].mean() else "bern")


def test_a_third_task_travels_as_a_flat_vector_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "age", age_task)
    task = task_for(plan_for("age"))
    statistics = collect(task.schema, [("p", task.observe(np.array([0.5], np.float32), case_of(50)))])

    received = Statistics.from_flat(task.schema, statistics.flat())

    assert dict(task.metrics(received.total())) == {"mae_years": pytest.approx(10.0, abs=1e-5)}


def test_a_case_that_a_third_task_cannot_use_is_refused_like_any_other() -> None:
    with pytest.raises(CaseError) as refused:
        age_task(plan_for("age")).target(case_of(None))

    assert refused.value.code == "label-missing"
