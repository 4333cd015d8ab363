"""What people read where sites share the noise: in results, report, trackers, on the lead's page, at a terminal."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import report_runs as runs
from dp_accounting.pld import PLDAccountant
from pypdf import PdfReader
from sharing import TEXT, shared_results
from small_server import lead
from watched import ROOMY, Watched, disk_of, private_plan, watched

from server.dashboard.look import look
from server.dashboard.page import content, renderer
from server.dashboard.spending import assumed
from server.deployed import coordinate
from server.report import tables, words
from server.report.document import document
from server.report.facts import facts
from server.report.page import render
from server.report.run import Run, read_run
from server.results import RESULTS, Results, read_results
from server.shared_noise import assumption, colluding, promised, told
from server.tracking import tracked
from shared.errors import PlanError
from shared.plan import parse
from shared.privacy.events import Event
from shared.privacy.shared_noise import Share
from shared.privacy.terms import terms_for

ASSUMED = (
    "Sites share the noise: the promise holds for sums of at least 3 sites, as long as at most 1 of the other sites "
    "tells the coordinator what it added."
)
COLUMN = "ε, if all others collude"


def independent(event: Event) -> float:
    """Epsilon at 1e-4, by an accountant that is not ours."""
    accountant = PLDAccountant()
    step = dp_accounting.PoissonSampledDpEvent(
        event.sampling_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
    )
    return float(accountant.compose(step, event.steps).get_epsilon(1e-4))


def run_of(found: Results | None = None, text: str = TEXT) -> Run:
    return Run(parse(text), text, found or shared_results(), ())


def written(folder: Path, found: Results | None = None) -> Path:
    return runs.write_run(folder / "run", found or shared_results(), TEXT, ())


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "few", "tail"),
    [
        (
            Share(3, 0),
            "none of the other sites colludes",
            "none of the other sites tells the coordinator what it added.",
        ),
        (
            Share(3, 1),
            "at most 1 of the other sites colludes",
            "1 of the other sites tells the coordinator what it added.",
        ),
        (
            Share(7, 2),
            "at most 2 of the other sites collude",
            "2 of the other sites tell the coordinator what they added.",
        ),
    ],
    ids=["nobody", "one", "two"],
)
def test_an_assumption_is_a_sentence_with_its_two_numbers(share: Share, few: str, tail: str) -> None:
    said = assumption(share)
    assert colluding(share) == few
    assert said.endswith(tail)
    assert f"sums of at least {share.least} sites" in said


# --- results.json ----------------------------------------------------------------------------------------------------


def test_a_site_tells_whose_noise_its_promise_counts_on_and_what_is_left_of_it() -> None:
    terms = terms_for(parse(TEXT), "chase")
    (event,) = terms.all_events()
    said = told(terms, [[event]], 1e-4)["shared"]
    assert {name: said[name] for name in ("least", "colluding", "honest")} == {"least": 3, "colluding": 1, "honest": 2}
    assert said["sigma_alone"] == pytest.approx(terms.noise_multiplier / math.sqrt(2))
    oracle = independent(replace(event, noise_multiplier=said["sigma_alone"], alone=0.0))
    assert said["epsilon_alone"] == pytest.approx(oracle, rel=0.01)
    # Control: with the whole noise the same accountant says what was promised.
    assert independent(event) == pytest.approx(8.0, rel=0.01) != pytest.approx(said["epsilon_alone"], rel=0.5)


def test_of_patients_who_paid_differently_those_who_paid_most_are_told() -> None:
    terms = terms_for(parse(TEXT), "chase")
    few, many = [terms.round_event()] * 2, [terms.round_event()] * 30
    most = told(terms, [many], 1e-4)["shared"]["epsilon_alone"]
    assert told(terms, [few, many, few], 1e-4)["shared"]["epsilon_alone"] == most
    assert told(terms, [few], 1e-4)["shared"]["epsilon_alone"] < most
    assert told(terms, [], 1e-4)["shared"]["epsilon_alone"] == 0.0


def test_what_was_paid_before_with_noise_of_one_s_own_is_no_better_hidden_and_no_worse() -> None:
    terms = terms_for(parse(TEXT), "chase")
    own = Event(5.0, 1.0, 1)
    said = told(terms, [[own]], 1e-4)["shared"]["epsilon_alone"]
    assert said == pytest.approx(independent(own), rel=0.01)


def test_a_site_that_adds_all_of_its_noise_has_no_such_key() -> None:
    terms = terms_for(parse(runs.PRIVATE), "chase")
    assert told(terms, [list(terms.all_events())], 1e-4) == {}
    assert "shared" not in coordinate._spent(parse(runs.PRIVATE), "chase", 3)
    assert "shared" not in coordinate._spent(parse(runs.PLAN_TEXT), "chase", 3)


def test_a_coordinator_of_real_sites_tells_both_after_any_number_of_rounds() -> None:
    plan = parse(TEXT)
    found = [coordinate._spent(plan, "drive", rounds) for rounds in (0, 1, 40)]
    kept = [said["epsilon"] for said in found]
    alone = [said["shared"]["epsilon_alone"] for said in found]
    assert (kept[0], alone[0]) == (0.0, 0.0)
    assert kept[0] < kept[1] < kept[2] <= 8.0
    assert all(one > other for one, other in zip(alone[1:], kept[1:], strict=True))
    event = Event(found[2]["shared"]["sigma_alone"], found[2]["q"], 40)
    assert alone[2] == pytest.approx(independent(event), rel=0.01)


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert read_results(folder).privacy == shared_results().privacy
    assert json.loads((folder / RESULTS).read_text())["privacy"]["hrf"]["shared"]["epsilon_alone"] == 15.5


# --- report ----------------------------------------------------------------------------------------------------------


def test_the_report_states_assumption_and_both_epsilons_in_one_place() -> None:
    first = words.privacy(run_of())[0]
    assert ASSUMED in first
    assert "A patient has then paid at most ε = 7.75, and ε = 16.5 if all other sites collude." in first
    assert first.endswith("The table shows what was spent.")


@pytest.mark.parametrize("entry", [{}, {"epsilon": None}], ids=["nothing known", "undetermined"])
def test_without_numbers_the_assumption_is_stated_all_the_same(entry: dict[str, Any]) -> None:
    privacy = {"chase": {**shared_results().privacy["chase"], **entry}} if entry else {}
    first = words.privacy(run_of(replace(shared_results(), privacy=privacy)))[0]
    assert ASSUMED in first
    assert "If all other sites collude, less of it is left." in first
    assert "None" not in first


@pytest.mark.parametrize("text", [runs.PRIVATE, runs.PLAN_TEXT], ids=["own noise", "no noise"])
def test_a_run_whose_sites_share_nothing_says_nothing_of_it(text: str) -> None:
    found = runs.private_results() if text == runs.PRIVATE else runs.results()
    page = render(run_of(found, text))
    assert "collude" not in page
    assert "share the noise" not in page


def test_the_table_has_a_column_for_the_case_that_all_others_collude() -> None:
    table = tables.privacy_table(run_of())
    assert table is not None
    assert table.columns == ("Site", "ε", COLUMN, "δ", "Noise multiplier", "Sampling rate q", "Steps")
    assert {site: (cells[0].value, cells[1].value) for site, cells in table.rows} == {
        "chase": (7.75, 16.5),
        "drive": (7.5, 16.0),
        "hrf": (7.25, 15.5),
        "stare": (7.0, 15.0),
    }
    own = tables.privacy_table(run_of(runs.private_results(), runs.PRIVATE))
    assert own is not None
    assert COLUMN not in own.columns


def test_a_site_that_told_no_such_number_has_an_empty_cell() -> None:
    privacy = dict(shared_results().privacy)
    privacy["hrf"] = {name: value for name, value in privacy["hrf"].items() if name != "shared"}
    table = tables.privacy_table(run_of(replace(shared_results(), privacy=privacy)))
    assert table is not None
    found = {site: cells[1] for site, cells in table.rows}
    assert (found["hrf"].value, found["chase"].value) == (None, 16.5)
    assert found["hrf"].text != "None"


def test_the_number_on_top_of_the_page_carries_its_assumption() -> None:
    told_first = {term: (value, detail) for term, value, detail in facts(run_of())}
    assert told_first["Privacy"] == ("ε = 8", "δ = 0.0001, per patient, if at most 1 of the other sites colludes")
    own = {term: detail for term, _, detail in facts(run_of(runs.private_results(), runs.PRIVATE))}
    assert own["Privacy"] == "δ = 0.0001, per patient"


def test_page_and_paper_say_the_same(tmp_path: Path) -> None:
    run = read_run(written(tmp_path))
    page = render(run)
    paper = " ".join(" ".join(one.extract_text() for one in PdfReader(io.BytesIO(document(run))).pages).split())
    for sentence in (ASSUMED, "ε = 16.5 if all other sites collude"):
        assert sentence in page
        assert sentence in paper


# --- trackers, the lead's page, the terminal -------------------------------------------------------------------------


def test_trackers_are_told_what_is_left_if_all_others_collude(tmp_path: Path) -> None:
    found = {point.name: point.value for point in tracked(written(tmp_path)).final}
    assert found["privacy/chase/epsilon"] == 7.75
    assert found["privacy/chase/epsilon_alone"] == 16.5
    assert {name.rpartition("/")[2] for name in found if name.startswith("privacy/")} == {
        *("epsilon", "delta", "sigma", "q", "steps", "epsilon_alone")
    }


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    disk_of(monkeypatch, ROOMY)
    return watched(tmp_path)


def privacy_of(seen: Watched) -> str:
    made, _ = renderer()
    return str(dict(made(look(seen.folder, seen.nodes, seen.clock())))["privacy"])


def test_the_lead_s_page_states_the_assumption_above_the_bars(seen: Watched) -> None:
    seen.trained(seen.begin(parse(TEXT)), 2)
    page = privacy_of(seen)
    assert page.count('class="bar"') == 3
    assert page.index(ASSUMED) < page.index('class="bar"')
    assert content(look(seen.folder, seen.nodes, seen.clock()))["assumed"] == ASSUMED


def test_the_lead_s_page_assumes_nothing_of_sites_that_hide_their_patients_themselves(seen: Watched) -> None:
    seen.trained(seen.begin(private_plan()), 2)
    run = look(seen.folder, seen.nodes, seen.clock()).run
    assert run is not None
    assert assumed(run) == ""
    assert "collude" not in privacy_of(seen)
    assert "share the noise" not in privacy_of(seen)


def test_before_a_run_is_ordered_the_worst_site_s_epsilon_is_told() -> None:
    many, few = "public_patients = { chase = 200, drive = 40, hrf = 90 }", 40
    plan = parse(TEXT.replace("public_patients = 50", many))
    first, second = promised(plan)
    terms = terms_for(plan, "drive")
    worst = independent(Event(terms.alone, plan.training.patients_per_step / few, 40))
    assert first == ASSUMED
    assert float(second.partition("and epsilon ")[2].split()[0]) == pytest.approx(worst, rel=0.01)
    assert second.startswith("A patient then pays at most epsilon 8 at delta 0.0001, and epsilon ")
    assert list(promised(parse(runs.PRIVATE))) == list(promised(parse(runs.PLAN_TEXT))) == []


def test_check_states_the_assumption_and_prints_the_digest_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text(TEXT)
    (tmp_path / "own.toml").write_text(runs.PRIVATE)
    shared, own = (lead(capsys, "check", tmp_path / name) for name in ("plan.toml", "own.toml"))
    assert (shared.status, shared.out) == (0, parse(TEXT).digest() + "\n")
    assert ASSUMED in shared.err
    assert "if all other sites collude" in shared.err
    assert (own.status, own.out, own.err) == (0, parse(runs.PRIVATE).digest() + "\n", "")


def test_check_refuses_noise_that_would_fill_the_range_before_anybody_is_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(TEXT.replace("range = 4.0", "range = 0.03"))
    refused = lead(capsys, "check", path)
    assert refused.status != 0
    assert refused.out == ""
    assert "aggregation.fixed_point.range" in refused.err
    with pytest.raises(PlanError, match="the noise that each site adds reaches"):
        list(promised(parse(path.read_text())))
