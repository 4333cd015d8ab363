"""Runs side by side, in a terminal and as JSON: what differs is named, how sure one can be is stated."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import (
    PLAN_TEXT,
    PRIVATE,
    SITES,
    SUMS_ONLY,
    overlap,
    private_results,
    results,
    sums_only_results,
    write_dice,
    write_run,
)
from rich.console import Console, RenderableType

from server.report.compare import (
    Comparison,
    compare,
    comparison_document,
    plan_differences,
    unpaired_difference,
)
from server.report.metrics import Measure
from server.report.run import Run
from server.report.tables import Cell, Table
from server.report.terminal import comparison_tables, rich_table, terminal_report
from server.results import PREDICTIONS
from shared.errors import RunError
from shared.plan import parse

LONGER = PLAN_TEXT.replace("steps = 20", "steps = 40").replace("seed = 7", "seed = 8")


def shown(what: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(what)
    return file.getvalue()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Twenty steps, forty steps with predictions of the same cases, and a private run without predictions."""
    folder = tmp_path_factory.mktemp("runs")
    short, long = write_run(folder / "short", results()), write_run(folder / "long", results(LONGER), LONGER)
    write_dice(short, gain=0.0, noise=0.02, seed=1)
    write_dice(long, gain=0.013, noise=0.02, seed=2)
    return compare([short, long, write_run(folder / "private", private_results(), PRIVATE)])


# --- what differs


def test_every_run_stands_with_its_headline_macro_and_worst_site(comparison: Comparison) -> None:
    assert [entry.name for entry in comparison.entries] == ["short", "long", "private"]
    entry = comparison.entries[0]
    assert entry.pooled == Measure(0.791234, 0.791234 - 0.019, 0.791234 + 0.019, 52)
    assert entry.macro == pytest.approx((0.782 + 0.811 + 0.796 + 0.738) / 4)
    assert (entry.worst_site, entry.worst) == ("stare", 0.738)


def test_the_keys_of_the_plan_that_differ_are_named_and_no_others(comparison: Comparison) -> None:
    assert comparison.plan_differences == {
        "plan.seed": (7, 8, 7),
        "training.steps": (20, 40, 20),
        "privacy.unit": ("none", "none", "patient"),
        "privacy.epsilon": (None, None, 8.0),
        "privacy.delta": (None, None, 1e-4),
        "privacy.clip_norm": (None, None, 1.0),
        "privacy.public_patients": (None, None, 50),
        "privacy.covers": ("everything", "everything", "training"),
    }


def test_equal_plans_differ_in_nothing() -> None:
    run = Run(parse(PLAN_TEXT), PLAN_TEXT, results(), ())
    assert plan_differences([run, run]) == {}


def test_a_section_that_one_plan_lacks_is_named() -> None:
    text = PLAN_TEXT + "\n[personalisation]\nsteps = 5\nlearning_rate = 1e-3\n"
    runs = [Run(parse(plan), plan, results(), ()) for plan in (PLAN_TEXT, text)]
    found = plan_differences(runs)
    assert found["personalisation.steps"] == (None, 5)
    assert found["personalisation.learning_rate"] == (None, 1e-3)


def test_each_run_is_compared_with_the_first(comparison: Comparison) -> None:
    assert [(found.first, found.second) for found in comparison.contrasts] == [("short", "long"), ("short", "private")]


def test_the_same_cases_are_paired_and_the_gain_is_found(comparison: Comparison) -> None:
    found = comparison.contrasts[0]
    assert (found.method, found.reason) == ("paired", "")
    assert found.difference.n_patients == 52
    assert found.difference.low < 0.013 < found.difference.high
    assert found.difference.low > 0


def test_without_predictions_the_difference_is_unpaired_and_says_why(comparison: Comparison) -> None:
    found = comparison.contrasts[1]
    assert found.method == "unpaired"
    assert found.reason == "not both runs have predictions, and no cohort is known of chase, hrf"
    assert found.difference.value == 0
    assert found.difference.high == pytest.approx(math.hypot(0.019, 0.019))


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at least 2 runs, got 1"):
        compare([tmp_path])


def test_runs_of_different_tasks_are_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, replace(results(), headline=name)) for name in ("dice", "iou")]
    with pytest.raises(RunError, match="different headline metrics: dice, iou"):
        compare(folders)


def test_folders_of_the_same_name_are_numbered(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place / "run", results()) for place in "ab"]
    assert [entry.name for entry in compare(folders).entries] == ["run (1)", "run (2)"]


def test_runs_that_release_only_sums_can_be_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place, sums_only_results(), SUMS_ONLY, ()) for place in "ab"]
    (entry, _) = compare(folders).entries
    assert math.isnan(entry.macro)
    assert entry.worst_site == ""


# --- the unpaired interval


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_symmetric_intervals_combine_as_independent_errors_do(a: float, b: float, half_a: float, half_b: float) -> None:
    found = unpaired_difference(Measure(a, a - half_a, a + half_a), Measure(b, b - half_b, b + half_b))
    assert found.value == pytest.approx(b - a)
    assert found.high - found.value == pytest.approx(math.hypot(half_a, half_b), abs=1e-9)
    assert found.value - found.low == pytest.approx(math.hypot(half_a, half_b), abs=1e-9)


def test_lopsided_intervals_stay_lopsided() -> None:
    found = unpaired_difference(Measure(0.5, 0.5, 0.5), Measure(0.9, 0.6, 0.95))
    assert (found.low, found.high) == pytest.approx((0.1, 0.45))
    mirrored = unpaired_difference(Measure(0.9, 0.6, 0.95), Measure(0.5, 0.5, 0.5))
    assert (mirrored.low, mirrored.high) == pytest.approx((-0.45, -0.1))


def test_without_an_interval_the_difference_has_none() -> None:
    found = unpaired_difference(Measure(0.5), Measure(0.9, 0.8, 1.0))
    assert found.value == pytest.approx(0.4)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_unpaired_interval_covers_the_difference_of_two_proportions() -> None:
    """Wilson intervals in, as Newcombe's method 10 does, which MOVER generalises (Newcombe, 1998)."""
    rng, z, n, (p, q) = np.random.default_rng(0), 1.96, 80, (0.7, 0.85)

    def wilson(successes: int) -> Measure:
        share = successes / n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return Measure(share, middle - half, middle + half)

    pairs = [unpaired_difference(wilson(rng.binomial(n, p)), wilson(rng.binomial(n, q))) for _ in range(4000)]
    assert 0.94 <= np.mean([found.low <= q - p <= found.high for found in pairs]) <= 0.965
    assert np.mean([found.low <= q - p + 0.2 <= found.high for found in pairs]) < 0.2


# --- JSON


def test_the_comparison_as_json_holds_the_same_numbers_and_null_for_gaps(
    tmp_path: Path, comparison: Comparison
) -> None:
    document = json.loads(json.dumps(comparison_document(comparison), allow_nan=False))
    assert document["metric"] == "dice"
    assert document["runs"][1]["value"] == 0.791234
    assert document["runs"][1]["worst"] == {"site": "stare", "value": 0.738}
    assert document["plan_differences"]["training.steps"] == [20, 40, 20]
    first, second = document["differences"]
    assert (first["method"], first["n_patients"]) == ("paired", 52)
    assert first["value"] == comparison.contrasts[0].difference.value
    assert second["reason"].startswith("not both runs have predictions, and ")
    folders = [write_run(tmp_path / place, sums_only_results(), SUMS_ONLY, ()) for place in "ab"]
    bare = json.loads(json.dumps(comparison_document(compare(folders)), allow_nan=False))
    assert bare["runs"][0]["macro"] is None
    assert bare["runs"][0]["worst"] is None


def test_comparing_twice_gives_the_same_numbers(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place, results()) for place in "ab"]
    for seed, folder in enumerate(folders):
        write_dice(folder, 0.0, 0.05, seed)
    assert comparison_document(compare(folders)) == comparison_document(compare(folders))
    assert (folders[0] / PREDICTIONS).exists()


# --- terminal


def test_the_comparison_fits_80_columns_and_letters_the_runs(comparison: Comparison) -> None:
    text = shown(comparison_tables(comparison))
    assert max(map(len, text.splitlines())) <= 80
    assert "A  short" in text
    assert "training.steps" in text
    line = next(line for line in text.splitlines() if line.startswith("B - A"))
    found = comparison.contrasts[0].difference
    assert f"{found.value:+.3f}" in line
    assert f"{found.low:+.3f} to {found.high:+.3f}" in line
    assert "52 paired" in line
    assert "C - A treats the patients of the two runs as different ones" in text


def test_thirty_runs_have_thirty_letters(comparison: Comparison) -> None:
    entries = tuple(replace(comparison.entries[0], name=f"run {place}") for place in range(30))
    text = shown(comparison_tables(replace(comparison, entries=entries, plan_differences={}, contrasts=())))
    assert "Z   run 25" in text
    assert "AD  run 29" in text


def test_the_report_in_a_terminal_fits_80_columns_and_holds_the_headline_of_everything() -> None:
    text = shown(terminal_report(Run(parse(PLAN_TEXT), PLAN_TEXT, results(), ())))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("0.791", "0.772–0.810", "stare", "0.541", "After own-site steps", "no differential privacy"):  # noqa: RUF001
        assert part in text
    for site in SITES:
        assert f"{site} alone" in text


def test_the_report_of_sums_only_fits_too_and_leaves_sites_out() -> None:
    text = shown(terminal_report(Run(parse(SUMS_ONLY), SUMS_ONLY, sums_only_results(), ())))
    assert "Worst site" not in text
    assert "All sites together" in text


def test_long_names_are_folded_and_not_cut() -> None:
    name = "klinikum-rechts-der-isar-institut-fuer-diagnostische-und-interventionelle-radiologie"
    final = dict(results().final) | {"sites": {name: overlap(0.7, 0.05, 8)}}
    text = shown(terminal_report(Run(parse(PLAN_TEXT), PLAN_TEXT, replace(results(), final=final), ())))
    assert max(map(len, text.splitlines())) <= 80
    assert "radiologie" in text
    assert "0.700" in text


def test_words_of_a_run_are_never_markup() -> None:
    table = Table("[red]t[/red]", ("[b]c[/b]", "[i]x[/i]"), (("[bold]n[/bold]", (Cell("[link=x]v[/link]"),)),))
    text = shown(rich_table(table))
    for part in ("[red]t[/red]", "[b]c[/b]", "[i]x[/i]", "[bold]n[/bold]", "[link=x]v[/link]"):
        assert part in text
