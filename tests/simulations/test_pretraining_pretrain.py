"""Pretraining gives the same bytes twice, weights that a plan loads, and features as it promises."""

import hashlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from typer.testing import CliRunner

from client.training.inference import scores
from client.workbench import Workbench
from shared import models
from shared.errors import PlanError
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from shared.tasks import task_for
from simulations.cli import app
from simulations.pretraining.curriculum import curriculum_for, lesson
from simulations.pretraining.fundus import fundus
from simulations.pretraining.lesions import FINDINGS
from simulations.pretraining.pretrain import Order, Weights, logistic, pretrain, save, whitening
from simulations.progress import Silent

LESSON = Order(seed=5, images=24, steps=3)


def plan_for(model: dict[str, Any], **sections: dict[str, Any]) -> Plan:
    return from_document(
        {
            "plan": {"name": "tiny", "task": "classification", "rounds": 2, "seed": 1},
            "data": {"modality": "us", "classes": ["benign", "malignant"], **sections.pop("data", {})},
            "preprocessing": {"size": [32, 32], "fit": "stretch", "crop": {"kind": "lesion"}},
            "model": {"norm": "group", **model},
            "training": {"steps": 1, "patients_per_step": 2, "learning_rate": 1e-3, "device": "cpu"},
            "privacy": {"unit": "none"},
            **sections,
        }
    )


PLAIN = plan_for({"name": "cnn", "channels": [4, 8]})
WHITENED = plan_for({"name": "whitened_cnn", "channels": [4, 8, 5]})
VESSELS = plan_for(
    {"name": "fine_unet", "channels": [4, 4, 8]},
    plan={"name": "tiny", "task": "segmentation", "rounds": 2},
    data={"modality": "fundus", "classes": ["background", "vessel"]},
    preprocessing={"size": [64, 64], "fit": "letterbox", "colour": "green"},
    training={"steps": 1, "patients_per_step": 2, "learning_rate": 1e-3, "patch": [32, 32], "device": "cpu"},
)
PLANS = {"cnn": PLAIN, "whitened_cnn": WHITENED, "fine_unet": VESSELS}


@cache
def pretrained(name: str) -> Weights:
    return pretrain(PLANS[name], LESSON, Silent())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PLANS)
def test_the_same_order_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    again = pretrain(PLANS[name], LESSON, Silent())
    assert save(pretrained(name), tmp_path / "first") == save(again, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whitened_cnn", "fine_unet"])
def test_the_same_order_gives_the_same_bytes_on_one_process_or_two(name: str, tmp_path: Path) -> None:
    again = pretrain(PLANS[name], Order(seed=5, images=24, steps=3, workers=2), Silent())
    assert save(pretrained(name), tmp_path / "first") == save(again, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_another_seed_or_another_number_of_steps_gives_other_weights() -> None:
    for order in (Order(seed=6, images=24, steps=3), Order(seed=5, images=24, steps=2)):
        other = pretrain(PLAIN, order, Silent())
        assert not np.array_equal(other["head.weight"], pretrained("cnn")["head.weight"])


def test_the_seed_of_the_plan_does_not_matter_so_that_all_runs_start_from_one_file() -> None:
    other = PLAIN.model_copy(update={"plan": PLAIN.plan.model_copy(update={"seed": 99})})
    found = pretrain(other, LESSON, Silent())
    assert all(np.array_equal(found[key], tensor) for key, tensor in pretrained("cnn").items())


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_starts_from_the_file_that_was_written(name: str, tmp_path: Path) -> None:
    digest = save(pretrained(name), tmp_path / "start.safetensors")
    pointed = {"file": "start.safetensors", "sha256": digest}
    plan = PLANS[name]
    document = plan.model_dump(mode="json", exclude_none=True)
    document["model"]["pretrained"] = pointed
    bench = Workbench.for_plan(from_document(document), tmp_path)
    for key, parameter in bench.model.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), pretrained(name)[key])


def test_training_on_made_up_images_changed_every_layer() -> None:
    start = models.build(lesson(PLAIN, curriculum_for(PLAIN), 5, 3), len(FINDINGS), "image")
    for name, parameter in start.named_parameters():
        if not name.startswith("head"):
            assert not np.array_equal(parameter.detach().numpy(), pretrained("cnn")[name])


def test_a_network_learns_to_tell_made_up_vessels_from_background() -> None:
    """Two dozen steps are enough to beat what it says before any."""

    def loss_of(steps: int) -> float:
        weights = pretrain(VESSELS, Order(seed=1, images=8, steps=steps), Silent())
        network = models.build(VESSELS, 2, "dense")
        network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.items()})
        task = task_for(VESSELS)
        example = fundus(77, 0)
        case = Case(
            "0",
            "0",
            np.asarray(example.image.voxels[:, 200:264, 200:264] / 100 - 1, np.float32),
            example.mask[200:264, 200:264],
            None,
            (1.0, 1.0),
        )
        images = torch.from_numpy(case.voxels[None])
        with torch.inference_mode():
            return float(task.loss(network(images), torch.from_numpy(task.target(case)[None])).mean())

    assert loss_of(30) < loss_of(1) - 0.1


def test_the_two_outputs_of_the_plan_say_what_the_one_output_for_malignant_said() -> None:
    """softmax of (-z/2, z/2) is the sigmoid of z."""
    weights = pretrained("cnn")
    network = models.build(PLAIN, 2, "image")
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.items()})
    case = Case("0", "0", np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32), None, 1, (1.0, 1.0))
    ((_, found),) = scores(network, [case], task_for(PLAIN), PLAIN, torch.device("cpu"))
    features = network[:-1](torch.from_numpy(case.voxels[None]))[0].detach().numpy()  # type: ignore[index]
    logit = 2 * (weights["head.weight"][1] @ features + weights["head.bias"][1])
    assert found[1] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert weights["head.weight"].shape == (2, 8)


def test_whitened_features_are_standardised_and_uncorrelated() -> None:
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) * np.array([1, 10, 0.1, 5, 2, 1]) + 7
    weight, bias = whitening(mixed, 4)
    white = mixed @ weight.T + bias
    assert white.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-9)
    assert np.cov(white, rowvar=False, bias=True) == pytest.approx(np.eye(4), abs=1e-9)


def test_whitening_keeps_the_components_with_most_variance_first() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(size=(2000, 1))
    features = np.column_stack([common + 0.1 * rng.normal(size=(2000, 3)), rng.normal(size=(2000, 1))])
    weight, bias = whitening(features, 1)
    found = (features @ weight.T + bias)[:, 0]
    assert abs(np.corrcoef(found, common[:, 0])[0, 1]) > 0.99


def test_a_feature_that_never_changes_gets_no_weight_and_breaks_nothing() -> None:
    features = np.random.default_rng(5).normal(size=(100, 3))
    features[:, 1] = 4.0
    weight, bias = whitening(features, 2)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert not weight[:, 1].any()


def test_the_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(6)
    features, truth = rng.normal(size=(20_000, 3)), np.array([1.5, -1.0, 0.0])
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(features @ truth + 0.5)))).astype(float)
    # The ridge of 0.01 against a curvature of about 0.15 draws weights towards 0 by some six in a hundred.
    assert logistic(features, labels) == pytest.approx([*truth, 0.5], abs=0.15)


def test_the_whitened_start_separates_made_up_lesions_as_its_features_allow() -> None:
    weights = pretrained("whitened_cnn")
    assert weights["whiten.weight"].shape == (5, 12)
    assert weights["head.weight"].shape == (2, 5)
    assert np.array_equal(weights["head.weight"][0], -weights["head.weight"][1])


def test_weights_hold_one_float32_tensor_for_each_parameter_and_nothing_else() -> None:
    for name, plan in PLANS.items():
        task = task_for(plan)
        wanted = dict(models.build(plan, task.output_channels, task.output).named_parameters())
        assert wanted.keys() == pretrained(name).keys()
        for key, parameter in wanted.items():
            assert pretrained(name)[key].dtype == np.float32
            assert pretrained(name)[key].shape == tuple(parameter.shape)


def test_every_weight_is_finite() -> None:
    for name in PLANS:
        assert all(np.isfinite(tensor).all() for tensor in pretrained(name).values())


def test_the_file_is_named_by_the_digest_of_its_bytes(tmp_path: Path) -> None:
    digest = save(pretrained("cnn"), tmp_path / "deeper" / "start.safetensors")
    assert hashlib.sha256((tmp_path / "deeper" / "start.safetensors").read_bytes()).hexdigest() == digest
    read = safetensors.numpy.load_file(tmp_path / "deeper" / "start.safetensors")
    assert all(np.array_equal(read[key], tensor) for key, tensor in pretrained("cnn").items())


def test_writing_the_same_weights_in_another_order_gives_the_same_file(tmp_path: Path) -> None:
    backwards = dict(reversed(list(pretrained("cnn").items())))
    assert save(backwards, tmp_path / "first") == save(pretrained("cnn"), tmp_path / "second")


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    path.write_bytes(b"something else")
    digest = save(pretrained("cnn"), path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_a_network_whose_layers_a_plan_freezes_is_pretrained_all_the_same() -> None:
    frozen = plan_for({"name": "cnn", "channels": [4, 8], "freeze": ["stages"]})
    found = pretrain(frozen, LESSON, Silent())
    assert all(np.array_equal(found[key], tensor) for key, tensor in pretrained("cnn").items())


def test_a_plan_that_names_weights_which_do_not_exist_yet_can_be_pretrained() -> None:
    """The plan that will use the file is the plan from which it is made."""
    pointed = {"file": "not-there-yet.safetensors", "sha256": "0" * 64}
    found = pretrain(plan_for({"name": "cnn", "channels": [4, 8], "pretrained": pointed}), LESSON, Silent())
    assert all(np.array_equal(found[key], tensor) for key, tensor in pretrained("cnn").items())


def test_more_features_than_images_show_are_refused_rather_than_blown_up() -> None:
    few = np.random.default_rng(8).normal(size=(3, 6))
    with pytest.raises(PlanError, match="of rank 2"):
        whitening(few, 5)


def test_the_command_prints_what_a_plan_needs_and_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    small = ["--images", "4", "--steps", "1", "--workers", "1", "--set", "model.channels=[2,2,2]"]
    found = CliRunner().invoke(app, ["pretrain", "breast-private", "--out", str(out), *small])
    assert found.exit_code == 0, found.output
    said = tomllib.loads(found.stdout)["model"]["pretrained"]
    assert said["file"] == out.as_posix()
    assert said["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_the_command_refuses_a_scenario_for_which_nothing_is_made_up(tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    found = CliRunner().invoke(app, ["pretrain", "demo", "--out", str(out)])
    assert isinstance(found.exception, PlanError)
    assert not out.exists()
