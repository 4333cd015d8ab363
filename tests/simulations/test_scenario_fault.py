"""``scenario.fault``: what a scenario plants goes the way of a real fault, into a copy that the run folder keeps."""

from pathlib import Path
from typing import Any

import pytest
from picture_hospitals import read_rows, write_hospitals, write_rows
from small_hospitals import contents, scenario

from shared.errors import ScenarioError
from simulations.faults import Columns, Fault, plant
from simulations.federation import PLANTED, find_hospitals
from simulations.progress import Silent
from simulations.scenario import load
from simulations.workers import Pool, Sites

SMALL = {"aachen": 4, "bergen": 4}
FLIPPED: dict[str, Any] = {"kind": "labels-flipped", "site": "bergen"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hospitals(tmp_path / "honest", SMALL)


def labels(folder: Path, out: Path, data: Path, **changes: Any) -> dict[str, list[str | None]]:
    """Labels that each site has on disk after ``find_hospitals``."""
    found = scenario(folder, scenario__source={"kind": "manifest"}, **changes)
    with Pool(Sites(found.plan, out), 1) as pool:
        hospitals = find_hospitals(found, data, out, pool, Silent())
    return {one.name: [case.label for case in one.found.cases] for one in hospitals}


def test_a_fault_may_be_set_from_the_command_line() -> None:
    said = 'scenario.fault={kind="masks-shifted", site="drive", by=8}'
    assert load("retina", (said,)).setting.fault == Fault("masks-shifted", "drive", by=8)
    assert load("retina").setting.fault is None


@pytest.mark.parametrize(
    "said", ['{kind="labels-lost", site="drive"}', '{kind="masks-shifted"}', '{kind="masks-shifted", site="a", of=3}']
)
def test_a_fault_that_is_none_is_refused_with_a_sentence(said: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load("retina", (f"scenario.fault={said}",))
    assert refused.value.hint


def test_the_sites_read_the_damaged_copy_and_the_source_stays(folder: Path, tmp_path: Path) -> None:
    before, out = contents(folder), tmp_path / "run"
    out.mkdir()
    honest = labels(tmp_path, tmp_path / "none", folder)
    damaged = labels(tmp_path, out, folder, scenario__fault=FLIPPED)
    assert damaged["aachen"] == honest["aachen"]
    assert damaged["bergen"] == [{"bright": "dark", "dark": "bright"}[of or ""] for of in honest["bergen"]]
    assert contents(folder) == before
    again = plant(folder, tmp_path / "again", Fault("labels-flipped", "bergen"))
    assert contents(out / PLANTED) == contents(again)


def test_a_run_that_goes_on_reads_the_copy_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    first = labels(tmp_path, out, folder, scenario__fault=FLIPPED)
    kept = contents(out / PLANTED)
    assert labels(tmp_path, out, folder, scenario__fault=FLIPPED) == first
    assert contents(out / PLANTED) == kept


def test_a_copy_that_was_cut_short_is_made_anew(folder: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "run" / f".{PLANTED}-unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "half").write_text("of it")
    labels(tmp_path, tmp_path / "run", folder, scenario__fault=FLIPPED)
    assert not unfinished.exists()
    assert "half" not in contents(tmp_path / "run" / PLANTED)


# --- manifests that name patients otherwise --------------------------------------------------------------------------


def test_labels_that_a_scenario_drops_are_no_class_to_move_on_to(folder: Path, tmp_path: Path) -> None:
    rows = read_rows(folder)
    rows[0]["label"] = "unclear"
    write_rows(folder, rows)
    out = plant(folder, tmp_path / "out", Fault("labels-flipped", rows[0]["site"]), Columns(drop_labels=("unclear",)))
    after = read_rows(out)
    assert after[0]["label"] == "unclear"
    assert {row["label"] for row in after if row["site"] == rows[0]["site"]} == {"unclear", "bright", "dark"}
    assert [row["label"] for row in after[1:3]] == [
        {"bright": "dark", "dark": "bright"}[row["label"]] for row in rows[1:3]
    ]


def test_images_without_a_patient_are_patients_each(folder: Path, tmp_path: Path) -> None:
    rows = [row | {"patient": ""} if row["site"] == "bergen" else row for row in read_rows(folder)]
    write_rows(folder, rows)
    alone = read_rows(plant(folder, tmp_path / "one", Fault("one-class", "bergen")))
    kept = [row for row in alone if row["site"] == "bergen"]
    assert kept == [row for row in rows if row["site"] == "bergen" and row["label"] == "bright"]
    fault = Fault("patients-at-two-sites", "aachen", other="bergen", patients=2)
    twice = read_rows(plant(folder, tmp_path / "two", fault))
    assert len(twice) == len(rows) + 2
    assert [row["patient"] for row in twice[len(rows) :]] == ["", ""]


def test_patients_named_by_two_columns_are_counted_and_renamed_by_them(folder: Path, tmp_path: Path) -> None:
    rows = [row | {"sex": f"group{index % 2}", "patient": "1"} for index, row in enumerate(read_rows(folder))]
    write_rows(folder, rows)
    fault = Fault("patients-at-two-sites", "bergen", other="aachen", patients=1)
    added = read_rows(plant(folder, tmp_path / "out", fault, Columns(("sex", "patient"))))[len(rows) :]
    there = [row for row in rows if row["site"] == "aachen" and row["sex"] == "group0"]
    assert len(added) == len(there)
    assert {(row["sex"], row["patient"]) for row in added} == {("again-group0", "again-1")}
