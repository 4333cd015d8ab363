"""How the report shows metrics from sums that hold noise: as estimates, with about how many patients."""

from dataclasses import replace
from pathlib import Path

from noisy_patients import DICE, dealt, dice_of, released
from numpy.random import default_rng
from report_runs import PLAN_TEXT, results

from server.report import tables, words
from server.report.page import REPORT, write_report
from server.report.run import Run, read_run
from server.results import PLAN, Results, write_results
from shared.evaluation.estimates import estimates_block
from shared.evaluation.private_segmentation import spread
from shared.plan import parse

NOISED = PLAN_TEXT.replace(
    'unit = "none"', 'unit = "patient"\nepsilon = 8.0\ndelta = 1e-4\nclip_norm = 1.0\npublic_patients = 50'
).replace('release = "site"', 'release = "dp"')
BLOCK = estimates_block(DICE, released(DICE, dealt(list(spread(dice_of(default_rng(3), 200))), 4), 0.6, seed=3))
PATIENTS = BLOCK["pooled"]["dice"]["n_patients"]


def noised_results() -> Results:
    return replace(results(NOISED), final=BLOCK, personalised=None, baselines={})


def noised_run() -> Run:
    return Run(parse(NOISED), NOISED, noised_results(), ())


def exact_run() -> Run:
    return Run(parse(PLAN_TEXT), PLAN_TEXT, results(), ())


def test_the_number_of_patients_is_said_to_be_about_that() -> None:
    assert PATIENTS != 200
    assert f"On about {PATIENTS} test patients of all sites" in words.lead(noised_run())[-1]
    assert "about" not in words.lead(exact_run())[-1]


def test_the_table_says_that_sites_added_noise() -> None:
    note = tables.pooled_table(noised_run()).note
    assert f"each of about {PATIENTS} test patients counts once" in note
    assert "Sites added noise to what they sent: values, intervals and numbers of patients are estimates." in note
    assert "noise" not in tables.pooled_table(exact_run()).note


def test_the_value_stands_with_its_interval_like_every_other() -> None:
    [(name, (cell,))] = tables.pooled_table(noised_run()).rows
    row = BLOCK["pooled"]["dice"]
    assert name == "Dice"
    assert cell.text == f"{row['value']:.3f}"
    assert cell.detail == f"{row['low']:.3f}\N{EN DASH}{row['high']:.3f}"
    assert tables.site_tables(noised_run(), ["dice"]) == []


def test_results_with_errors_are_written_read_and_made_a_page(tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text(NOISED, encoding="utf-8")
    write_results(tmp_path, noised_results())

    run = read_run(tmp_path)
    write_report(tmp_path, ())

    assert run.results.final["pooled"]["dice"]["error"] == BLOCK["pooled"]["dice"]["error"]
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert f"about {PATIENTS}" in page
    assert "Metrics were released with noise, which the ledger has paid for." in page
