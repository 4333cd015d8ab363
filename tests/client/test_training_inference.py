"""Measuring a model: each case by itself and in order, statistics as by hand, and rows for a researcher's own tools."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from tiny_federation import tiny_cases, tiny_plan

from client.training import inference
from client.training.inference import predictions, scores, statistics
from client.workbench import Workbench
from shared.plan import Plan
from shared.preprocessing.image import Case

CASES = tiny_cases("aachen", 20, "measured")


def bench_for(**changes: Any) -> Workbench:
    return Workbench.for_plan(tiny_plan(**changes))


SEGMENTATION: dict[str, Any] = {
    "plan__task": "segmentation",
    "data__classes": ["background", "square"],
    "model__name": "unet",
}


def masked_cases(count: int) -> list[Case]:
    rng = np.random.default_rng(3)
    return [
        Case(f"m{i}", f"p{i // 2}", rng.normal(size=(1, 8, 8)).astype(np.float32), mask_of(i), None, (1.0, 1.0))
        for i in range(count)
    ]


def mask_of(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    mask = np.zeros((8, 8), np.uint8)
    mask[number % 4 : 4 + number % 4, 2:6] = 1
    return mask


def test_scores_are_the_softmax_of_the_network_s_answer_to_each_case_alone() -> None:
    bench = bench_for()
    with torch.inference_mode():
        alone = [bench.model.eval()(torch.from_numpy(case.voxels)[None]).softmax(dim=1)[0].numpy() for case in CASES]
    found = list(scores(bench.model, CASES, bench.task, bench.plan, bench.device))
    assert [case for case, _ in found] == CASES
    np.testing.assert_allclose([score for _, score in found], alone, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 3, 7, 1000])
def test_how_many_cases_pass_at_once_changes_nothing_beyond_rounding(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    bench = bench_for()
    usual = [score for _, score in scores(bench.model, CASES, bench.task, bench.plan, bench.device)]
    monkeypatch.setattr(inference, "_VOXELS_AT_ONCE", at_once * 64)
    found = [score for _, score in scores(bench.model, CASES, bench.task, bench.plan, bench.device)]
    np.testing.assert_allclose(found, usual, atol=1e-6)


def test_memory_is_bounded_by_voxels_and_not_by_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network sees batches of at most the stated number of voxels, and at least one image however large."""
    bench, seen = bench_for(), []

    def watched(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(inputs[0]))

    handle = bench.model.register_forward_pre_hook(watched)
    monkeypatch.setattr(inference, "_VOXELS_AT_ONCE", 6 * 64 + 63)
    list(scores(bench.model, CASES, bench.task, bench.plan, bench.device))
    assert seen == [6, 6, 6, 2]
    monkeypatch.setattr(inference, "_VOXELS_AT_ONCE", 1)
    seen.clear()
    list(scores(bench.model, CASES[:3], bench.task, bench.plan, bench.device))
    assert seen == [1, 1, 1]
    handle.remove()


class Lazy(Sequence[Case]):
    """Cases that note when they are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(CASES)

    def __getitem__(self, position: Any) -> Any:
        self.read.append(position)
        return CASES[position]


def test_cases_are_read_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, cases = bench_for(), Lazy()
    monkeypatch.setattr(inference, "_VOXELS_AT_ONCE", 4 * 64)
    found = scores(bench.model, cases, bench.task, bench.plan, bench.device)
    next(found)
    assert cases.read == [0, 1, 2, 3]
    assert len(list(found)) == 19
    assert cases.read == list(range(20))


def test_dropout_is_off_while_measuring() -> None:
    bench = bench_for(model__dropout=0.5)
    bench.model.train()
    first, again = (
        [score for _, score in scores(bench.model, CASES, bench.task, bench.plan, bench.device)] for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


def test_measuring_leaves_no_gradient_and_changes_no_weight() -> None:
    bench = bench_for()
    before = bench.initial_weights()
    statistics(bench.model, CASES, bench.task, bench.plan, bench.device)
    assert all(parameter.grad is None for parameter in bench.model.parameters())
    np.testing.assert_array_equal(bench.initial_weights(), before)


def test_statistics_give_the_accuracy_that_scikit_learn_gives() -> None:
    bench = bench_for()
    found = statistics(bench.model, CASES, bench.task, bench.plan, bench.device)
    decided = [int(score.argmax()) for _, score in scores(bench.model, CASES, bench.task, bench.plan, bench.device)]
    expected = accuracy_score([case.label for case in CASES], decided)
    assert bench.task.metrics(found.total())["accuracy"] == pytest.approx(expected)
    assert {name: int(found.total()[name]) for name in ("cases", "patients")} == {"cases": 20, "patients": 10}


def test_statistics_of_two_halves_add_up_to_those_of_the_whole() -> None:
    """Halves by patient: a patient in both would be counted twice, which is the caller's to avoid."""
    bench = bench_for()
    whole, *halves = (
        statistics(bench.model, part, bench.task, bench.plan, bench.device) for part in (CASES, CASES[:10], CASES[10:])
    )
    np.testing.assert_array_equal((halves[0] + halves[1]).flat(), whole.flat())


def test_no_case_gives_zero_statistics_and_no_prediction() -> None:
    bench = bench_for()
    assert not statistics(bench.model, [], bench.task, bench.plan, bench.device).flat().any()
    assert list(predictions(scores(bench.model, [], bench.task, bench.plan, bench.device), bench.task)) == []


def test_predictions_of_a_classification_are_label_and_score_of_the_second_class() -> None:
    bench = bench_for()
    rows = list(predictions(scores(bench.model, CASES, bench.task, bench.plan, bench.device), bench.task))
    found = list(scores(bench.model, CASES, bench.task, bench.plan, bench.device))
    assert [case.case_id for case, _ in rows] == [case.case_id for case in CASES]
    for (case, columns), (_, score) in zip(rows, found, strict=True):
        assert columns == {"label": case.label, "score": pytest.approx(float(score[1]), abs=1e-6)}


def test_predictions_of_a_segmentation_are_dice_by_its_definition() -> None:
    bench, cases = bench_for(**SEGMENTATION), masked_cases(6)
    found = list(scores(bench.model, cases, bench.task, bench.plan, bench.device))
    rows = predictions(scores(bench.model, cases, bench.task, bench.plan, bench.device), bench.task)
    for (case, columns), (_, score) in zip(rows, found, strict=True):
        assert case.mask is not None
        drawn, truth = score.argmax(axis=0) == 1, case.mask == 1
        assert score.shape == (2, 8, 8)
        assert columns["dice"] == pytest.approx(2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()))


def test_lower_precision_is_used_where_the_plan_asks_and_scores_stay_float32() -> None:
    plan: Plan = tiny_plan(training__precision="bfloat16")
    exact, rough = bench_for(), Workbench.for_plan(plan)
    one, other = (
        [score for _, score in scores(bench.model, CASES, bench.task, bench.plan, bench.device)]
        for bench in (exact, rough)
    )
    assert {score.dtype for score in other} == {np.dtype(np.float32)}
    np.testing.assert_allclose(one, other, atol=0.02)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
