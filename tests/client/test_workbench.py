"""The workbench: a plan's tools are the same everywhere, and what is impossible about them is found before any data."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from masked_federation import SUMMED, masked_plan
from tiny_federation import tiny_plan

from client.training import device as devices
from client.workbench import Workbench
from shared.arrays import read_vector, schema_of
from shared.errors import CapacityError, ConsiliumError, ModelError, PlanError, ProtocolError
from shared.plan import Plan


def refusal(plan: Plan, weights_folder: Path | None = None) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as refused:
        Workbench.for_plan(plan, weights_folder)
    return refused.value


def test_two_parties_with_one_plan_start_from_the_same_weights() -> None:
    one, other = (Workbench.for_plan(tiny_plan()) for _ in range(2))
    np.testing.assert_array_equal(one.initial_weights(), other.initial_weights())
    assert one.fingerprint() == other.fingerprint()


def test_another_seed_starts_elsewhere() -> None:
    one, other = (Workbench.for_plan(tiny_plan(plan__seed=seed)).initial_weights() for seed in (1, 2))
    assert (one != other).any()


def test_the_initial_weights_are_the_network_s_parameters_in_their_order() -> None:
    bench = Workbench.for_plan(tiny_plan())
    by_hand = torch.cat([parameter.detach().ravel() for parameter in bench.model.parameters()]).numpy()
    np.testing.assert_array_equal(bench.initial_weights(), by_hand)
    assert bench.parameters == schema_of(bench.model)
    assert bench.initial_weights().shape == (bench.parameters.length,)


def test_loading_replaces_all_weights_and_leaves_no_trace_of_the_last() -> None:
    bench = Workbench.for_plan(tiny_plan())
    start = bench.initial_weights()
    bench.load(start + np.float32(1))
    np.testing.assert_array_equal(read_vector(bench.load(start)), start)


def test_weights_that_do_not_fit_change_nothing() -> None:
    bench = Workbench.for_plan(tiny_plan())
    start = bench.initial_weights()
    with pytest.raises(ProtocolError, match=f"expected {start.size} float32 weights"):
        bench.load(start[1:])
    np.testing.assert_array_equal(bench.initial_weights(), start)


def test_the_task_decides_how_many_outputs_the_network_has() -> None:
    for classes in (["a", "b"], ["a", "b", "c"]):
        bench = Workbench.for_plan(tiny_plan(data__classes=classes))
        assert bench.model(torch.zeros(1, 1, 8, 8)).shape == (1, len(classes))


def test_the_fingerprint_changes_with_the_network_and_with_what_is_counted() -> None:
    usual = dict(Workbench.for_plan(tiny_plan()).fingerprint())
    wider = dict(Workbench.for_plan(tiny_plan(model__channels=[4, 16])).fingerprint())
    classes = dict(Workbench.for_plan(tiny_plan(data__classes=["a", "b", "c"])).fingerprint())
    schemas = [name for name in usual if not name.startswith("phantom.")]
    assert {name for name in schemas if usual[name] != wider[name]} == {"parameters"}
    assert {name for name in schemas if usual[name] != classes[name]} == {"parameters", "statistics"}


def test_the_fingerprint_leaves_the_network_as_it_was_and_is_made_once() -> None:
    bench = Workbench.for_plan(tiny_plan())
    moved = bench.initial_weights() + np.float32(1)
    bench.load(moved).train()
    found = bench.fingerprint()
    np.testing.assert_array_equal(bench.initial_weights(), moved)
    assert bench.model.training
    assert all(parameter.grad is None for parameter in bench.model.parameters())
    assert bench.fingerprint() is found
    assert found == Workbench.for_plan(tiny_plan()).fingerprint(), "nor does it depend on what was loaded"


def test_learning_rates_and_rounds_do_not_touch_the_fingerprint() -> None:
    """Two plans that differ in them are told apart by their digests."""
    one, other = tiny_plan(), tiny_plan(training__learning_rate=0.5, plan__rounds=9)
    assert Workbench.for_plan(one).fingerprint() == Workbench.for_plan(other).fingerprint()
    assert one.digest() != other.digest()


def test_frozen_parameters_stay_and_do_not_travel() -> None:
    whole = Workbench.for_plan(tiny_plan())
    first = whole.parameters.names[0].rsplit(".", 1)[0]
    bench = Workbench.for_plan(tiny_plan(model__freeze=[first]))
    assert bench.parameters.length < whole.parameters.length
    assert not [name for name in bench.parameters.names if name.startswith(first)]
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    bench.load(bench.initial_weights() + np.float32(1))
    for name, value in bench.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(first), name


def pretrained(folder: Path) -> tuple[str, str, torch.nn.Module]:
    """A file of another seed's weights in ``folder``: its name, its digest, and the network they are from."""
    model = Workbench.for_plan(tiny_plan(plan__seed=99)).model
    safetensors.torch.save_file(model.state_dict(), folder / "start.safetensors")
    return "start.safetensors", hashlib.sha256((folder / "start.safetensors").read_bytes()).hexdigest(), model


def test_pretrained_weights_are_where_training_starts(tmp_path: Path) -> None:
    file, digest, model = pretrained(tmp_path)
    bench = Workbench.for_plan(tiny_plan(model__pretrained={"file": file, "sha256": digest}), tmp_path)
    np.testing.assert_array_equal(bench.initial_weights(), read_vector(model))


def test_pretrained_weights_are_looked_for_in_the_current_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, digest, model = pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    bench = Workbench.for_plan(tiny_plan(model__pretrained={"file": file, "sha256": digest}))
    np.testing.assert_array_equal(bench.initial_weights(), read_vector(model))


def test_pretrained_weights_that_are_not_those_of_the_plan_are_refused(tmp_path: Path) -> None:
    file, _, _ = pretrained(tmp_path)
    refused = refusal(tiny_plan(model__pretrained={"file": file, "sha256": "0" * 64}), tmp_path)
    assert isinstance(refused, ModelError)
    assert refused.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__name": "cnnn"}, "cnnn"),
        ({"model__name": "unet"}, "one prediction per image"),
        ({"plan__task": "classify"}, "classify"),
        ({"model__channels": [4, 8, 16, 32, 64]}, "each edge to be at least"),
        ({"model__freeze": ["no-such-layer"]}, "no-such-layer"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence_with_a_hint(changes: dict[str, Any], words: str) -> None:
    refused = refusal(tiny_plan(**changes))
    assert isinstance(refused, (ModelError, PlanError))
    assert words in refused.sentence
    assert refused.hint


def test_a_network_without_anything_to_train_is_refused() -> None:
    layers = sorted({name.partition(".")[0] for name in Workbench.for_plan(tiny_plan()).parameters.names})
    assert refusal(tiny_plan(model__freeze=layers)).sentence == "model.freeze leaves no parameter to train"


def test_a_network_that_does_not_fit_into_memory_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda _device: 2**10)
    refused = refusal(tiny_plan())
    assert isinstance(refused, CapacityError)
    assert "MiB" in refused.sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_asked_for_and_absent_is_no_silent_cpu() -> None:
    assert refusal(tiny_plan(training__device="cuda")).code == "no-cuda"


def test_secure_aggregation_changes_nothing_of_what_is_trained() -> None:
    plain, hidden = (Workbench.for_plan(plan) for plan in (tiny_plan(**SUMMED), masked_plan()))
    assert plain.parameters.digest() == hidden.parameters.digest()
    assert np.array_equal(plain.initial_weights(), hidden.initial_weights())
    assert plain.fingerprint() == hidden.fingerprint()


def test_an_update_is_rounded_as_the_plan_says() -> None:
    """Half a step above a point of the grid: to the nearest it is one integer, at random now this and now that."""
    coarse = {"range": 1.0, "bits": 8}
    plans = [tiny_plan(aggregation__fixed_point=coarse | {"rounding": kind}) for kind in ("nearest", "stochastic")]
    found = []
    for plan in plans:
        bench = Workbench.for_plan(plan)
        received = bench.initial_weights()
        bench.load((received + np.float32(0.5 / 128)).astype(np.float32))
        found.append(bench.update(received, 1, np.random.default_rng(3)).values)
    assert set(np.unique(found[0])) <= {0, 1}
    share = np.mean(found[1] == 1)
    assert abs(share - 0.5) < 6 * 0.5 / np.sqrt(found[1].size)
