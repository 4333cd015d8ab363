"""Metrics, arms and tables of a report: every number is the one in results.json, and nothing is left out silently."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import (
    ALONE,
    PLAN_TEXT,
    PRIVATE,
    SITES,
    SKILL,
    SUMS_ONLY,
    overlap,
    private_results,
    results,
    sums_only_results,
    write_run,
)

from server.report import arms, tables
from server.report.metrics import NAMES, Measure, duration, interval, label, meaning, measure, number, ordered
from server.report.run import Run, read_run, sites_of
from server.results import Participation, Results, RoundRecord, append_round
from shared.errors import PlanError, RunError
from shared.plan import parse

CLASSES = PLAN_TEXT.replace('["background", "vessel"]', '["background", "optic-disc", "vessel"]')


def run_of(found: Results, plan_text: str = PLAN_TEXT) -> Run:
    return Run(parse(plan_text), plan_text, found, ())


# --- metrics


def test_a_metric_reads_the_same_as_number_and_as_interval() -> None:
    assert measure(0.7).value == measure({"value": 0.7, "low": 0.6, "high": 0.8, "n_patients": 5}).value == 0.7


def test_an_interval_keeps_its_bounds_and_its_patients() -> None:
    assert measure({"value": 0.7, "low": 0.6, "high": 0.8, "n_patients": 5}) == Measure(0.7, 0.6, 0.8, 5)


@pytest.mark.parametrize("raw", [None, {"value": None, "low": None, "high": None, "n_patients": 0}, {}])
def test_null_is_undetermined_and_not_zero(raw: dict[str, None] | None) -> None:
    found = measure(raw)
    assert not found.determined
    assert not found.has_interval
    assert number("dice", found.value) == "–"  # noqa: RUF001 - the dash is what is shown


@pytest.mark.parametrize(
    ("low", "high", "known"), [(0.1, 0.2, True), (0.1, math.nan, False), (math.nan, 0.2, False), (0.1, math.inf, False)]
)
def test_an_interval_needs_both_bounds(low: float, high: float, known: bool) -> None:  # noqa: FBT001 - a table
    assert Measure(0.15, low, high).has_interval is known
    assert bool(interval("dice", Measure(0.15, low, high))) is known


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("dice", "Dice"),
        ("dice_micro", "Dice of all voxels"),
        ("dice_optic-disc", "Dice, optic disc"),
        ("auroc_left_lung", "AUROC, left lung"),
        ("average_precision_mass", "Average precision, mass"),
        ("froc_at_2", "froc at 2"),
    ],
)
def test_metrics_have_a_name_for_people_even_when_unknown(metric: str, name: str) -> None:
    assert label(metric) == name


def test_every_known_metric_says_what_it_means_and_no_other_does() -> None:
    assert all(meaning(metric) for metric in NAMES)
    assert meaning("dice_vessel") == ""


@pytest.mark.parametrize(
    ("metric", "value", "text"), [("dice", 0.79149, "0.791"), ("hd95", 3.1701, "3.17"), ("hd95_vessel", 12.0, "12.00")]
)
def test_numbers_have_the_decimals_of_their_metric(metric: str, value: float, text: str) -> None:
    assert number(metric, value) == text


@given(st.floats(0, 1))
def test_a_shown_number_is_within_half_of_its_last_decimal(value: float) -> None:
    assert abs(float(number("dice", value)) - value) <= 0.0005 + 1e-12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (252.4, "4 min 12 s"), (7500, "2 h 5 min")],
)
def test_durations_are_told_in_the_unit_a_person_would_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_headline_comes_first_and_the_rest_keeps_its_order() -> None:
    assert ordered(["hd95", "dice", "iou"], "dice") == ["dice", "hd95", "iou"]
    assert ordered(["hd95"], "dice") == ["hd95"]


# --- run


def test_a_run_folder_reads_as_its_plan_results_and_rounds(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, results()))
    assert run.plan.plan.name == "retina-vessels"
    assert len(run.rounds) == 40
    assert run.pooled == Measure(0.791234, 0.791234 - 0.019, 0.791234 + 0.019, 52)
    assert run.sites == list(SITES)


def test_results_of_another_plan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the results belong to plan"):
        read_run(write_run(tmp_path, results(), PRIVATE))


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"plan\.toml cannot be read"):
        read_run(tmp_path)


def test_a_site_that_was_always_missing_is_still_a_site_of_the_run() -> None:
    entry = (Participation(1, (), {"absent": "deadline"}),)
    bare = replace(sums_only_results(), participation=entry)
    assert run_of(bare, SUMS_ONLY).sites == ["absent"]


def test_metrics_of_single_classes_are_told_from_the_others() -> None:
    final = {"pooled": {"dice": 0.7, "dice_micro": 0.8, "dice_optic-disc": 0.9, "dice_vessel": 0.6, "hd95": 2.0}}
    run = run_of(replace(results(CLASSES), final=final), CLASSES)
    assert run.overall_metrics == ["dice", "dice_micro", "hd95"]


def test_a_block_that_is_absent_has_no_sites() -> None:
    assert sites_of(None) == {}
    assert sites_of({"pooled": {}, "sites": {}}) == {}


# --- arms


def test_the_federation_stands_first_and_single_sites_from_best_to_worst() -> None:
    found = arms.arms_of(run_of(results()))
    assert [arm.kind for arm in found] == ["federation", "personalised", "central"] + ["local"] * 4
    values = [arm.measure("dice").value for arm in found[3:]]
    assert values == sorted(ALONE.values(), reverse=True)
    assert [arm.name for arm in found[3:]] == ["hrf alone", "drive alone", "chase alone", "stare alone"]


def test_where_less_is_better_the_smallest_single_site_stands_first() -> None:
    run = run_of(replace(results(), headline="hd95"))
    values = [arm.measure("hd95").value for arm in arms.single_sites(run)]
    assert values == sorted(values)
    assert values != sorted(values, reverse=True)


def test_a_single_site_without_a_value_stands_last() -> None:
    local = {"a": {"dice": None}, "b": {"dice": 0.5}}
    run = run_of(replace(results(), baselines={"local": local}))
    assert [arm.name for arm in arms.single_sites(run)] == ["b alone", "a alone"]


def test_only_the_federation_is_left_when_nothing_else_was_run() -> None:
    assert [arm.kind for arm in arms.arms_of(run_of(sums_only_results(), SUMS_ONLY))] == ["federation"]


def test_an_arm_does_not_invent_a_metric_it_was_not_measured_with() -> None:
    run = run_of(replace(results(), baselines={"central": {"dice": 0.8}}))
    assert not arms.arms_of(run)[-1].measure("hd95").determined


def test_many_single_sites_become_their_median_and_range() -> None:
    local = {f"site-{place:02}": {"dice": place / 100} for place in range(40, 53)} | {"none": {"dice": None}}
    run = run_of(replace(results(), baselines={"local": local}))
    drawn = arms.at_a_glance(arms.arms_of(run))[-1]
    assert drawn.measure("dice") == Measure(0.46, 0.40, 0.52)
    assert "14" in drawn.name


def test_twelve_single_sites_still_stand_one_by_one() -> None:
    local = {f"site-{place:02}": {"dice": place / 100} for place in range(12)}
    found = arms.arms_of(run_of(replace(results(), baselines={"local": local})))
    assert arms.at_a_glance(found) == found


# --- tables


def cells(table: tables.Table | None, name: str) -> list[tuple[str, str]]:
    assert table is not None
    return [(cell.text, cell.detail) for cell in dict(table.rows)[name]]


def test_the_first_table_holds_pooled_macro_and_worst_of_every_metric() -> None:
    run = run_of(results())
    table = tables.pooled_table(run)
    assert table.columns == ("Metric", "All patients", "Mean of sites", "Worst site")
    assert [name for name, _ in table.rows] == ["Dice", "IoU", "HD95", "NSD"]
    assert table.lead == "Dice"
    value, macro, worst = (cell.value for cell in dict(table.rows)["HD95"])
    final = run.results.final
    assert value == final["pooled"]["hd95"]["value"]
    assert macro == final["macro"]["hd95"]
    assert worst == max(final["sites"][site]["hd95"]["value"] for site in SITES)
    assert cells(table, "Dice")[0] == ("0.791", "0.772–0.810")  # noqa: RUF001
    assert cells(table, "Dice")[2] == ("0.738", "stare")


def test_without_released_sites_the_first_table_has_neither_macro_nor_worst() -> None:
    table = tables.pooled_table(run_of(sums_only_results(), SUMS_ONLY))
    assert table.columns == ("Metric", "All patients")
    assert "Mean of sites" not in table.note


def test_an_undetermined_metric_has_a_cell_and_a_note() -> None:
    table = tables.pooled_table(run_of(sums_only_results(), SUMS_ONLY))
    assert cells(table, "NSD") == [("–", "")]  # noqa: RUF001
    assert dict(table.rows)["NSD"][0].value is None
    assert "do not determine" in table.note


def test_sites_that_do_not_determine_a_metric_are_named() -> None:
    final = dict(results().final) | {"undetermined": {"nsd": ["drive", "hrf"]}}
    assert "NSD is not determined at drive, hrf" in tables.pooled_table(run_of(replace(results(), final=final))).note


def test_classes_have_a_table_of_their_own() -> None:
    pooled = {
        "dice": 0.7,
        "dice_micro": 0.8,
        "dice_optic-disc": 0.9,
        "dice_vessel": None,
        "hd95": 2.0,
        "hd95_vessel": 3,
    }
    table = tables.class_table(run_of(replace(results(CLASSES), final={"pooled": pooled}), CLASSES))
    assert table is not None
    assert table.columns == ("Class", "Dice", "HD95")
    assert [name for name, _ in table.rows] == ["optic-disc", "vessel"]
    assert cells(table, "optic-disc") == [("0.900", ""), ("–", "")]  # noqa: RUF001
    assert cells(table, "vessel") == [("–", ""), ("3.00", "")]  # noqa: RUF001


def test_one_structure_needs_no_table_by_class() -> None:
    assert tables.class_table(run_of(results())) is None


def test_by_site_tables_hold_the_shared_and_the_personalised_models() -> None:
    shared, own = tables.site_tables(run_of(results()), ["dice"])
    assert [row[1][0].value for row in shared.rows] == [SKILL[site] for site in SITES]
    assert [row[1][0].value for row in own.rows] == [SKILL[site] + 0.021 for site in SITES]
    assert tables.site_tables(run_of(sums_only_results(), SUMS_ONLY), ["dice"]) == []


def test_the_table_of_arms_appears_only_with_something_to_compare() -> None:
    table = tables.arms_table(run_of(results()), ["dice", "hd95"])
    assert cells(table, "stare alone")[0][0] == "0.541"
    assert cells(table, "All data in one room")[1][0] == f"{9.5 - 8 * 0.8021:.2f}"
    assert tables.arms_table(run_of(sums_only_results(), SUMS_ONLY), ["dice"]) is None


def test_what_was_set_aside_is_listed_by_reason_and_suppressed_counts_stay_suppressed(tmp_path: Path) -> None:
    table = tables.data_table(read_run(write_run(tmp_path, results())))
    assert cells(table, "hrf") == [("92", ""), ("92", ""), ("7 × image not finite, <3 × image spacing", "")]  # noqa: RUF001
    assert cells(table, "drive")[2] == ("none", "")
    assert cells(table, "stare")[2] == ("<3 × mask shape", "")  # noqa: RUF001
    assert tables.data_table(run_of(sums_only_results(), SUMS_ONLY)) is None


def test_participation_counts_rounds_and_gives_reasons() -> None:
    table = tables.participation_table(run_of(results()))
    assert cells(table, "stare") == [("37 of 40", ""), ("3 × deadline", "")]  # noqa: RUF001
    assert cells(table, "drive") == [("40 of 40", ""), ("never missing", "")]


def test_privacy_spent_is_what_the_ledgers_paid() -> None:
    table = tables.privacy_table(run_of(private_results(), PRIVATE))
    assert [text for text, _ in cells(table, "hrf")] == ["7.7", "0.0001", "1.2", "0.05", "800"]
    assert tables.privacy_table(run_of(results())) is None


def test_a_cell_keeps_the_number_that_its_text_rounds() -> None:
    found = [cell for _, row in tables.pooled_table(run_of(results())).rows for cell in row]
    assert all(abs(float(cell.text) - (cell.value or 0)) <= 0.005 for cell in found)
    assert any(float(cell.text) != cell.value for cell in found)


def test_a_hundred_sites_have_a_hundred_rows() -> None:
    final = dict(results().final) | {"sites": {f"site-{place:03}": overlap(0.7, 0.05, 8) for place in range(100)}}
    (table, *_) = tables.site_tables(run_of(replace(results(), final=final)), ["dice"])
    assert len(table.rows) == 100


def test_rounds_of_an_unfinished_run_are_those_on_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path, results())
    append_round(folder / "rounds.jsonl", RoundRecord(Participation(41, SITES, {}), 0.2, "0" * 64))
    assert read_run(folder).rounds[-1].participation.round == 41
