"""A run from images to report: what its folder holds, what it refuses, and that its numbers can be recomputed."""

import csv
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from picture_hospitals import SITES, read_rows, save_png, write_case, write_hospitals, write_rows
from sklearn.metrics import average_precision_score, roc_auc_score
from small_hospitals import SEED, SEGMENTATION, Interrupted, contents, run, scenario

from client.workbench import Workbench
from server.results import read_results, read_rounds
from server.run_state import ModelFiles
from shared.errors import CaseError, ConsiliumError, RunError, ScenarioError
from shared.evaluation.additive import UNIT, Observation, Schema, in_units
from shared.evaluation.undetermined import ratio
from shared.plan import Plan
from shared.plan import load as load_plan
from shared.preprocessing.image import Case
from shared.tasks import TASKS
from shared.tasks.task import Metrics, Task
from simulations import run as running
from simulations.progress import Silent
from simulations.run import Order


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classification run with everything that can be asked for; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    setting = scenario(folder, personalisation__steps=2, personalisation__learning_rate=0.01)
    order = Order(
        folder / "run", images, workers=1, baselines=True, save_predictions=True, command="consilium-sim run x"
    )
    return running.run(setting, order, Silent())


@pytest.fixture(scope="module")
def segmented(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmented")
    setting = scenario(folder, **SEGMENTATION, training__steps=10)
    return running.run(setting, Order(folder / "run", images, workers=1, save_predictions=True), Silent())


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def labels_and_scores(rows: list[dict[str, str]]) -> tuple[list[int], list[float]]:
    return [int(row["label"]) for row in rows], [float(row["score"]) for row in rows]


def refusal(order: Order, folder: Path, **changes: Any) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as refused:
        running.run(scenario(folder, **changes), order, Silent())
    return refused.value


def test_a_run_folder_holds_everything_that_the_design_lists(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"plan.toml", "results.json", "rounds.jsonl", "journal.sqlite", "checkpoints", "report.html"} <= names
    assert "predictions.csv" in names
    assert not [name for name in names if "partial" in name or "pending" in name]


def test_the_report_can_be_read_without_a_network(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "<svg" in page
    assert 'src="http' not in page
    assert "<link" not in page


def test_the_plan_in_the_folder_is_the_plan_that_was_run(finished: Path) -> None:
    plan = load_plan(finished / "plan.toml")
    assert plan.digest() == results(finished)["plan_digest"]
    with sqlite3.connect(finished / "journal.sqlite") as journal:
        assert journal.execute("select plan_digest from run").fetchone() == (plan.digest(),)


def test_results_hold_the_keys_of_the_design(finished: Path) -> None:
    found = results(finished)
    assert {"plan_digest", "seed", "versions", "final", "baselines", "privacy", "timing"} <= found.keys()
    assert found["seed"] == SEED
    assert {"consilium", "flwr", "torch"} <= found["versions"].keys()
    assert found["final"]["pooled"]["auroc"].keys() == {"value", "low", "high", "n_patients", "bound"}
    assert set(found["final"]["sites"]) == set(SITES)
    assert found["final"]["worst"]["auroc"]["site"] in SITES
    undetermined = {name for name, sites in found["final"]["undetermined"].items() if set(sites) == set(SITES)}
    assert found["final"]["macro"].keys() == found["final"]["pooled"].keys() - undetermined
    assert found["privacy"] == {site: {"unit": "none"} for site in SITES}
    assert found["timing"]["total_s"] > found["timing"]["local_training_s"] > 0
    assert found["timing"]["overhead_ratio"] > 1
    assert found["command"] == "consilium-sim run x"
    assert set(found["baselines"]["local"]) == set(SITES)
    assert found["baselines"]["central"]["auroc"]["n_patients"] == found["final"]["pooled"]["auroc"]["n_patients"]
    assert set(found["personalised"]["sites"]) == set(SITES)


def test_results_say_what_each_site_could_use(finished: Path) -> None:
    for site in SITES:
        said = results(finished)["data"][site]
        assert (said["cases"], said["patients"], said["quarantined"]) == (24, 12, {})


def test_results_name_the_cohort_that_was_trained_on_and_what_its_doctor_noted(finished: Path) -> None:
    """Oracle: the cohort's file, read and hashed here. All images are of one size, 16 x 16, and say no vendor."""
    for site in SITES:
        said = results(finished)["data"][site]
        (path,) = (finished / "sites-data" / site / "cohorts").glob("*.cohort")
        assert said["cohort"] == hashlib.sha256(path.read_bytes()).hexdigest()
        frozen = json.loads(path.read_bytes().partition(b"\n")[2])
        assert (frozen["site"], len(frozen["members"])) == (site, 24)
        assert frozen["rule"] == {"seed": SEED, "train_fraction": 0.5, "validation_fraction": 0.15}
        assert all(set(noted) == {"severity", "cases"} for noted in said["doctor"].values())


def test_pooled_and_site_metrics_can_be_recomputed_from_predictions_with_scikit_learn(finished: Path) -> None:
    """Ranks within the bound that stands beside them, which is at most a thousandth; decisions to the last digit."""
    rows, final = predictions(finished), results(finished)["final"]
    for block, own in [
        (final["pooled"], rows),
        *((final["sites"][site], [row for row in rows if row["site"] == site]) for site in SITES),
    ]:
        labels, scores = labels_and_scores(own)
        decided = np.array(scores) >= 0.5
        for name, exact in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
            assert 0 <= block[name]["bound"] <= 1e-3
            assert abs(block[name]["value"] - exact(labels, scores)) <= block[name]["bound"] + 1e-12
        assert block["accuracy"]["value"] == pytest.approx((decided == np.array(labels)).mean(), abs=1e-12)
        assert block["auroc"]["n_patients"] == len({(row["site"], row["patient"]) for row in own})


def test_the_mean_and_the_worst_of_sites_follow_from_the_sites(finished: Path) -> None:
    final = results(finished)["final"]
    by_site = {site: final["sites"][site]["accuracy"]["value"] for site in SITES}
    assert final["macro"]["accuracy"] == pytest.approx(np.mean(list(by_site.values())))
    assert final["worst"]["accuracy"]["value"] == min(by_site.values())


def test_predictions_are_of_test_patients_with_their_subgroups(finished: Path) -> None:
    rows = predictions(finished)
    assert list(rows[0]) == ["site", "patient", "case", "label", "score", "sex"]
    assert {row["sex"] for row in rows} == {"f", "m"}
    assert len({row["case"] for row in rows}) == len(rows)
    assert len(rows) < 72 / 2


def test_dice_can_be_recomputed_from_predictions(segmented: Path) -> None:
    """Dice is rounded to 2**-20 for each case before it is added up."""
    rows, final = predictions(segmented), results(segmented)["final"]
    assert final["pooled"]["dice"]["value"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]), abs=2**-20)
    for site in SITES:
        own = [float(row["dice"]) for row in rows if row["site"] == site]
        assert final["sites"][site]["dice"]["value"] == pytest.approx(np.mean(own), abs=2**-20)


def test_the_final_checkpoint_gives_the_predictions(finished: Path) -> None:
    """Oracle: the file that results.json names, loaded into a network of its own, on the site's archive."""
    from client.data.archive.archive import Archive
    from client.data.prepared.prepare import prepare_case
    from client.training.inference import scores

    plan = load_plan(finished / "plan.toml")
    bench = Workbench.for_plan(plan)
    bench.load(ModelFiles(finished, bench.parameters, plan.digest()).load(results(finished)["checkpoint"]))
    rows = {row["case"]: float(row["score"]) for row in predictions(finished) if row["site"] == "bergen"}
    with Archive.open(finished / "sites-data" / "bergen" / "archive") as archive:
        cases = [
            prepare_case(record, archive, plan, bench.task) for record in archive.records() if record.case_id in rows
        ]
    found = {
        case.case_id: float(score[1]) for case, score in scores(bench.model, cases, bench.task, plan, bench.device)
    }
    assert found.keys() == rows.keys()
    assert found == pytest.approx(rows, abs=1e-6)


def test_every_round_is_on_file_with_its_loss_metrics_and_participants(finished: Path) -> None:
    records = read_rounds(finished / "rounds.jsonl")
    assert [record.participation.round for record in records] == [1, 2]
    for record in records:
        assert record.participation.participants == tuple(sorted(SITES))
        assert record.loss is not None
        assert record.metrics is not None
        assert (finished / "checkpoints" / f"{record.checkpoint}.safetensors").exists()


def test_personal_weights_stay_in_the_site_s_own_folder(finished: Path) -> None:
    kept = {path.relative_to(finished / "sites").parts[0] for path in (finished / "sites").rglob("*.safetensors")}
    assert kept == set(SITES)
    assert len(list((finished / "checkpoints").iterdir())) == 3, "the initial model and two rounds"


def test_without_asking_there_are_neither_baselines_nor_predictions(
    segmented: Path, images: Path, tmp_path: Path
) -> None:
    bare = run(tmp_path, "run", data=images)
    assert "baselines" not in results(bare)
    assert "personalised" not in results(bare)
    assert not (bare / "predictions.csv").exists()
    assert "baselines" not in results(segmented)


def test_under_release_sum_results_hold_no_site_s_metrics(images: Path, tmp_path: Path) -> None:
    final = results(run(tmp_path, "run", data=images, evaluation__release="sum"))["final"]
    assert final["pooled"]["auroc"]["value"] is not None
    assert (final["sites"], final["macro"], final["worst"]) == ({}, {}, {})


def test_another_seed_gives_another_model_and_another_split(images: Path, tmp_path: Path) -> None:
    one, other = (results(run(tmp_path, f"seed{seed}", data=images, plan__seed=seed)) for seed in (1, 2))
    assert one["checkpoint"] != other["checkpoint"]
    assert one["final"]["pooled"]["auroc"] != other["final"]["pooled"]["auroc"]


def test_a_folder_that_is_not_empty_is_refused_and_left_as_it_was(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    refused = refusal(Order(out, images, workers=1), tmp_path)
    assert isinstance(refused, ScenarioError)
    assert refused.sentence.endswith("is not empty")
    assert refused.hint == "choose another --out, or say --resume or --overwrite"
    assert contents(out) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_a_folder_that_holds_no_run_is_neither_resumed_nor_cleared(images: Path, tmp_path: Path, existing: str) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    (out / "plan.toml").write_text("a plan of mine")
    refused = refusal(Order(out, images, workers=1, existing=existing), tmp_path)
    assert "holds no run" in refused.sentence
    assert contents(out) == {"plan.toml": b"a plan of mine"}


def test_overwriting_starts_anew_and_spares_what_no_run_writes(images: Path, tmp_path: Path) -> None:
    out = run(tmp_path, "run", data=images, plan__seed=1)
    (out / "notes.txt").write_text("mine")
    (out / "predictions.csv").write_text("of the last run")
    order = Order(out, images, workers=1, existing="overwrite")
    running.run(scenario(tmp_path, plan__seed=2), order, Silent())
    assert results(out)["seed"] == 2
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "predictions.csv").exists()
    assert len(list((out / "checkpoints").iterdir())) == 3


def test_resuming_a_finished_run_trains_nothing_and_changes_no_result(images: Path, tmp_path: Path) -> None:
    out = run(tmp_path, "run", data=images)
    before, checkpoints = results(out), contents(out / "checkpoints")
    running.run(scenario(tmp_path), Order(out, images, workers=1, existing="resume"), Silent())
    after = results(out)
    assert contents(out / "checkpoints") == checkpoints
    assert {**after, "timing": None} == {**before, "timing": None}
    assert len(read_rounds(out / "rounds.jsonl")) == 2


def test_resuming_with_another_plan_is_refused_and_the_folder_keeps_its_own(images: Path, tmp_path: Path) -> None:
    out = run(tmp_path, "run", data=images)
    before = (out / "plan.toml").read_bytes()
    refused = refusal(Order(out, images, workers=1, existing="resume"), tmp_path, training__steps=4)
    assert isinstance(refused, RunError)
    assert refused.code == "journal-plan"
    assert (out / "plan.toml").read_bytes() == before


def brighten(path: Path) -> None:
    """Change one pixel."""
    pixels = np.array(PIL.Image.open(path))
    pixels[0, 0] ^= 128
    save_png(path, pixels)


def drop_rows(folder: Path, site: str, count: int) -> None:
    rows = read_rows(folder)
    own = [row["image"] for row in rows if row["site"] == site][:count]
    write_rows(folder, [row for row in rows if row["image"] not in own])


def test_resuming_on_other_images_is_refused_with_the_site_and_the_numbers(tmp_path: Path) -> None:
    """Two altered, three removed from the manifest, four added; with the old images back, the run goes on."""
    folder = write_hospitals(tmp_path / "images")
    setting, order = scenario(tmp_path), Order(tmp_path / "run", folder, workers=1)
    with pytest.raises(KeyboardInterrupt):
        running.run(setting, order, Interrupted("federated training", 3))
    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    drop_rows(folder, "bergen", 3)
    rows = [write_case(folder, "bergen", 77, number) for number in range(4)]
    write_rows(folder, [*read_rows(folder), *rows])
    for row in [row for row in read_rows(folder) if row["site"] == "bergen"][:2]:
        brighten(folder / row["image"])
    refused = refusal(replace(order, existing="resume"), tmp_path)
    assert isinstance(refused, RunError)
    assert refused.code == "cohort-drift"
    assert refused.sentence == (
        "the images of bergen are not those that this run began with: 4 added, 3 removed, 2 altered"
    )
    assert "--overwrite" in refused.hint
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    running.run(setting, replace(order, existing="resume"), Silent())
    assert len(read_rounds(tmp_path / "run" / "rounds.jsonl")) == 2


def test_before_the_first_round_images_may_still_change_and_are_frozen_anew(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path / "images")
    setting, order = scenario(tmp_path), Order(tmp_path / "run", folder, workers=1)
    with pytest.raises(KeyboardInterrupt):
        running.run(setting, order, Interrupted("preparing cases", 1))
    drop_rows(folder, "bergen", 3)
    running.run(setting, replace(order, existing="resume"), Silent())
    assert results(tmp_path / "run")["data"]["bergen"]["cases"] == 21
    whole = running.run(setting, Order(tmp_path / "whole", folder, workers=1), Silent())
    assert contents(tmp_path / "run" / "checkpoints") == contents(whole / "checkpoints")


def test_a_run_whose_cohort_was_changed_behind_its_back_is_not_gone_on_with(images: Path, tmp_path: Path) -> None:
    """Somebody who can write the folder moves all test patients to training; only the site's key could sign that."""
    out = run(tmp_path, "run", data=images)
    (path,) = (out / "sites-data" / "bergen" / "cohorts").glob("*.cohort")
    path.write_bytes(path.read_bytes().replace(b'"test"', b'"train"'))
    refused = refusal(Order(out, images, workers=1, existing="resume"), tmp_path)
    assert refused.code == "cohort-damaged"


def test_resuming_where_nothing_is_yet_begins(images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    running.run(scenario(tmp_path), Order(tmp_path / "run", images, workers=1, existing="resume"), Silent())
    assert read_results(tmp_path / "run").seed == SEED


MOMENTS: dict[str, Any] = {"aggregation__method": "fedadam", "aggregation__server_learning_rate": 0.01}


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with server moments and baselines."""
    folder = tmp_path_factory.mktemp("whole")
    order = Order(folder / "run", images, workers=1, baselines=True)
    return running.run(scenario(folder, **MOMENTS), order, Silent())


@pytest.mark.parametrize(
    ("label", "after"),
    [
        ("reading the manifest", 0),
        ("ingest, doctor, freeze", 1),
        ("preparing cases", 1),
        *(("federated training", updates) for updates in (0, 2, 3, 4, 5)),
        ("baselines: alone and pooled", 1),
    ],
)
def test_a_run_interrupted_anywhere_ends_with_the_bytes_of_an_uninterrupted_one(
    images: Path, whole: Path, tmp_path: Path, label: str, after: int
) -> None:
    setting, order = scenario(tmp_path, **MOMENTS), Order(tmp_path / "cut", images, workers=1, baselines=True)
    with pytest.raises(KeyboardInterrupt):
        running.run(setting, order, Interrupted(label, after))
    running.run(setting, replace(order, existing="resume"), Silent())
    for kept in ("checkpoints", "server-state"):
        assert contents(order.out / kept) == contents(whole / kept)
    assert {**results(order.out), "timing": None} == {**results(whole), "timing": None}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model__name": "unett"}, "model-unknown"),
        ({"model__name": "unet"}, "model-output"),
        ({"plan__task": "detection"}, "plan"),
        ({"preprocessing__size": [1, 1]}, "model-size"),
        ({"secure_aggregation__enabled": True}, "plan"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    refused = refusal(Order(tmp_path / "run", images, workers=1), tmp_path, **changes)
    assert refused.code == code
    assert refused.hint
    assert not (tmp_path / "run").exists()


def test_a_real_scenario_without_its_images_leaves_no_folder_behind(tmp_path: Path) -> None:
    refused = refusal(Order(tmp_path / "run", workers=1), tmp_path)
    assert "needs real images" in refused.sentence
    assert not (tmp_path / "run").exists()


def test_an_unknown_engine_is_answered_with_the_nearest(images: Path, tmp_path: Path) -> None:
    refused = refusal(Order(tmp_path / "run", images, engine="inproces"), tmp_path)
    assert refused.hint == "did you mean inprocess?"
    assert not (tmp_path / "run").exists()


def test_two_runs_cannot_share_a_folder_at_the_same_time(images: Path, tmp_path: Path) -> None:
    from server.journal import Journal

    setting = scenario(tmp_path)
    (tmp_path / "run").mkdir()
    order = Order(tmp_path / "run", images, workers=1, existing="resume")
    with (
        Journal.open_or_create(tmp_path / "run" / "journal.sqlite", setting.plan, lambda: 0.0),
        pytest.raises(RunError, match="open in another process"),
    ):
        running.run(setting, order, Silent())


def test_below_quorum_the_run_ends_and_can_go_on_when_the_site_is_repaired(tmp_path: Path) -> None:
    """The site's trouble is told on the way; its repaired images make another store."""
    folder = write_hospitals(tmp_path / "images")
    (folder / "bergen").rename(folder / "elsewhere")
    told: list[str] = []

    class Listening(Silent):
        def tell(self, sentence: str) -> None:
            told.append(sentence)

    order = Order(tmp_path / "run", folder, workers=1)
    setting = scenario(tmp_path, participation__quorum=3)
    with pytest.raises(RunError, match="2 sites were admitted, the plan's quorum is 3"):
        running.run(setting, order, Listening())
    assert told == [
        "bergen sits out: this site is empty: 0 usable cases, 24 unusable (24 image-missing)",
    ]
    (folder / "elsewhere").rename(folder / "bergen")
    running.run(setting, replace(order, existing="resume"), Silent())
    assert read_rounds(tmp_path / "run" / "rounds.jsonl")[-1].participation.participants == tuple(sorted(SITES))
    assert contents(tmp_path / "run" / "checkpoints") == contents(
        run(tmp_path, "whole", data=folder, participation__quorum=3) / "checkpoints"
    )


def test_a_site_that_was_refused_is_missing_from_every_round_with_the_reason(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path / "images")
    (folder / "bergen").rename(folder / "elsewhere")
    out = run(tmp_path, "run", data=folder)
    found = results(out)
    assert found["participation"][-1]["missing"] == {"bergen": "empty-site"}
    said = found["data"]["bergen"]
    assert (said["cases"], said["patients"], said["quarantined"]) == (0, 0, {"image-missing": 24})
    assert set(found["final"]["sites"]) == {"aachen", "coimbra"}


STEPS = Schema("brightness-1", (("error", ()),))


def brightness_task(plan: Plan) -> Task:
    """Estimate a number, the place of the label among the plan's classes, from one output; measured by its error."""

    def target(case: Case) -> NDArray[np.generic]:
        if not isinstance(case.label, int):
            raise CaseError("the case has no brightness", code="label-missing")
        return np.array(case.label, np.float32)

    def error(scores: NDArray[np.float32], case: Case) -> float:
        return abs(float(scores[0]) * (len(plan.data.classes) - 1) - float(target(case)))

    def observe(scores: NDArray[np.float32], case: Case) -> Observation:
        return {"error": np.array(in_units(error(scores, case)), np.int64)}

    def metrics(counts: Mapping[str, NDArray[np.int64]]) -> Metrics:
        return {"mae": float(ratio(counts["error"] * UNIT, counts["cases"]))}

    return Task(
        name="brightness",
        output_channels=1,
        output="image",
        headline="mae",
        target=target,
        loss=lambda outputs, targets: (outputs[:, 0].sigmoid() - targets).pow(2),
        decode=lambda outputs: outputs.sigmoid().numpy(),
        schema=STEPS,
        observe=observe,
        metrics=metrics,
        describe=lambda scores, case: {"brightness": int(target(case)), "error": error(scores, case)},
        lower_is_better=frozenset({"mae"}),
        limits={"mae": (0.0, 1.0)},
    )


def test_a_third_task_runs_from_images_to_report_with_nothing_changed_but_the_table_of_tasks(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: predictions.csv, averaged here; worst means largest, since less is better."""
    monkeypatch.setitem(TASKS, "brightness", brightness_task)
    changes = {"personalisation__steps": 2, "personalisation__learning_rate": 0.01, "training__steps": 10}
    setting = scenario(tmp_path, plan__task="brightness", **changes)
    order = Order(tmp_path / "run", images, workers=1, baselines=True, save_predictions=True)
    out = running.run(setting, order, Silent())
    rows, found = predictions(out), results(out)
    by_site = {site: [float(row["error"]) for row in rows if row["site"] == site] for site in SITES}
    assert found["headline"] == "mae"
    assert found["lower_is_better"] == ["mae"]
    pooled = found["final"]["pooled"]["mae"]
    assert pooled["value"] == pytest.approx(np.mean([float(row["error"]) for row in rows]), abs=UNIT)
    assert pooled["low"] < pooled["value"] < pooled["high"]
    assert pooled["value"] < 0.5, "it learns"
    worst = max(by_site, key=lambda site: float(np.mean(by_site[site])))
    assert found["final"]["worst"]["mae"]["site"] == worst
    assert set(found["baselines"]["local"]) == set(found["personalised"]["sites"]) == set(SITES)
    assert "mae" in (out / "report.html").read_text().lower()


def test_a_case_that_a_third_task_cannot_use_is_set_aside_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "brightness", brightness_task)
    folder = write_hospitals(tmp_path / "images")
    unlabelled = [row | {"label": ""} if row["patient"] == "p0" else row for row in read_rows(folder)]
    write_rows(folder, unlabelled)
    out = run(tmp_path, "run", data=folder, plan__task="brightness")
    said = results(out)["data"]["aachen"]
    assert (said["cases"], said["patients"], said["quarantined"]) == (22, 11, {"label-missing": "<3"})
