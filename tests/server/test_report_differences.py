"""The table of differences: every pair, signed, with its interval, and a reason where there is none."""

from dataclasses import replace
from typing import Any

import pytest
from report_runs import PLAN_TEXT, results

from server.report.differences import differences_table, signed
from server.report.page import render
from server.report.run import Run
from server.report.tables import Table
from shared.plan import parse


def measured(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n_patients": 52}


def pair(first: str, second: str, **changes: Any) -> dict[str, Any]:
    metrics = {"dice": measured(0.021, 0.004), "hd95": measured(-1.25, 2.0)}
    return {"first": first, "second": second, "patients": "test", "metrics": metrics, "reason": "", **changes}


def table(*pairs: dict[str, Any]) -> Table:
    found = differences_table(run(*pairs))
    assert found is not None
    return found


def run(*pairs: dict[str, Any]) -> Run:
    return Run(parse(PLAN_TEXT), PLAN_TEXT, replace(results(), differences=pairs), ())


def test_a_run_that_compared_nothing_has_no_table() -> None:
    assert differences_table(run()) is None


def test_every_pair_has_a_row_that_says_which_is_subtracted_from_which() -> None:
    found = table(
        pair("initial", "federation"),
        pair("central", "federation"),
        pair("local-mean", "federation"),
        pair("federation", "personalised"),
        pair("round-4", "round-20", patients="validation"),
    )
    assert [name for name, _ in found.rows] == [
        "Federation \N{MINUS SIGN} model before training",
        "Federation \N{MINUS SIGN} all data in one room",
        "Federation \N{MINUS SIGN} mean of single sites",
        "After own-site steps \N{MINUS SIGN} federation",
        "Round 20 \N{MINUS SIGN} round 4, validation patients",
    ]


def test_a_cell_has_the_unrounded_value_and_a_signed_interval_beside_the_signed_text() -> None:
    [(_, (dice, hd95))] = table(pair("central", "federation")).rows
    assert (dice.text, dice.detail, dice.value) == ("+0.021", "+0.017 to +0.025", 0.021)
    assert (hd95.text, hd95.detail) == ("\N{MINUS SIGN}1.25", "\N{MINUS SIGN}3.25 to +0.75")


def test_columns_are_the_main_metrics_that_were_compared_and_no_others() -> None:
    assert table(pair("central", "federation")).columns == ("Difference", "Dice", "HD95")


def test_the_note_says_where_less_is_better() -> None:
    assert "Less is better for HD95." in table(pair("central", "federation")).note
    dice_alone = pair("central", "federation", metrics={"dice": measured(0.1, 0.2)})
    assert "Less is better" not in table(dice_alone).note


def test_a_pair_that_could_not_be_compared_keeps_its_row_and_says_why() -> None:
    found = table(pair("central", "federation"), pair("federation", "personalised", metrics={}, reason="3 sites more"))
    name, cells = found.rows[1]
    assert [cell.text for cell in cells] == ["–", "–"]  # noqa: RUF001 - the dash is what is shown
    assert f"{name}: not compared, 3 sites more." in found.note


def test_an_undetermined_interval_leaves_the_value_alone() -> None:
    [(_, (dice,))] = table(
        pair("a", "b", metrics={"dice": {"value": 0.0, "low": None, "high": None, "n_patients": 9}})
    ).rows
    assert (dice.text, dice.detail) == ("0.000", "")


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("dice", 0.0214, "+0.021"),
        ("dice", -0.0214, "\N{MINUS SIGN}0.021"),
        ("dice", -0.0004, "0.000"),
        ("dice", 0.0, "0.000"),
        ("hd95", -12.345, "\N{MINUS SIGN}12.35"),
        ("hd95", 0.004, "0.00"),
    ],
)
def test_a_sign_stands_before_what_does_not_round_to_zero(metric: str, value: float, shown: str) -> None:
    assert signed(metric, value) == shown


def test_the_page_holds_the_table() -> None:
    page = render(run(pair("central", "federation")))
    assert "Differences on the same patients" in page
    assert "+0.017\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}+0.025" in page
    assert "Differences on the same patients" not in render(run())
