"""The table of planted faults: every run is another one, is read as the command reads it, and says what was found."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from simulations.duplicates import CODE
from simulations.faults import KINDS
from simulations.scenario import load

ROOT = Path(__file__).parents[2]
SCENARIOS = ["demo", "breast", "retina"]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmarks are scripts that import each other by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("planted")


def check(site: str, code: str, adjusted: float) -> dict[str, Any]:
    return {"site": site, "code": code, "adjusted": adjusted}


def finding(site: str, code: str) -> dict[str, Any]:
    return {"site": site, "code": code, "statistic": None, "p": None, "sentence": ""}


def test_ten_runs_are_honest_and_every_fault_is_tried_three_times_where_it_can_be_planted(study: ModuleType) -> None:
    trials = list(study.trials(SCENARIOS))
    assert sum(not trial.kind for trial in trials) == 10
    counts = {
        (name, kind): sum((trial.scenario, trial.kind) == (name, kind) for trial in trials)
        for name in SCENARIOS
        for kind in KINDS
    }
    assert {count for count in counts.values() if count} == {3}
    assert {kind for (name, kind), count in counts.items() if count} == set(KINDS)
    assert counts["breast", "labels-flipped"] == counts["demo", "masks-shifted"] == counts["retina", CODE] == 3


def test_no_two_runs_share_a_seed(study: ModuleType) -> None:
    seeds = [trial.seed for trial in study.trials(SCENARIOS)]
    assert len(seeds) == len(set(seeds)) > 30


def test_every_run_is_one_that_the_command_would_read(study: ModuleType) -> None:
    for trial in study.trials(SCENARIOS):
        found = load(trial.scenario, trial.changes(), trial.seed)
        assert found.plan.plan.seed == trial.seed
        planted = found.setting.fault
        assert (planted.kind, planted.site) == (trial.kind, trial.site) if trial.kind else planted is None


def test_a_run_on_file_is_read_back_as_it_was_made(study: ModuleType, tmp_path: Path) -> None:
    trial = study.Trial("breast", 1, "one-class", "here")
    made = study.Made(trial, (finding("here", "one-class"),), (check("here", "one-class", 1e-9),))
    path = tmp_path / "planted.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(made)) + "\n")
    assert study.read(path) == [made]
    assert study.read(tmp_path / "none.jsonl") == []


def test_a_fault_counts_as_named_only_under_its_name_and_at_its_site(study: ModuleType) -> None:
    trial = study.Trial("retina", 1, "masks-shifted", "drive")

    def said(*found: dict[str, Any]) -> Any:
        return study.Made(trial, found, ())

    assert said(finding("drive", "masks-shifted")).named
    assert not said(finding("hrf", "masks-shifted")).named
    assert not said(finding("drive", "images-inverted")).named
    assert said(finding("drive", "images-inverted")).others == ["images-inverted at drive"]
    assert said(finding("drive", "masks-shifted")).others == []
    assert not said().named


def test_patients_at_two_sites_are_named_at_the_one_that_comes_first(study: ModuleType) -> None:
    """A pair of sites is one finding, under the name that sorts first."""
    made = study.Made(study.Trial("retina", 1, CODE, "drive"), (finding("chase_db1", CODE),), ())
    assert made.named
    assert made.others == []


def test_the_table_says_what_was_missed_and_what_was_a_false_alarm(study: ModuleType) -> None:
    shifted = study.Trial("retina", 1, "masks-shifted", "drive")
    runs = [
        study.Made(shifted, (), (check("drive", "masks-shifted", 0.25),)),
        study.Made(study.Trial("demo", 2), (finding("north", "images-inverted"),), (check("north", "a", 0.004),)),
        study.Made(study.Trial("demo", 3), (), (check("north", "a", 0.5),)),
    ]
    lines = study.table(runs).splitlines()
    assert lines[2] == "| retina | masks-shifted | drive | 1 | **no** | 0.25 | none |"
    assert lines[3].startswith("| demo | nothing, 2 runs |")
    assert "smallest 0.004" in lines[3]
    assert lines[3].endswith("| 1 alarms |")
    assert len({line.count("|") for line in lines}) == 1
