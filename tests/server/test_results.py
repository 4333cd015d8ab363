"""The files of a run: the same bytes for the same run, whole or not at all; small counts and gaps are not told as 0."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import SITES, attendance, records, results

from server.results import (
    PREDICTIONS,
    RESULTS,
    ROUNDS,
    Noted,
    Participation,
    Prediction,
    RoundRecord,
    SiteData,
    append_round,
    json_ready,
    keep_rounds,
    read_predictions,
    read_results,
    read_rounds,
    results_document,
    suppress,
    write_predictions,
    write_results,
)
from shared.errors import RunError

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=12)


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    return found


def test_results_json_holds_every_key_of_the_contract(tmp_path: Path) -> None:
    write_results(tmp_path, results())
    found = document(tmp_path)
    assert found["final"]["pooled"]["dice"] == {
        "value": 0.791234,
        "low": 0.791234 - 0.019,
        "high": 0.791234 + 0.019,
        "n_patients": 52,
    }
    assert found["final"]["worst"]["dice"] == {"site": "stare", "value": 0.738}
    assert found["final"]["macro"]["dice"] == pytest.approx((0.782 + 0.811 + 0.796 + 0.738) / 4)
    assert found["baselines"]["local"]["drive"]["dice"]["value"] == 0.697
    assert found["participation"][11] == {
        "round": 12,
        "participants": ["chase", "drive", "hrf"],
        "missing": {"stare": "deadline"},
    }
    assert found["timing"] == {"total_s": 252.4, "local_training_s": 240.1, "overhead_ratio": 1.051}
    assert {"plan_digest", "seed", "versions", "privacy", "data", "personalised", "checkpoint"} <= found.keys()


def test_the_documentation_names_every_key_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    section = text.split("## results.json")[1].split("A **block**")[0]
    documented = {line.split("`")[1].split(".")[0] for line in section.splitlines() if line.startswith("| `")}
    assert documented == set(results_document(results()))


def test_what_was_written_reads_back_as_the_same_results(tmp_path: Path) -> None:
    told = replace(results(), data={"drive": SiteData(40, 40, {"mask-shape": 3})})
    write_results(tmp_path, told)
    assert read_results(tmp_path) == told


def test_writing_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    write_results(tmp_path, results())
    first = (tmp_path / RESULTS).read_bytes()
    write_results(tmp_path, read_results(tmp_path))
    assert (tmp_path / RESULTS).read_bytes() == first


def test_the_order_in_which_sites_answered_changes_no_byte(tmp_path: Path) -> None:
    backwards = tuple(Participation(e.round, e.participants[::-1], e.missing) for e in attendance())
    other = replace(
        results(),
        privacy=dict(reversed(list(results().privacy.items()))),
        data=dict(reversed(list(results().data.items()))),
        participation=backwards,
    )
    for name, found in (("a", results()), ("b", other)):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, found)
    assert (tmp_path / "a" / RESULTS).read_bytes() == (tmp_path / "b" / RESULTS).read_bytes()


def test_optional_parts_that_were_not_run_have_no_key() -> None:
    bare = results_document(replace(results(), personalised=None, baselines={}))
    assert not {"personalised", "baselines"} & bare.keys()


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, "<3"), (2, "<3"), (3, 3), (40, 40), ("<3", "<3")])
def test_only_counts_of_one_and_two_are_suppressed_and_zero_stays_zero(count: int | str, shown: int | str) -> None:
    assert suppress(count) == shown


def test_small_cells_cannot_reach_the_file(tmp_path: Path) -> None:
    write_results(tmp_path, replace(results(), data={"tiny": SiteData(2, 4, {"mask-shape": 1, "image-spacing": 5})}))
    quarantined = {"mask-shape": "<3", "image-spacing": 5}
    assert document(tmp_path)["data"] == {"tiny": {"patients": "<3", "cases": 4, "quarantined": quarantined}}


def test_a_doctors_small_counts_cannot_reach_the_file_and_what_is_about_all_images_stays_zero(tmp_path: Path) -> None:
    noted = {"mask-empty": Noted("error", 2), "label-spelling": Noted("warning", 0), "ct-range": Noted("warning", 3)}
    write_results(tmp_path, replace(results(), data={"tiny": SiteData(5, 9, {}, "c" * 64, noted)}))
    found = document(tmp_path)["data"]["tiny"]
    assert found["cohort"] == "c" * 64
    assert found["doctor"] == {
        "mask-empty": {"severity": "error", "cases": "<3"},
        "label-spelling": {"severity": "warning", "cases": 0},
        "ct-range": {"severity": "warning", "cases": 3},
    }
    assert read_results(tmp_path).data["tiny"].doctor["ct-range"] == Noted("warning", 3)


def test_where_no_cohort_is_known_there_is_no_key_for_it() -> None:
    assert results_document(replace(results(), data={"a": SiteData(5, 9)}))["data"]["a"].keys() == {
        "patients", "cases", "quarantined"
    }  # fmt: skip


def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    final = {"pooled": {"dice": {"value": math.nan, "low": -math.inf, "high": math.inf, "n_patients": 0}}}
    write_results(tmp_path, replace(results(), final=final))
    empty = {"value": None, "low": None, "high": None, "n_patients": 0}
    assert document(tmp_path)["final"]["pooled"]["dice"] == empty
    assert "NaN" not in (tmp_path / RESULTS).read_text()


@given(TREES)
def test_whatever_comes_in_strict_json_comes_out(tree: Any) -> None:
    text = json.dumps(json_ready(tree), allow_nan=False)
    assert json.loads(text) == json_ready(tree)


@given(TREES)
def test_making_values_ready_twice_changes_nothing(tree: Any) -> None:
    assert json_ready(json_ready(tree)) == json_ready(tree)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "not in the format"),
        ('{"format": "consilium-results-2"}', "not in the format"),
        ('{"format": "consilium-results-1", "run": "x"}', "lacks keys or has unknown ones"),
    ],
)
def test_a_file_that_is_no_results_file_is_refused_with_the_reason(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / RESULTS).write_text(content)
    with pytest.raises(RunError, match=sentence) as caught:
        read_results(tmp_path)
    assert caught.value.hint
    assert str(tmp_path) not in caught.value.sentence


def test_an_unknown_key_is_refused_rather_than_dropped(tmp_path: Path) -> None:
    write_results(tmp_path, results())
    (tmp_path / RESULTS).write_text(json.dumps(document(tmp_path) | {"surprise": 1}))
    with pytest.raises(RunError, match="unknown"):
        read_results(tmp_path)


def test_rounds_read_back_as_they_were_appended(tmp_path: Path) -> None:
    written = records(dict.fromkeys(SITES, 0.0))
    for record in written:
        append_round(tmp_path / ROUNDS, record)
    assert read_rounds(tmp_path / ROUNDS) == tuple(written)
    assert len((tmp_path / ROUNDS).read_text().splitlines()) == 40


def test_only_timing_tells_two_runs_of_the_same_plan_apart(tmp_path: Path) -> None:
    record = records({})[0]
    append_round(tmp_path / "a", record)
    append_round(tmp_path / "b", replace(record, seconds=99.0))
    first, second = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert first.pop("timing") == {"seconds": 6.1}
    assert second.pop("timing") == {"seconds": 99.0}
    assert first == second


def test_a_run_without_rounds_has_none(tmp_path: Path) -> None:
    assert read_rounds(tmp_path / ROUNDS) == ()
    keep_rounds(tmp_path / ROUNDS, 3)
    assert not (tmp_path / ROUNDS).exists()


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_that_a_crash_cut_short_is_not_a_round(tmp_path: Path, cut: int) -> None:
    path = tmp_path / ROUNDS
    for record in records({})[:3]:
        append_round(path, record)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [record.participation.round for record in read_rounds(path)] == [1, 2]


@pytest.mark.parametrize("torn", [b"", b'{"round": 4, "lo'])
def test_resuming_continues_to_the_same_bytes_as_an_uninterrupted_run(tmp_path: Path, torn: bytes) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    written = records({})[:5]
    for record in written:
        append_round(whole, record)
    for record in written[:3]:
        append_round(resumed, record)
    resumed.write_bytes(resumed.read_bytes() + torn)
    keep_rounds(resumed, 2)
    for record in written[2:]:
        append_round(resumed, record)
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_line_in_the_middle_that_is_no_round_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ROUNDS).write_text('{"round": 1}\n')
    with pytest.raises(RunError, match="no round"):
        read_rounds(tmp_path / ROUNDS)


def test_a_site_name_with_a_unicode_line_separator_does_not_split_a_round(tmp_path: Path) -> None:
    record = RoundRecord(Participation(1, ("a\u2028b",), {}), math.nan, "0" * 64)
    append_round(tmp_path / ROUNDS, record)
    (found,) = read_rounds(tmp_path / ROUNDS)
    assert found.participation.participants == ("a\u2028b",)
    assert found.loss is None


def test_predictions_are_sorted_and_keep_the_order_of_columns(tmp_path: Path) -> None:
    path = tmp_path / PREDICTIONS
    rows = [
        Prediction("b", "p1", "c1", {"label": 1, "score": 0.25}, {"sex": "f", "vendor": "A, Inc."}),
        Prediction("a", "p2", "c2", {"label": 0, "score": 0.1}, {"sex": "m", "vendor": "B"}),
        Prediction("a", "p2", "c1", {"label": 0, "score": 1 / 3}, {"sex": "m", "vendor": "B"}),
    ]
    write_predictions(path, rows)
    assert path.read_bytes().decode() == (
        "site,patient,case,label,score,sex,vendor\n"
        "a,p2,c1,0,0.3333333333333333,m,B\n"
        "a,p2,c2,0,0.1,m,B\n"
        'b,p1,c1,1,0.25,f,"A, Inc."\n'
    )


def test_the_order_of_rows_changes_no_byte(tmp_path: Path) -> None:
    rows = [Prediction(site, "p", "c", {"dice": 0.5}) for site in SITES]
    write_predictions(tmp_path / "a", rows)
    write_predictions(tmp_path / "b", rows[::-1])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_undetermined_score_and_a_column_that_a_row_lacks_are_empty_cells(tmp_path: Path) -> None:
    rows = [Prediction("a", "p", "1", {"dice": math.nan}), Prediction("a", "p", "2", {"dice": 0.5}, {"sex": "f"})]
    write_predictions(tmp_path / PREDICTIONS, rows)
    assert [list(row.values()) for row in read_predictions(tmp_path / PREDICTIONS)] == [
        ["a", "p", "1", "", ""],
        ["a", "p", "2", "0.5", "f"],
    ]


# Python 3.11 neither writes NUL nor quotes a lone carriage return.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)


@settings(max_examples=25)  # each writes two fsynced files
@given(st.lists(NAMES, min_size=1, unique=True))
def test_any_name_survives_the_file(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("predictions") / PREDICTIONS
    write_predictions(path, [Prediction(name, "p", "c", {"dice": 0.5}) for name in names])
    with path.open(encoding="utf-8", newline="") as file:
        assert {row["site"] for row in csv.DictReader(file)} == set(names)


@pytest.mark.parametrize("name", ["site", "case", "dice"])
def test_a_subgroup_that_would_hide_a_column_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match=name):
        write_predictions(tmp_path / PREDICTIONS, [Prediction("a", "p", "c", {"dice": 0.5}, {name: "x"})])
    assert not (tmp_path / PREDICTIONS).exists()


def test_no_file_of_predictions_is_no_rows(tmp_path: Path) -> None:
    assert read_predictions(tmp_path / PREDICTIONS) == []
