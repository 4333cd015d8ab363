"""``consilium-sim`` as a researcher types it: help on one screen, data on stdout, talk on stderr, status 0, 1 or 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from picture_hospitals import write_hospitals
from small_hospitals import Said, contents, sim, write_scenario

from server.results import read_rounds
from simulations import scenario

COMMANDS = ["run", "baselines", "contribution", "compare", "attack", "privacy", "pretrain", "phantoms", "scenarios"]
Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_scenario(tmp_path)


def run(capsys: Capsys, small: Path, images: Path, out: Path, *more: object) -> Said:
    return sim(capsys, "run", small, "--data", images, "--out", out, "--workers", 1, *more)


def final(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)["final"]
    return found


def test_the_command_s_help_fits_on_one_screen_and_lists_every_command(capsys: Capsys) -> None:
    said = sim(capsys, "--help")
    assert said.status == 0
    assert len(said.out.splitlines()) <= 24
    assert all(f"\n  {command} " in said.out for command in COMMANDS)
    assert "..." not in said.out.partition("Commands:")[2], "no description is cut short"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_help_fits_on_one_screen(capsys: Capsys, command: str) -> None:
    said = sim(capsys, command, "--help")
    lines = said.out.splitlines()
    assert (said.status, said.err) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"Usage: consilium-sim {command}")
    assert "\\[" not in said.out


def test_help_says_what_a_scenario_is(capsys: Capsys) -> None:
    assert "A built-in name (see: consilium-sim scenarios) or a .toml file." in sim(capsys, "run", "--help").out


def test_scenarios_are_listed_with_their_titles(capsys: Capsys) -> None:
    said = sim(capsys, "scenarios")
    assert (said.status, said.err) == (0, "")
    assert [line.split()[0] for line in said.out.splitlines()] == scenario.names()
    assert scenario.load("demo").setting.title in said.out


def test_a_run_shows_its_tables_on_stdout_and_talks_on_stderr(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path
) -> None:
    said = run(capsys, small, images, tmp_path / "run")
    assert said.status == 0
    assert "AUROC" in said.out
    assert "report:" not in said.out
    assert [line.partition(":")[0] for line in said.err.splitlines()] == [
        "reading the manifest",
        "ingest, doctor, freeze",
        "preparing cases",
        "federated training",
        "writing the report",
        "report",
    ]
    assert said.err.endswith(f"report: {tmp_path / 'run' / 'report.html'}\n"), "in one piece, however long"
    assert "(last: report.pdf)" in said.err
    assert (tmp_path / "run" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "federated training: 6 of 6" in said.err
    assert "(last: round 2 loss" in said.err


def test_json_on_stdout_is_results_json_and_nothing_else(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path
) -> None:
    said = run(capsys, small, images, tmp_path / "run", "--json")
    assert said.out == (tmp_path / "run" / "results.json").read_text()
    assert set(final(said.out)["sites"]) == {"aachen", "bergen", "coimbra"}


def test_without_out_a_run_goes_to_a_folder_named_by_scenario_and_seed(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = sim(capsys, "run", small, "--data", images, "--workers", 1, "--seed", 12, "--json")
    assert said.status == 0
    assert (tmp_path / "runs" / "squares-seed12" / "results.json").exists()
    assert json.loads(said.out)["seed"] == 12


def test_overrides_and_options_reach_the_run(capsys: Capsys, small: Path, images: Path, tmp_path: Path) -> None:
    more = ("--set", "plan.rounds=1", "--set", "training.steps=1", "--baselines", "--save-predictions", "--json")
    said = run(capsys, small, images, tmp_path / "run", *more)
    assert len(read_rounds(tmp_path / "run" / "rounds.jsonl")) == 1
    assert (tmp_path / "run" / "predictions.csv").exists()
    assert set(json.loads(said.out)["baselines"]) == {"central", "local", "at_home", "elsewhere"}
    assert "baselines: alone and pooled: 4 of 4" in said.err


def test_what_was_typed_is_in_the_results_so_that_it_can_be_typed_again(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path
) -> None:
    said = run(capsys, small, images, tmp_path / "my run", "--json")
    assert json.loads(said.out)["command"] == (
        f"consilium-sim run {small} --data {images} --out '{tmp_path / 'my run'}' --workers 1 --json"
    )


def test_baselines_is_run_with_baselines(capsys: Capsys, small: Path, images: Path, tmp_path: Path) -> None:
    said = sim(capsys, "baselines", small, "--data", images, "--out", tmp_path / "run", "--workers", 1)
    assert said.status == 0
    assert "All data in one room" in said.out
    assert "aachen alone" in said.out


def test_cross_site_adds_the_matrix_to_the_baselines_and_the_checks_beside_them(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path
) -> None:
    said = run(capsys, small, images, tmp_path / "run", "--cross-site", "--json")
    document = json.loads(said.out)
    found = document["baselines"]
    added = {"cross_site", "cross_site_validation"}
    assert set(found) == {"central", "local", "at_home", "elsewhere"} | added
    sites = {"aachen", "bergen", "coimbra"}
    assert set(found["cross_site"]) == sites
    assert all(set(row) == sites for row in found["cross_site"].values())
    # A model at home is a cell of the diagonal.
    for site in sites:
        assert found["cross_site"][site][site] == found["at_home"][site]["local"]
    assert {one["site"] for one in document["checks"]["data"]} == sites
    assert "every model at every site: 3 of 3" in said.err


def test_a_scenario_can_ask_for_the_matrix_and_an_option_can_decline_it(
    capsys: Capsys, images: Path, tmp_path: Path
) -> None:
    small = write_scenario(tmp_path, scenario__cross_site=True)
    asked = run(capsys, small, images, tmp_path / "asked", "--json")
    declined = run(capsys, small, images, tmp_path / "declined", "--no-cross-site", "--json")
    assert "cross_site" in json.loads(asked.out)["baselines"]
    assert "baselines" not in json.loads(declined.out)


def test_contribution_trains_every_coalition_of_three_sites(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path
) -> None:
    more = ("--data", images, "--out", tmp_path / "run", "--workers", 1, "--rounds", 1, "--json")
    said = sim(capsys, "contribution", small, *more)
    assert said.status == 0
    found = json.loads(said.out)["baselines"]
    assert set(found) == {"contribution", "cross_site_without"}
    assert (found["contribution"]["coalitions"], found["contribution"]["rounds"]) == (8, 1)
    assert "contributions: coalitions: 8 of 8" in said.err


def test_a_second_run_is_refused_then_resumed_then_overwritten(
    capsys: Capsys, small: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = run(capsys, small, images, out, "--json")
    refused = run(capsys, small, images, out)
    assert refused.status == 1
    assert refused.err == (f"error: {out} is not empty\nhint:  choose another --out, or say --resume or --overwrite\n")
    resumed = run(capsys, small, images, out, "--json", "--resume")
    assert final(resumed.out) == final(first.out)
    assert "federated training: 0 of 0" in resumed.err
    again = run(capsys, small, images, out, "--json", "--overwrite", "--seed", 5)
    assert json.loads(again.out)["seed"] == 5


def test_resume_and_overwrite_exclude_each_other(capsys: Capsys, small: Path, images: Path, tmp_path: Path) -> None:
    said = run(capsys, small, images, tmp_path / "run", "--resume", "--overwrite")
    assert said.status == 2
    assert said.err.startswith("error: --resume and --overwrite exclude each other\n")
    assert not (tmp_path / "run").exists()


def test_runs_are_compared_side_by_side(capsys: Capsys, small: Path, images: Path, tmp_path: Path) -> None:
    for seed in (4, 5):
        run(capsys, small, images, tmp_path / f"seed{seed}", "--seed", seed, "--save-predictions")
    said = sim(capsys, "compare", tmp_path / "seed4", tmp_path / "seed5")
    assert (said.status, said.err) == (0, "")
    assert "seed4" in said.out
    assert "plan.seed" in said.out
    document = json.loads(sim(capsys, "compare", tmp_path / "seed4", tmp_path / "seed5", "--json").out)
    assert document["metric"] == "auroc"
    assert [entry["run"] for entry in document["runs"]] == ["seed4", "seed5"]


def test_comparing_needs_two_finished_runs(capsys: Capsys, small: Path, images: Path, tmp_path: Path) -> None:
    run(capsys, small, images, tmp_path / "run")
    alone = sim(capsys, "compare", tmp_path / "run")
    assert alone.status == 1
    assert alone.err.startswith("error: a comparison needs at least 2 runs, got 1\nhint:  ")
    missing = sim(capsys, "compare", tmp_path / "run", tmp_path / "nowhere")
    assert missing.status == 1
    assert missing.err.startswith("error: ")


def test_phantoms_are_written_as_dicom_and_the_same_seed_gives_the_same_bytes(capsys: Capsys, tmp_path: Path) -> None:
    for name in ("one", "two"):
        said = sim(capsys, "phantoms", tmp_path / name, "--sites", 2, "--patients", 1, "--seed", 3)
        assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() == [
        f"north: 1 patients, {count(tmp_path / 'two' / 'north')} images, 1 of them broken",
        f"east: 1 patients, {count(tmp_path / 'two' / 'east')} images, 2 of them broken",
    ]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def count(hospital: Path) -> int:
    return len((hospital / "labels.csv").read_text().splitlines()) - 1


def test_phantoms_are_not_written_over_anything(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    said = sim(capsys, "phantoms", tmp_path, "--sites", 1, "--patients", 1)
    assert said.status == 1
    assert said.err == ("error: 1 of 1 hospitals exist already (first: north)\nhint:  choose an empty output folder\n")


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["rnu"], "No such command 'rnu'", "consilium-sim --help"),
        (["run"], "Missing argument 'SCENARIO'.", "consilium-sim run --help"),
        (["run", "demo", "--worker", "2"], "No such option", "consilium-sim run --help"),
        (["run", "demo", "--workers", "0"], "Invalid value for '--workers'", "consilium-sim run --help"),
        (["run", "demo", "--seed", "x"], "Invalid value for '--seed'", "consilium-sim run --help"),
        (["phantoms", "x", "--dimensions", "4"], "Invalid value for '--dimensions'", "consilium-sim phantoms --help"),
        (["compare"], "Missing argument 'RUNS...'.", "consilium-sim compare --help"),
    ],
)
def test_wrong_usage_is_two(capsys: Capsys, words: list[str], error: str, hint: str) -> None:
    said = sim(capsys, *words)
    assert (said.status, said.out) == (2, "")
    first, second = said.err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second == f"hint:  {hint}"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["run", "dmeo"], "there is no scenario dmeo", "did you mean demo?"),
        (["run", "none.toml"], "there is no scenario none.toml", "check the path"),
        (["run", "demo", "--set", "training.stesp=3"], "unknown key training.stesp", "did you mean steps?"),
        (["run", "demo", "--engine", "flower"], "there is no engine 'flower'", "known here: inprocess, ray"),
        (["run", "retina"], "scenario retina needs real images", "say where: --data FOLDER (with manifest.csv)"),
        (
            ["run", "retina", "--data", "."],
            ". holds no manifest.csv",
            "--data names the folder that manifest.csv lies in",
        ),
        (["run", "demo", "--data", "."], "scenario demo makes its own images", "leave --data out"),
    ],
)
def test_a_refusal_is_one_and_leaves_nothing_behind(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = sim(capsys, *words, "--out", tmp_path / "run")
    assert (said.status, said.out) == (1, "")
    assert said.err == f"error: {error}\nhint:  {hint}\n"
    assert list(tmp_path.iterdir()) == []


def test_json_keeps_stdout_empty_when_something_is_refused(capsys: Capsys, images: Path, tmp_path: Path) -> None:
    said = sim(capsys, "run", "retina", "--data", images, "--json", "--out", tmp_path / "run", "--workers", 1)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: manifest.csv lacks the column 'group'; it has 6 columns\nhint:  needed: site")


def test_the_installed_command_runs_with_its_settings_in_a_process_of_its_own() -> None:
    command = Path(sys.executable).with_name("consilium-sim")
    done = subprocess.run([command, "scenarios"], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout
