"""``consilium-sim privacy``: what a plan's privacy costs, on stdout, from the plan alone."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console
from small_hospitals import document, sim

from shared.errors import PlanError
from shared.plan import from_document
from shared.privacy.accounting import Cap, epsilon
from shared.privacy.events import Event
from shared.privacy.terms import statistics_terms, terms_for
from simulations import privacy_table
from simulations.progress import Silent

Capsys = pytest.CaptureFixture[str]
PROMISE: dict[str, Any] = {"unit": "patient", "epsilon": 4.0, "delta": 1e-4, "clip_norm": 0.5, "public_patients": 80}


def said(**privacy: Any) -> dict[str, Any]:
    """A scenario with a private plan of 12 rounds."""
    found = document(evaluation__release="dp", plan__rounds=12, evaluation__every=5)
    found["privacy"] = PROMISE | privacy
    return found


def write(folder: Path, **privacy: Any) -> Path:
    path = folder / "plan.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in said(**privacy).items() if key != "scenario"}))
    return path


def asked(capsys: Capsys, path: Path, *more: object) -> dict[str, Any]:
    answer = sim(capsys, "privacy", path, "--json", *more)
    assert answer.status == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


def test_the_help_fits_on_one_screen(capsys: Capsys) -> None:
    answer = sim(capsys, "privacy", "--help")
    lines = answer.out.splitlines()
    assert (answer.status, answer.err) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_tables_stand_on_stdout_and_the_talk_on_stderr(capsys: Capsys, tmp_path: Path) -> None:
    answer = sim(capsys, "privacy", write(tmp_path), "--patients", 40)
    assert answer.status == 0
    for heading in ("Training", "Epsilon over the rounds", "Sites of other sizes", "Other numbers", "Statistics"):
        assert f"\n{heading}" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    assert [line.partition(":")[0] for line in answer.err.splitlines()] == ["sites", "rounds, sizes, steps"]


def test_training_is_shown_on_the_terms_that_a_run_would_use(capsys: Capsys, tmp_path: Path) -> None:
    path = write(tmp_path)
    (promise,) = asked(capsys, path, "--patients", 40)["promises"]
    terms = terms_for(privacy_table.load_plan(str(path)), "any site")
    assert promise["site"] == "every site"
    assert promise["terms"]["noise_multiplier"] == terms.noise_multiplier
    assert (promise["terms"]["sampling_rate"], promise["terms"]["denominator"]) == (0.05, 4)
    assert promise["epsilon"] == epsilon(terms.all_events(), 1e-4) <= 4


def test_epsilon_grows_with_the_rounds_from_the_first_to_the_last(capsys: Capsys, tmp_path: Path) -> None:
    document = asked(capsys, write(tmp_path), "--patients", 40)
    rounds = [moment["round"] for moment in document["rounds"]]
    costs = [moment["epsilon"] for moment in document["rounds"]]
    noise = document["site"]["terms"]["noise_multiplier"]
    assert (rounds[0], rounds[-1]) == (1, 12)
    assert 6 <= len(rounds) <= 8
    assert costs == sorted(costs)
    assert costs == [epsilon([Event(noise, 0.05, 3 * number)], 1e-4) for number in rounds]


def test_a_site_of_another_size_samples_as_many_patients_and_pays_otherwise(capsys: Capsys, tmp_path: Path) -> None:
    document = asked(capsys, write(tmp_path), "--patients", 3, "--patients", 40, "--patients", 80, "--patients", 800)
    few, half, same, many = document["sizes"]
    noise = document["site"]["terms"]["noise_multiplier"]
    assert half["choice"]["sampling_rate"] == 0.1
    assert half["epsilon"] == epsilon([Event(noise, 0.1, 36)], 1e-4) > same["epsilon"] > many["epsilon"]
    assert half["noise"] == same["noise"] == pytest.approx(noise * 0.5 / 4)
    assert same["choice"]["noise_multiplier"] == noise
    assert half["choice"]["noise_multiplier"] > noise > many["choice"]["noise_multiplier"]
    assert (few["choice"]["sampling_rate"], few["choice"]["per_step"]) == (1, 3)
    assert few["noise"] == pytest.approx(noise * 0.5 / 3)


def test_what_a_site_would_need_keeps_the_plan_s_epsilon(capsys: Capsys, tmp_path: Path) -> None:
    for size in asked(capsys, write(tmp_path), "--patients", 20, "--patients", 300)["sizes"]:
        choice = size["choice"]
        event = Event(choice["noise_multiplier"], choice["sampling_rate"], 36)
        assert 0.985 * 4 <= epsilon([event], 1e-4) <= 4
        assert choice["noise"] == pytest.approx(choice["noise_multiplier"] * 0.5 / choice["per_step"])


def test_other_numbers_of_patients_per_step_go_from_a_quarter_to_all(capsys: Capsys, tmp_path: Path) -> None:
    steps = asked(capsys, write(tmp_path), "--patients", 40)["steps"]
    assert [step["per_step"] for step in steps] == [1, 2, 4, 8, 16, 32, 64, 80]
    sigmas = [step["noise_multiplier"] for step in steps]
    assert sigmas == sorted(sigmas)
    assert [step["noise"] for step in steps] == sorted((step["noise"] for step in steps), reverse=True)
    for step in steps:
        assert 0.985 * 4 <= epsilon([Event(step["noise_multiplier"], step["per_step"] / 80, 36)], 1e-4) <= 4


def test_less_than_one_patient_per_step_is_not_proposed_and_all_of_them_only_once(
    capsys: Capsys, tmp_path: Path
) -> None:
    few = asked(capsys, write(tmp_path, sampling_rate=0.02), "--patients", 40)["steps"]
    assert [step["per_step"] for step in few] == pytest.approx([1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 80])
    everybody = asked(capsys, write(tmp_path, public_patients=3), "--patients", 40)["steps"]
    assert [step["per_step"] for step in everybody] == [1.5, 3]


def test_noise_on_statistics_is_shown_where_the_plan_adds_it(capsys: Capsys, tmp_path: Path) -> None:
    path = write(tmp_path)
    validation, test = asked(capsys, path, "--patients", 40)["statistics"]
    plan = privacy_table.load_plan(str(path))
    assert (validation["split"], validation["releases"], test["split"], test["releases"]) == (
        "validation",
        3,
        "test",
        1,
    )
    assert validation["noise_multiplier"] == statistics_terms(plan, "validation").noise_multiplier
    assert test["noise_multiplier"] == statistics_terms(plan, "test").noise_multiplier


def test_exact_statistics_have_no_table() -> None:
    without = said(covers="training") | {"evaluation": {"release": "sum"}}
    without.pop("scenario")
    table = privacy_table.privacy_table(from_document(without), [40], Silent())
    assert table.statistics == ()


def test_sites_with_numbers_of_their_own_have_a_line_each_and_the_smallest_is_looked_at(
    capsys: Capsys, tmp_path: Path
) -> None:
    path = write(tmp_path, public_patients={"aachen": 400, "bergen": 50})
    document = asked(capsys, path, "--patients", 40)
    assert [promise["site"] for promise in document["promises"]] == ["aachen", "bergen"]
    assert document["site"] == document["promises"][1]
    assert "(bergen, the fewest patients)" in sim(capsys, "privacy", path, "--patients", 40).out


def test_noise_of_the_plan_s_own_is_shown_with_what_it_really_costs(capsys: Capsys, tmp_path: Path) -> None:
    (promise,) = asked(capsys, write(tmp_path, noise_multiplier=2.0), "--patients", 40)["promises"]
    assert promise["terms"]["noise_multiplier"] == 2
    assert promise["epsilon"] == epsilon([Event(2.0, 0.05, 36)], 1e-4) < 2


def test_what_no_noise_can_keep_is_said_so_and_hides_nothing() -> None:
    table = privacy_table.privacy_table(plan_of(), [40], Silent())
    impossible = privacy_table._size(table.site.terms, Cap(1e-4, 1e-9), 4)
    assert (impossible.choice.noise_multiplier, impossible.choice.noise) == (None, None)
    assert impossible.epsilon > 1e-4
    shown = replace(table, sizes=(*table.sizes, impossible))
    assert privacy_table.document(shown)["sizes"][1]["choice"]["noise"] is None
    out = io.StringIO()
    Console(file=out, width=80).print(privacy_table.terminal(shown))
    (line,) = (line for line in out.getvalue().splitlines() if "none" in line)
    assert line.split()[:2] == ["4", "1"]


# --- delta -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delta", "patients", "warning"),
    [
        (1e-4, [80], ""),
        (2e-3, [80], "warning: delta 0.002 is more than a tenth of 1 / 80, for a site of 80 patients; "),
        (2e-2, [80], "warning: delta 0.02 promises nothing to 80 patients: "),
        (2e-3, [1000], "warning: delta 0.002 promises nothing to 1000 patients: "),
    ],
    ids=["small", "not well below", "above", "above for a size asked for"],
)
def test_a_delta_that_is_too_large_for_the_patients_is_warned_of(
    delta: float, patients: list[int], warning: str, capsys: Capsys, tmp_path: Path
) -> None:
    more = [word for number in patients for word in ("--patients", number)]
    answer = sim(capsys, "privacy", write(tmp_path, delta=delta), "--json", *more)
    assert answer.status == 0
    assert json.loads(answer.out)["delta"] == delta
    assert ("warning: " in answer.err) == bool(warning)
    assert answer.err.startswith(warning)


@pytest.mark.parametrize("patients", [30, 55, 80, 1000, 4321])
def test_the_delta_that_is_advised_is_not_warned_of_again(patients: int) -> None:
    (sentence,) = privacy_table.cautions(plan_of(delta=0.5, public_patients=patients))
    advised = float(sentence.partition("set privacy.delta to ")[2].partition(" or less")[0])
    assert 0.04 / patients < advised <= 0.1 / patients
    assert list(privacy_table.cautions(plan_of(delta=advised, public_patients=patients))) == []


def plan_of(**privacy: Any) -> Any:
    return from_document({key: value for key, value in said(**privacy).items() if key != "scenario"})


# --- what can be asked about -----------------------------------------------------------------------------------------


def test_a_scenario_and_its_plan_alone_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(tomli_w.dumps(said()))
    assert privacy_table.load_plan(str(tmp_path / "scenario.toml")) == privacy_table.load_plan(str(write(tmp_path)))


def test_a_plan_without_a_promise_is_refused_with_a_hint(capsys: Capsys) -> None:
    answer = sim(capsys, "privacy", "hundred-sites")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith("error: the plan promises no privacy\nhint:  set privacy.unit = ")
    with pytest.raises(PlanError, match="promises no privacy"):
        privacy_table.privacy_table(privacy_table.load_plan("hundred-sites"), [10], Silent())


def test_noise_that_breaks_the_promise_is_an_error_before_any_table(capsys: Capsys, tmp_path: Path) -> None:
    answer = sim(capsys, "privacy", write(tmp_path, noise_multiplier=0.3))
    assert (answer.status, answer.out) == (1, "")
    assert "error: privacy.noise_multiplier = 0.3 costs a patient of every site epsilon " in answer.err


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no-such-name", "there is no scenario no-such-name"),
        ("nowhere.toml", "the plan nowhere.toml cannot be read"),
    ],
)
def test_what_is_not_there_is_named(capsys: Capsys, name: str, error: str) -> None:
    answer = sim(capsys, "privacy", name)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith(f"error: {error}")


def test_a_number_of_patients_below_1_is_wrong_usage(capsys: Capsys, tmp_path: Path) -> None:
    assert sim(capsys, "privacy", write(tmp_path), "--patients", 0).status == 2


# --- noise that sites share ------------------------------------------------------------------------------------------


def sharing(folder: Path, **privacy: Any) -> Path:
    """The plan of ``write``, one step a round, with noise that at least five sites share; one of them may collude."""
    found = said(covers="training", noise="shared", colluding_sites=1, **privacy)
    found.pop("scenario")
    found["training"] |= {"steps": 1, "optimizer": "sgd"}
    found["aggregation"] = {"weights": "equal", "fixed_point": {"range": 8.0, "bits": 24}}
    found["secure_aggregation"] = {"enabled": True, "threshold": 5}
    found["evaluation"] = {"release": "sum"}
    path = folder / "sharing.toml"
    path.write_text(tomli_w.dumps(found))
    return path


def test_noise_that_sites_share_is_shown_with_what_is_left_if_all_others_collude(
    capsys: Capsys, tmp_path: Path
) -> None:
    path = sharing(tmp_path, public_patients={"aachen": 400, "bergen": 50})
    document = asked(capsys, path, "--patients", 40)
    plan = privacy_table.load_plan(str(path))
    for promise in document["promises"]:
        terms, left = terms_for(plan, promise["site"]), promise["alone"]
        assert promise["terms"]["share"] == {"least": 5, "colluding": 1}
        assert left["noise_multiplier"] == pytest.approx(terms.noise_multiplier / 2)
        alone = Event(left["noise_multiplier"], terms.sampling_rate, 12)
        assert left["epsilon"] == epsilon([alone], 1e-4) > 1.5 * promise["epsilon"]
    for moment in document["rounds"]:
        assert moment["alone"] > moment["epsilon"]
    assert document["rounds"][-1]["alone"] == document["site"]["alone"]["epsilon"]


def test_whose_noise_a_promise_counts_on_is_said_in_words_on_80_columns(capsys: Capsys, tmp_path: Path) -> None:
    out = sim(capsys, "privacy", sharing(tmp_path), "--patients", 40).out
    text = " ".join(out.split())
    assert "for sums of at least 5 sites, as long as at most 1 of the other sites tells the coordinator" in text
    assert "In each sum the noise of 4 sites counts, one's own among them." in text
    assert "\nTraining, if all other sites collude\n" in out
    assert "rounds steps epsilon if all collude" in text
    assert max(map(len, out.splitlines())) <= 80


def test_noise_of_one_s_own_has_no_line_for_the_case_that_others_collude(capsys: Capsys, tmp_path: Path) -> None:
    path = write(tmp_path)
    document = asked(capsys, path, "--patients", 40)
    assert document["site"]["alone"] is None
    assert document["site"]["terms"]["share"] is None
    assert {moment["alone"] for moment in document["rounds"]} == {None}
    assert "collude" not in sim(capsys, "privacy", path, "--patients", 40).out
