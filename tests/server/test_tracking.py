"""What trackers are told of a run: names and numbers against the run's files, nothing else, and real trackers."""

import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_runs as runs

from server import tracking, tracking_targets
from server.report.run import read_run
from server.results import PLAN, RESULTS, ROUNDS, append_round, read_results, write_results
from server.tracking import parameters, target, track, tracked
from server.tracking_targets import EVENTS, Point
from shared.errors import PlanError, RunError
from shared.plan import parse

HAVE = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed (pip install 'consilium[tracking]')"
    )
    for name in ("mlflow", "tensorboard")
}
NOW_S = 1_800_000_000.0


def clock() -> float:
    return NOW_S


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return runs.write_run(tmp_path / "run", runs.results())


def unfinished(path: Path, rounds: int) -> Path:
    """A run after some of its rounds."""
    path.mkdir()
    (path / PLAN).write_text(runs.PLAN_TEXT, encoding="utf-8")
    for record in runs.records(dict.fromkeys(runs.SITES, 0.0))[:rounds]:
        append_round(path / ROUNDS, record)
    return path


def finish(path: Path) -> None:
    for record in runs.records(dict.fromkeys(runs.SITES, 0.0))[len((path / ROUNDS).read_text().splitlines()) :]:
        append_round(path / ROUNDS, record)
    write_results(path, runs.results())


def by_name(points: tuple[Point, ...]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        found.setdefault(point.name, []).append((point.step, point.value))
    return found


def numbers_in(path: Path) -> set[float]:
    """Every number in the run's files, by a parser that knows nothing of their keys."""
    seen: set[float] = set()

    def number(text: str) -> float:
        seen.add(float(text))
        return float(text)

    for text in [(path / RESULTS).read_text(), *(path / ROUNDS).read_text().splitlines()]:
        json.loads(text, parse_float=number, parse_int=number)
    return seen


# --- names and numbers -----------------------------------------------------------------------------------------------


def test_a_curve_holds_what_rounds_jsonl_says_round_by_round(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]
    found = by_name(tracked(folder).rounds)
    assert found["loss"] == [(line["round"], line["loss"]) for line in lines]
    assert found["participants"] == [(line["round"], len(line["participants"])) for line in lines]
    measured = [line for line in lines if line["metrics"]]
    for site in runs.SITES:
        assert found[f"sites/{site}/dice"] == [
            (line["round"], line["metrics"]["sites"][site]["dice"]["value"]) for line in measured
        ]
    assert found["pooled/dice.low"] == [(line["round"], line["metrics"]["pooled"]["dice"]["low"]) for line in measured]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("final/pooled/dice", "final pooled dice value"),
        ("final/pooled/hd95.high", "final pooled hd95 high"),
        ("final/sites/stare/nsd", "final sites stare nsd value"),
        ("final/macro/dice", "final macro dice"),
        ("final/worst/dice", "final worst dice value"),
        ("personalised/pooled/dice", "personalised pooled dice value"),
        ("baselines/central/dice", "baselines central dice value"),
        ("baselines/local/hrf/iou", "baselines local hrf iou value"),
    ],
)
def test_a_final_number_is_named_by_where_it_stands_in_results_json(folder: Path, name: str, path: str) -> None:
    there: Any = json.loads((folder / RESULTS).read_text())
    for key in path.split():
        there = there[key]
    assert by_name(tracked(folder).final)[name] == [(runs.ROUNDS_RUN, there)]


def test_privacy_spent_is_told_by_site(tmp_path: Path) -> None:
    folder = runs.write_run(tmp_path / "run", runs.private_results(), runs.PRIVATE)
    found = by_name(tracked(folder).final)
    assert found["privacy/chase/epsilon"] == [(40, 7.9)]
    assert {name.rpartition("/")[2] for name in found if name.startswith("privacy/")} == {
        *("epsilon", "delta", "sigma", "q", "steps")
    }


def test_undetermined_is_no_point_and_never_zero(tmp_path: Path) -> None:
    folder = runs.write_run(tmp_path / "run", runs.sums_only_results(), runs.SUMS_ONLY, ())
    found = by_name(tracked(folder).final)
    assert "final/pooled/dice" in found
    assert not any("nsd" in name or name.startswith("final/sites") for name in found)


def test_parameters_are_the_plan_by_dotted_name() -> None:
    plan = parse(runs.PLAN_TEXT)
    found = parameters(plan)
    assert found["training.learning_rate"] == "0.001"
    assert found["model.channels"] == "[16, 32, 64, 128]"
    assert found["privacy.unit"] == "none"
    assert "privacy.epsilon" not in found
    assert len({name.partition(".")[0] for name in found}) == len(plan.model_dump(exclude_none=True))


def test_digests_seed_and_versions_are_tags(folder: Path) -> None:
    found = tracked(folder).tags
    assert found["consilium.plan_digest"] == parse(runs.PLAN_TEXT).digest()
    assert found["consilium.checkpoint"] == "c" * 64
    assert found["consilium.version.torch"] == "2.13.0"
    assert found["consilium.seed"] == "7"


def test_seconds_since_the_first_round_are_those_of_the_rounds(folder: Path) -> None:
    found = tracked(folder)
    assert found.rounds[0].at_s == pytest.approx(6.1)
    assert found.final[-1].at_s == pytest.approx(6.1 * runs.ROUNDS_RUN)


def test_a_class_with_signs_that_trackers_refuse_keeps_a_name_of_its_own() -> None:
    block = {"pooled": {"dice_CIN2/3 (a)": 0.5, "dice_CIN2-3 (a)": 0.25, "..": 0.125}}
    found = tracking._numbers(block)
    assert dict(found) == {
        "pooled/dice_CIN2_x2f_3 _x28_a_x29_": 0.5,
        "pooled/dice_CIN2-3 _x28_a_x29_": 0.25,
        "pooled/_x2e__x2e_": 0.125,
    }


# --- what is not told ------------------------------------------------------------------------------------------------


def test_every_number_told_is_in_the_files_and_none_of_them_counts_patients(folder: Path) -> None:
    found = tracked(folder)
    attendance = {"participants", "missing"}
    told = {point.value for point in (*found.rounds, *found.final) if point.name not in attendance}
    assert told <= numbers_in(folder)
    names = {point.name for point in (*found.rounds, *found.final)}
    assert not any("patients" in name or "cases" in name or name.startswith("data") for name in names)


def test_no_prediction_no_command_and_no_path_is_told(folder: Path) -> None:
    runs.write_dice(folder, 0.0, 0.01, 1)
    write_results(folder, replace(runs.results(), command="consilium-sim run x --data /mnt/secret-clinic"))
    told = repr(tracked(folder))
    assert "p001" not in told
    assert "secret-clinic" not in told
    assert str(folder.parent) not in told


# --- folders and addresses -------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_is_tracked_as_far_as_it_is(tmp_path: Path) -> None:
    found = tracked(unfinished(tmp_path / "run", 7))
    assert {point.step for point in found.rounds} == set(range(1, 8))
    assert found.final == ()
    assert found.tags["consilium.checkpoint"] == f"{7:064x}"


def test_a_run_without_a_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished round"):
        tracked(unfinished(tmp_path / "run", 0))


def test_results_of_another_plan_are_refused(folder: Path) -> None:
    (folder / PLAN).write_text(runs.PLAN_TEXT.replace("seed = 7", "seed = 8"), encoding="utf-8")
    with pytest.raises(RunError, match="belong to plan"):
        tracked(folder)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=PLAN):
        tracked(tmp_path)


def test_one_identity_for_a_copy_and_another_for_another_run(folder: Path, tmp_path: Path) -> None:
    copied = unfinished(tmp_path / "elsewhere", 3)
    assert tracked(copied).identity == tracked(folder).identity
    lines = (copied / ROUNDS).read_text().replace(f"{1:064x}", "f" * 64)
    (copied / ROUNDS).write_text(lines)
    assert tracked(copied).identity != tracked(folder).identity


@pytest.mark.parametrize("text", ["wandb:x", "mlflow", "tensorboard:", ""])
def test_an_unknown_target_or_one_without_a_place_is_refused(text: str) -> None:
    with pytest.raises(RunError):
        target(text)


def test_a_target_keeps_the_colons_of_its_address() -> None:
    assert target("mlflow:http://localhost:5000") == tracking.Target("mlflow", "http://localhost:5000")


def test_a_missing_extra_is_one_sentence_with_the_line_to_type(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(tracking_targets.importlib, "import_module", refuse)
    for where in ("mlflow:x", "tensorboard:x"):
        with pytest.raises(RunError, match="not installed") as refused:
            track(folder, where, clock)
        assert "pip install" in refused.value.hint
        assert "consilium[tracking]" in refused.value.hint


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def events_in(path: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(path))
    found.Reload()
    return found


def event_folder(board: Path) -> Path:
    (only,) = board.iterdir()
    return only


@HAVE["tensorboard"]
def test_tensorboard_reads_back_every_point(folder: Path, tmp_path: Path) -> None:
    track(folder, f"tensorboard:{tmp_path / 'board'}", clock)
    found, run = events_in(event_folder(tmp_path / "board")), tracked(folder)
    expected = by_name((*run.rounds, *run.final))
    assert set(found.Tags()["scalars"]) == set(expected)
    for name, curve in expected.items():
        assert [(of.step, pytest.approx(of.value, rel=1e-6)) for of in found.Scalars(name)] == curve


@HAVE["tensorboard"]
def test_the_event_file_holds_the_plan_and_no_trace_of_the_machine(folder: Path, tmp_path: Path) -> None:
    track(folder, f"tensorboard:{tmp_path / 'board'}", clock)
    (path,) = event_folder(tmp_path / "board").iterdir()
    content = path.read_bytes()
    assert path.name == EVENTS
    assert runs.PLAN_TEXT.encode() in content
    assert os.uname().nodename.encode() not in content
    assert str(tmp_path).encode() not in content


@HAVE["tensorboard"]
def test_an_event_file_grows_with_the_run_and_ends_as_if_tracked_once(folder: Path, tmp_path: Path) -> None:
    growing = unfinished(tmp_path / "growing", 3)
    track(growing, f"tensorboard:{tmp_path / 'board'}", clock)
    path = event_folder(tmp_path / "board") / EVENTS
    inode, before = path.stat().st_ino, path.read_bytes()
    finish(growing)
    for _ in range(2):
        track(growing, f"tensorboard:{tmp_path / 'board'}", clock)
    assert path.stat().st_ino == inode
    assert path.read_bytes().startswith(before)
    track(folder, f"tensorboard:{tmp_path / 'once'}", clock)
    assert path.read_bytes() == (event_folder(tmp_path / "once") / EVENTS).read_bytes()


@HAVE["tensorboard"]
def test_an_event_file_that_does_not_fit_the_run_is_replaced_whole(folder: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    track(folder, f"tensorboard:{board}", clock)
    path = event_folder(board) / EVENTS
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"torn" + whole[104:])
    track(folder, f"tensorboard:{board}", clock)
    assert path.read_bytes() == whole


@HAVE["tensorboard"]
def test_a_place_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match="cannot be written"):
        track(folder, f"tensorboard:{tmp_path / 'file'}", clock)


# --- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _third_party_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


STORES = [
    "folder",
    pytest.param(
        "sqlite",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not importlib.util.find_spec("alembic"), reason="alembic is not installed"),
        ],
    ),
]


def address_of(store: str, tmp_path: Path) -> str:
    return str(tmp_path / "store") if store == "folder" else f"sqlite:///{tmp_path / 'store.db'}"


def mlflow_runs(address: str) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    uri = address if "://" in address else Path(address).as_uri()
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client, list(client.search_runs([client.get_experiment_by_name("retina-vessels").experiment_id]))


@HAVE["mlflow"]
@pytest.mark.usefixtures("_third_party_warnings")
@pytest.mark.parametrize("store", STORES)
def test_mlflow_reads_back_parameters_tags_and_every_point(folder: Path, tmp_path: Path, store: str) -> None:
    track(folder, f"mlflow:{address_of(store, tmp_path)}", clock)
    client, (found,) = mlflow_runs(address_of(store, tmp_path))
    run = tracked(folder)
    assert found.info.status == "FINISHED"
    assert found.info.start_time == round(1000 * (NOW_S - 6.1 * runs.ROUNDS_RUN))
    assert found.data.params == run.parameters
    assert dict(run.tags).items() <= found.data.tags.items()
    expected = by_name((*run.rounds, *run.final))
    assert set(found.data.metrics) == set(expected)
    for name in ("loss", "pooled/dice", "sites/hrf/dice", "final/pooled/dice.low"):
        assert [(of.step, of.value) for of in client.get_metric_history(found.info.run_id, name)] == expected[name]


@HAVE["mlflow"]
@pytest.mark.usefixtures("_third_party_warnings")
def test_mlflow_gets_each_round_once_however_often_a_run_is_tracked(tmp_path: Path) -> None:
    growing, address = unfinished(tmp_path / "growing", 3), str(tmp_path / "store")
    track(growing, f"mlflow:{address}", clock)
    _, (found,) = mlflow_runs(address)
    assert found.info.status == "RUNNING"
    finish(growing)
    for _ in range(2):
        track(growing, f"mlflow:{address}", clock)
    client, (found,) = mlflow_runs(address)
    steps = [of.step for of in client.get_metric_history(found.info.run_id, "loss")]
    assert steps == list(range(1, runs.ROUNDS_RUN + 1))
    assert len(client.get_metric_history(found.info.run_id, "final/pooled/dice")) == 1
    assert found.info.status == "FINISHED"


@HAVE["mlflow"]
@pytest.mark.usefixtures("_third_party_warnings")
def test_a_server_that_is_down_is_one_sentence_without_its_password(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RunError, match="did not take") as refused:
        track(folder, "mlflow:http://me:hunter2@127.0.0.1:9", clock)
    assert "hunter2" not in refused.value.sentence + refused.value.hint
    assert refused.value.__cause__ is None


@HAVE["mlflow"]
@pytest.mark.usefixtures("_third_party_warnings")
def test_mlflow_is_told_neither_user_nor_host_nor_folder(folder: Path, tmp_path: Path) -> None:
    track(folder, f"mlflow:{tmp_path / 'store'}", clock)
    _, (found,) = mlflow_runs(str(tmp_path / "store"))
    told = json.dumps({**found.data.tags, **found.data.params})
    assert os.uname().nodename not in told
    assert str(tmp_path) not in told
    assert not {"mlflow.user", "mlflow.source.name"} & found.data.tags.keys()


def test_what_is_read_is_what_the_report_reads(folder: Path) -> None:
    """Two readers of one folder must not drift apart."""
    assert read_run(folder).results == read_results(folder)
    assert by_name(tracked(folder).final)["final/pooled/dice"][0][1] == read_run(folder).pooled.value
