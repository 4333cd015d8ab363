"""Pooled, per site, macro and worst: against means taken by hand, and with sites that cannot say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from shared.evaluation.additive import CASES, UNIT, Schema, Statistics, collect, in_units
from shared.evaluation.intervals import Interval
from shared.evaluation.summary import Summary, Worst, final_block, summarise
from shared.tasks.task import Task

SCHEMA = Schema("two-means-1", (("quality", ()), ("distance", ()), ("measured", ())))


def means(counts: Any) -> dict[str, float]:
    cases, measured = int(counts[CASES]), int(counts["measured"])
    return {
        "quality": float(counts["quality"]) * UNIT / cases if cases else math.nan,
        "distance": float(counts["distance"]) * UNIT / measured if measured else math.nan,
    }


TASK = Task(
    name="two-means",
    output_channels=1,
    output="image",
    headline="quality",
    target=lambda _case: np.zeros(()),
    loss=lambda logits, _: logits[:, 0],
    decode=lambda logits: logits.numpy(),
    schema=SCHEMA,
    observe=lambda _scores, _case: {},
    metrics=means,
    describe=lambda _scores, _case: {},
    lower_is_better=frozenset({"distance"}),
    limits={"quality": (0.0, 1.0), "distance": (0.0, math.inf)},
)


def site(name: str, values: list[tuple[float, float | None]]) -> Statistics:
    """One patient for each (quality, distance); None where the distance is not measured."""
    return collect(
        SCHEMA,
        (
            (
                f"{name}/{index}",
                {
                    "quality": np.array(in_units(quality), np.int64),
                    "distance": np.array(in_units(distance or 0.0), np.int64),
                    "measured": np.array(distance is not None, np.int64),
                },
            )
            for index, (quality, distance) in enumerate(values)
        ),
    )


SITES = {
    "vienna": site("vienna", [(0.9, 2.0), (0.7, 4.0)]),
    "oslo": site("oslo", [(0.6, 1.0)]),
    "lima": site("lima", [(0.7, None), (0.5, None), (0.6, None)]),
}
POOLED = SITES["vienna"] + SITES["oslo"] + SITES["lima"]


def test_pooled_weighs_patients_and_macro_weighs_hospitals() -> None:
    summary = summarise(TASK, POOLED, SITES)

    assert summary.pooled["quality"].value == pytest.approx((0.9 + 0.7 + 0.6 + 0.7 + 0.5 + 0.6) / 6, abs=UNIT)
    assert summary.macro["quality"] == pytest.approx((0.8 + 0.6 + 0.6) / 3, abs=UNIT)
    assert summary.pooled["quality"].n_patients == 6
    assert {name: metrics["quality"].n_patients for name, metrics in summary.sites.items()} == {
        "lima": 3,
        "oslo": 1,
        "vienna": 2,
    }


def test_the_worst_site_has_the_least_quality_and_the_greatest_distance() -> None:
    worst = summarise(TASK, POOLED, SITES).worst

    assert worst["distance"] == Worst("vienna", 3.0)
    # Lima and Oslo are equal up to rounding; the smaller value decides, and the name only between equals.
    assert worst["quality"].value == min(of["quality"].value for of in summarise(TASK, POOLED, SITES).sites.values())


def test_of_equally_bad_sites_the_first_by_name_is_named() -> None:
    twins = {"rome": SITES["oslo"], "oslo": SITES["oslo"], "vienna": SITES["vienna"]}

    assert summarise(TASK, POOLED, twins).worst["quality"].site == "oslo"


def test_a_site_that_cannot_say_is_neither_good_nor_bad_but_named() -> None:
    summary = summarise(TASK, POOLED, SITES)

    assert summary.undetermined == {"distance": ("lima",)}
    assert summary.macro["distance"] == pytest.approx((3.0 + 1.0) / 2)
    assert summary.worst["distance"].site != "lima"
    assert math.isnan(summary.sites["lima"]["distance"].value)


def test_a_metric_that_no_site_determines_has_no_mean_and_no_worst() -> None:
    summary = summarise(TASK, SITES["lima"], {"lima": SITES["lima"]})

    assert "distance" not in summary.macro
    assert "distance" not in summary.worst
    assert summary.undetermined["distance"] == ("lima",)
    assert math.isnan(summary.pooled["distance"].value)


@pytest.mark.parametrize("per_site", [None, {}])
def test_where_only_sums_are_released_there_is_only_the_pooled_part(per_site: dict[str, Statistics] | None) -> None:
    block = final_block(summarise(TASK, POOLED, per_site))

    assert set(block["pooled"]) == {"quality", "distance"}
    assert [block[part] for part in ("sites", "macro", "worst", "undetermined")] == [{}, {}, {}, {}]


def test_the_order_of_sites_changes_nothing() -> None:
    backwards = dict(reversed(SITES.items()))

    assert json.dumps(final_block(summarise(TASK, POOLED, SITES))) == json.dumps(
        final_block(summarise(TASK, POOLED, backwards))
    )


def test_the_final_block_has_exactly_the_parts_that_results_json_promises() -> None:
    block = final_block(summarise(TASK, POOLED, SITES))

    assert set(block) == {"pooled", "sites", "macro", "worst", "undetermined"}
    assert set(block["pooled"]["quality"]) == {"value", "low", "high", "n_patients"}
    assert set(block["sites"]) == set(SITES)
    assert set(block["worst"]["quality"]) == {"site", "value"}
    assert isinstance(block["macro"]["quality"], float)


def test_what_is_not_a_number_is_null_in_json() -> None:
    block = final_block(
        Summary(pooled={"distance": Interval(math.nan, math.nan, math.inf, 3)}, sites={"a": {}}, macro={"d": math.nan})
    )

    text = json.dumps(block, allow_nan=False)

    assert json.loads(text)["pooled"]["distance"] == {"value": None, "low": None, "high": None, "n_patients": 3}
    assert json.loads(text)["macro"]["d"] is None
