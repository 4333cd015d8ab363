"""Models on disk: what is saved is what is loaded, names are digests, and nothing foreign or half written is used."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tiny_federation import tiny_plan

from client.workbench import Workbench
from server.aggregation.methods import METHODS, ServerState
from server.run_state import CHECKPOINTS, SERVER_STATE, ModelFiles
from shared.checkpoint import PARTIAL
from shared.errors import RunError
from shared.messages import Vector
from shared.plan import Plan

PLAN = tiny_plan()
BENCH = Workbench.for_plan(PLAN)
START = BENCH.initial_weights()


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return files_in(tmp_path)


def files_in(folder: Path, plan: Plan = PLAN) -> ModelFiles:
    for name in (CHECKPOINTS, SERVER_STATE):
        (folder / name).mkdir(exist_ok=True)
    return ModelFiles(folder, BENCH.parameters, plan.digest())


def on_disk(files: ModelFiles, name: str = CHECKPOINTS) -> list[Path]:
    return sorted((files.folder / name).iterdir())


def moved(weights: Vector, by: float) -> Vector:
    return (weights + np.float32(by)).astype(np.float32)


def stepped(method: str, **changes: Any) -> ServerState:
    aggregation = tiny_plan(aggregation__method=method, **changes).aggregation
    state = ServerState.start(START)
    for by in (0.5, -0.25):
        state, _ = METHODS[method](state, np.full_like(START, by), aggregation)
    return state


def test_a_model_is_one_file_named_by_the_sha256_of_its_bytes(files: ModelFiles) -> None:
    digest = files.save(START, 3)
    (path,) = on_disk(files)
    assert path.name == f"{digest}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_a_model_on_disk_is_the_network_s_parameters_by_name(files: ModelFiles) -> None:
    """Oracle: the safetensors package and torch's own state_dict."""
    files.save(START, 0)
    tensors = safetensors.numpy.load_file(on_disk(files)[0])
    state = {name: value.detach().numpy() for name, value in BENCH.model.state_dict().items()}
    assert tensors.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(tensors[name], value)


def test_what_was_saved_is_loaded_to_the_bit(files: ModelFiles) -> None:
    weights = moved(START, 1 / 3)
    np.testing.assert_array_equal(files.load(files.save(weights, 1)), weights)
    assert files.load(files.save(weights, 1)).dtype == np.float32


def test_saving_the_same_model_of_the_same_round_again_adds_no_file(files: ModelFiles) -> None:
    assert files.save(START, 1) == files.save(START.copy(), 1)
    assert len(on_disk(files)) == 1


def test_the_same_weights_after_another_round_are_another_file(files: ModelFiles) -> None:
    assert files.save(START, 1) != files.save(START, 2)


def test_the_mean_of_models_is_that_of_their_numbers_rounded_once(files: ModelFiles) -> None:
    models = [moved(START, by) for by in (0.1, 0.2, 0.7)]
    mean = files.mean([files.save(model, place) for place, model in enumerate(models)])
    np.testing.assert_array_equal(mean, np.mean(np.array(models, np.float64), axis=0).astype(np.float32))


def test_the_mean_of_one_model_is_that_model(files: ModelFiles) -> None:
    np.testing.assert_array_equal(files.mean([files.save(START, 1)]), START)


def test_a_server_without_moments_keeps_no_file(files: ModelFiles) -> None:
    assert files.save_server(stepped("fedavg")) == ""
    assert on_disk(files, SERVER_STATE) == []
    assert files.load_server(START, "").moments() == {}


@pytest.mark.parametrize("method", ["fedavgm", "fedadam", "fedyogi"])
def test_a_server_s_moments_come_back_and_go_on_to_the_same_weights(files: ModelFiles, method: str) -> None:
    state = stepped(method)
    restored = files.load_server(state.weights, files.save_server(state))
    aggregation = tiny_plan(aggregation__method=method).aggregation
    change = np.full_like(START, 0.125)
    (went_on, _), (resumed, _) = (METHODS[method](one, change, aggregation) for one in (state, restored))
    np.testing.assert_array_equal(went_on.weights, resumed.weights)
    assert went_on.step == resumed.step == 3


def test_a_checkpoint_of_another_plan_is_refused_with_both_digests(files: ModelFiles) -> None:
    other = tiny_plan(plan__seed=4)
    digest = files_in(files.folder, other).save(START, 1)
    with pytest.raises(RunError, match=f"belongs to plan {other.digest()[:12]}, this is plan {PLAN.digest()[:12]}"):
        files.load(digest)


def test_moments_of_another_plan_are_refused_too(files: ModelFiles) -> None:
    digest = files_in(files.folder, tiny_plan(plan__seed=4)).save_server(stepped("fedadam"))
    with pytest.raises(RunError) as refused:
        files.load_server(START, digest)
    assert refused.value.code == "checkpoint-plan"


def test_a_flipped_bit_is_an_error_and_never_a_model(files: ModelFiles) -> None:
    digest = files.save(START, 1)
    (path,) = on_disk(files)
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(bytes(spoilt))
    with pytest.raises(RunError, match="holds other bytes than its name says"):
        files.load(digest)


def test_a_model_that_is_gone_is_an_error_that_names_it(files: ModelFiles) -> None:
    with pytest.raises(RunError, match="cannot be read") as refused:
        files.load("0" * 64)
    assert refused.value.hint


def test_sweeping_removes_what_was_left_half_written_and_nothing_else(files: ModelFiles) -> None:
    files.save(START, 1)
    files.save_server(stepped("fedadam"))
    whole = [on_disk(files), on_disk(files, SERVER_STATE)]
    for name in (CHECKPOINTS, SERVER_STATE):
        (files.folder / name / f"{PARTIAL}x1").write_bytes(b"half")
    files.sweep()
    assert [on_disk(files), on_disk(files, SERVER_STATE)] == whole
