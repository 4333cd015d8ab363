"""Every site's own model at every site: the table is what measuring by hand gives, and what is missing has its code."""

import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_federation import SITES, MemoryFleet, Tamper, coordinate, tiny_data, tiny_plan

from client.training.inference import statistics
from client.workbench import Workbench
from server.crossing import Crossed, Models
from server.intake import judge
from server.round_values import Event, Phase, State
from server.run_setup import Outcome, Watch
from server.run_state import ModelFiles
from shared import checkpoint
from shared.messages import Cross, Measured, Refusal, Reply, Request, Shared
from shared.plan import Plan

OWN = {"personalisation__steps": 5, "personalisation__learning_rate": 0.01}
PLAN = tiny_plan(plan__rounds=1, evaluation__cross_site=True, **OWN)


def fleet(folder: Path, tamper: Tamper | None = None, plan: Plan = PLAN) -> MemoryFleet:
    """Sites that keep their models below ``folder``."""
    found = MemoryFleet(plan, tamper=tamper)
    found.sites = {name: dataclasses.replace(site, folder=folder / name) for name, site in found.sites.items()}
    return found


def block(outcome: Outcome) -> dict[str, object]:
    return outcome.crossed.block(Workbench.for_plan(PLAN).task)


def instead(site: str, kind: type, reply_with: Reply | None) -> Tamper:
    """One site's answers to one kind of request are replaced."""

    def tamper(name: str, request: Request, reply: Reply) -> Reply | None:
        return reply_with if name == site and isinstance(request, kind) else reply

    return tamper


# --- the table -------------------------------------------------------------------------------------------------------


def test_each_cell_is_the_kept_model_of_one_site_measured_on_the_patients_of_another(tmp_path: Path) -> None:
    """Oracle: the files that sites kept, measured with the plain evaluation, without requests and sums."""
    outcome = coordinate(PLAN, fleet(tmp_path), tmp_path / "run")
    bench = Workbench.for_plan(PLAN)
    assert set(outcome.crossed.measured) == set(SITES)
    for model in SITES:
        (path,) = (tmp_path / model / "personal").iterdir()
        tensors = checkpoint.load(path).tensors
        weights = np.concatenate([tensors[name].ravel() for name in bench.parameters.names]).astype(np.float32)
        for site in SITES:
            by_hand = statistics(bench.load(weights), tiny_data(site).test, bench.task, PLAN, bench.device)
            np.testing.assert_array_equal(outcome.crossed.measured[model][site].flat(), by_hand.flat())


def test_the_diagonal_is_what_personalising_measured_and_the_rest_is_not(tmp_path: Path) -> None:
    outcome = coordinate(PLAN, fleet(tmp_path), tmp_path / "run")
    assert outcome.personalised is not None
    for site, own in outcome.personalised.sites.items():
        np.testing.assert_array_equal(outcome.crossed.measured[site][site].flat(), own.flat())
        assert any((outcome.crossed.measured[other][site].flat() != own.flat()).any() for other in SITES)


def test_results_have_the_form_that_a_simulation_s_have_and_say_which_models_they_are(tmp_path: Path) -> None:
    found = block(coordinate(PLAN, fleet(tmp_path), tmp_path / "run"))
    assert set(found) == {"cross_site", "cross_site_models", "cross_site_missing"}
    assert (found["cross_site_models"], found["cross_site_missing"]) == ("personalised", {})
    matrix = found["cross_site"]
    assert isinstance(matrix, dict)
    assert list(matrix) == list(SITES)
    for row in matrix.values():
        assert list(row) == list(SITES)
        assert all(
            0 <= cell["auroc"]["low"] <= cell["auroc"]["value"] <= cell["auroc"]["high"] <= 1 for cell in row.values()
        )


def test_a_plan_that_does_not_ask_has_no_table_and_asks_nobody(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1, **OWN)
    asked = fleet(tmp_path, plan=plan)
    outcome = coordinate(plan, asked, tmp_path / "run")
    assert block(outcome) == {}
    assert not {"Share", "Cross"} & {kind for _, kind, _ in asked.asked}


def test_a_model_is_on_the_disk_by_its_digest_before_it_is_sent_on(tmp_path: Path) -> None:
    there: list[bool] = []
    bench = Workbench.for_plan(PLAN)
    files = ModelFiles(tmp_path / "run", bench.parameters, PLAN.digest())

    def look(_site: str, request: Request, reply: Reply) -> Reply:
        if isinstance(request, Cross):
            kept = [files.load(path.stem) for path in (tmp_path / "run" / "checkpoints").iterdir()]
            there.append(any(np.array_equal(one, request.weights) for one in kept))
        return reply

    outcome = coordinate(PLAN, fleet(tmp_path, look), tmp_path / "run")
    assert there == [True] * 9
    assert set(outcome.crossed.models) == set(SITES)
    for site, digest in outcome.crossed.models.items():
        path = checkpoint.path_of(tmp_path / "run" / "checkpoints", digest)
        assert checkpoint.load(path).metadata == {"plan": PLAN.digest(), "site": site}


# --- what is missing -------------------------------------------------------------------------------------------------


def test_a_site_that_does_not_share_leaves_an_empty_row_with_its_code_and_measures_the_others(tmp_path: Path) -> None:
    sites = fleet(tmp_path)
    sites.sites["bergen"] = dataclasses.replace(sites.sites["bergen"], folder=None)
    found = block(coordinate(PLAN, sites, tmp_path / "run"))
    matrix = found["cross_site"]
    assert isinstance(matrix, dict)
    assert {model: list(row) for model, row in matrix.items()} == {
        "aachen": list(SITES),
        "bergen": [],
        "coimbra": list(SITES),
    }
    assert found["cross_site_missing"] == {"bergen": dict.fromkeys(SITES, "not-kept")}


def test_a_site_that_does_not_measure_leaves_a_cell_of_each_row_with_its_code(tmp_path: Path) -> None:
    found = block(coordinate(PLAN, fleet(tmp_path, instead("coimbra", Cross, None)), tmp_path / "run"))
    matrix = found["cross_site"]
    assert isinstance(matrix, dict)
    assert {model: list(row) for model, row in matrix.items()} == {model: ["aachen", "bergen"] for model in SITES}
    assert found["cross_site_missing"] == {model: {"coimbra": "no-answer"} for model in SITES}


def length() -> int:
    return Workbench.for_plan(PLAN).parameters.length


def schema() -> str:
    return Workbench.for_plan(PLAN).parameters.digest()


BAD: dict[str, tuple[Callable[[], Reply], str]] = {
    "one number short": (lambda: Shared(np.zeros(length() - 1, np.float32), schema()), "model-schema"),
    "another network's": (lambda: Shared(np.zeros(length(), np.float32), "0" * 64), "model-schema"),
    "with a NaN": (lambda: Shared(np.full(length(), np.nan, np.float32), schema()), "model-not-finite"),
    "infinite": (lambda: Shared(np.full(length(), -np.inf, np.float32), schema()), "model-not-finite"),
    "statistics": (lambda: Measured(np.zeros(3, np.int64), schema()), "kind"),
    "a refusal": (lambda: Refusal("not-kept", "there is none"), "not-kept"),
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_a_bad_model_does_not_count_is_not_kept_and_goes_to_nobody(tmp_path: Path, what: str) -> None:
    make, code = BAD[what]
    (tmp_path / "checkpoints").mkdir()
    models = Models(ModelFiles(tmp_path, Workbench.for_plan(PLAN).parameters, PLAN.digest()))
    assert judge(models, "bergen", make())[0] == code
    models.put_away()
    assert (models.digests, list((tmp_path / "checkpoints").iterdir())) == ({}, [])
    assert judge(models, "bergen", Shared(np.zeros(length(), np.float32), schema())) == ("", "")  # the control
    models.put_away()
    assert list(models.digests) == ["bergen"]


def test_where_no_model_was_shared_every_cell_has_its_code() -> None:
    crossed = Crossed()
    no_files = ModelFiles(Path("/nowhere"), Workbench.for_plan(PLAN).parameters, PLAN.digest())
    crossed.shared(Models(no_files), frozenset(SITES), dict.fromkeys(SITES, "no-answer"))
    found = crossed.block(Workbench.for_plan(PLAN).task)
    assert found["cross_site"] == {site: {} for site in SITES}
    assert found["cross_site_missing"] == {site: dict.fromkeys(SITES, "no-answer") for site in SITES}


# --- a coordinator that was killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.PERSONALISING, Phase.SHARING, Phase.CROSSING], ids=lambda one: one.value)
def test_a_coordinator_killed_on_the_way_comes_to_the_same_table(tmp_path: Path, phase: Phase) -> None:
    seen: list[State] = []

    def die(state: State, _event: Event) -> None:
        seen.extend([state] if state.phase is phase else [])
        if len(seen) == 2:
            raise KeyboardInterrupt

    sites = fleet(tmp_path / "sites")
    with pytest.raises(KeyboardInterrupt):
        coordinate(PLAN, sites, tmp_path / "run", Watch(event=die))
    resumed = coordinate(PLAN, sites, tmp_path / "run")
    whole = coordinate(PLAN, fleet(tmp_path / "other"), tmp_path / "whole")
    assert block(resumed) == block(whole)
    for model, row in whole.crossed.measured.items():
        for site, cell in row.items():
            np.testing.assert_array_equal(resumed.crossed.measured[model][site].flat(), cell.flat())


def test_the_journal_has_a_line_for_each_cell(tmp_path: Path) -> None:
    coordinate(PLAN, fleet(tmp_path), tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as connection:
        rows = connection.execute("select phase, site, kind from events where phase in ('sharing', 'crossing')")
        found = rows.fetchall()
    assert found == [
        *(("sharing", site, "answered") for site in SITES),
        *(("crossing", site, "answered") for _ in SITES for site in SITES),
    ]
