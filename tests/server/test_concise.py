"""What stays in results.json: no number changes, the final model keeps all, and a person can read the lines."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import interval, overlap, results

from server.concise import concise, laid_out
from server.report.metrics import MAIN
from server.results import (
    DETAILS,
    RESULTS,
    Results,
    json_ready,
    read_results,
    results_document,
    write_details,
    write_results,
)

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=15)
BY_CLASS = {f"{metric}_{name}": interval(0.5, 0.1, 9) for metric in ("dice", "iou") for name in ("organ", "lesion")}


def wide() -> Results:
    """Results with metrics by class everywhere, and sites that are named like metrics."""
    many = overlap(0.7, 0.03, 52) | BY_CLASS
    block = {
        "pooled": many,
        "sites": {"dice_organ": many},
        "macro": {"dice": 0.7, "dice_organ": 0.5},
        "worst": {},
        "undetermined": {},
    }
    return replace(
        results(),
        final={**results().final, "pooled": many},
        personalised=block,
        baselines={
            "central": many,
            "local": {"dice_organ": many},
            "at_home": {"a": {"local": many, "federation": many}},
            "cross_site": {"a": {"b": many}},
            "contribution": {"shapley": {"dice_organ": interval(0.1, 0.05, 52)}},
        },
        differences=({"first": "central", "second": "federation", "patients": "test", "metrics": many, "reason": ""},),
    )


def written(folder: Path, name: str = RESULTS) -> dict[str, Any]:
    write_details(folder, wide())
    write_results(folder, wide())
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


MAIN_OF_MANY = {"dice", "iou", "hd95", "nsd"}


def test_the_final_model_keeps_every_metric(tmp_path: Path) -> None:
    assert written(tmp_path)["final"]["pooled"].keys() == MAIN_OF_MANY | BY_CLASS.keys()


def test_other_models_keep_the_main_metrics_wherever_they_stand(tmp_path: Path) -> None:
    found = written(tmp_path)
    many = [
        found["baselines"]["central"],
        found["baselines"]["local"]["dice_organ"],
        found["baselines"]["at_home"]["a"]["local"],
        found["baselines"]["at_home"]["a"]["federation"],
        found["baselines"]["cross_site"]["a"]["b"],
        found["personalised"]["pooled"],
        found["personalised"]["sites"]["dice_organ"],
        found["differences"][0]["metrics"],
    ]
    assert [set(metrics) for metrics in many] == [MAIN_OF_MANY] * len(many)
    assert found["personalised"]["macro"] == {"dice": 0.7}


def test_what_is_not_a_model_is_left_alone_even_where_a_site_is_named_like_a_metric(tmp_path: Path) -> None:
    assert written(tmp_path)["baselines"]["contribution"]["shapley"].keys() == {"dice_organ"}


def test_details_hold_every_metric_and_the_same_numbers(tmp_path: Path) -> None:
    short, long = written(tmp_path), written(tmp_path, DETAILS)
    assert long["plan_digest"] == short["plan_digest"]
    assert long["baselines"] == json_ready(wide().baselines)
    assert long["personalised"] == json_ready(wide().personalised)
    for name, kept in short["baselines"]["central"].items():
        assert long["baselines"]["central"][name] == kept


def test_a_headline_that_is_no_main_metric_stays() -> None:
    document = results_document(replace(wide(), headline="dice_lesion"))
    assert "dice_lesion" not in MAIN
    assert set(concise(document)["baselines"]["central"]) == MAIN_OF_MANY | {"dice_lesion"}


def test_being_concise_twice_changes_nothing() -> None:
    once = concise(results_document(wide()))
    assert concise(once) == once


def test_the_document_itself_is_not_changed() -> None:
    document = results_document(wide())
    before = json.dumps(document, sort_keys=True)
    concise(document)
    assert json.dumps(document, sort_keys=True) == before


def test_a_run_that_was_written_and_read_is_written_alike(tmp_path: Path) -> None:
    written(tmp_path)
    first = (tmp_path / RESULTS).read_bytes()
    write_results(tmp_path, read_results(tmp_path))
    assert (tmp_path / RESULTS).read_bytes() == first


# --- layout


@given(TREES)
def test_laid_out_is_the_same_json(tree: Any) -> None:
    assert json.loads(laid_out(tree)) == tree


@given(st.dictionaries(st.text(max_size=3), TREES), st.randoms())
def test_the_order_of_keys_changes_no_byte(tree: dict[str, Any], random: Any) -> None:
    keys = list(tree)
    random.shuffle(keys)
    assert laid_out({key: tree[key] for key in keys}) == laid_out(tree)


def test_an_interval_and_a_curve_are_one_line_each() -> None:
    text = laid_out({"b": {"dice": {"value": 0.5, "low": 0.25}}, "a": [0.5, 1, None], "c": {}})
    assert text == '{\n  "a": [0.5, 1, null],\n  "b": {\n    "dice": {"low": 0.25, "value": 0.5}\n  },\n  "c": {}\n}\n'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error_and_never_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        laid_out({"a": [number]})
