"""Admission by phantom: equal parties agree, each planted mistake is named, and other hardware is no mistake."""

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_federation import tiny_plan
from torch import nn

from shared import admission, models, phantom, tasks
from shared.admission import Machine, fingerprint_of, window
from shared.fingerprint import Fingerprint, differences
from shared.message_bytes import reply_from_bytes, reply_to_bytes
from shared.messages import Welcome
from shared.plan import Plan
from shared.preprocessing import intensity, pipeline, spatial

CHANGES: dict[str, Any] = {"flip": True, "rotate_degrees": 20.0, "scale": 0.1, "gamma": 0.2, "noise": 0.1}

MASKS: dict[str, Any] = {
    "plan__task": "segmentation",
    "data__classes": ["background", "organ", "lesion"],
    "preprocessing__size": [16, 24],
    "preprocessing__fit": "letterbox",
    "model__name": "unet",
    "model__channels": [4, 8],
    "training__augmentation": CHANGES,
}


def labels_plan(**changes: Any) -> Plan:
    return tiny_plan(**{"preprocessing__size": [16, 16], "training__augmentation": CHANGES, **changes})


def masks_plan(**changes: Any) -> Plan:
    return tiny_plan(**{**MASKS, **changes})


def made(plan: Plan, machine: Machine | None = None) -> Fingerprint:
    return fingerprint_of(plan, tasks.task_for(plan), machine)


def named(lines: list[str]) -> set[str]:
    """Parts of the phantom that lines are about, such as ``network.pattern``; other entries by their name."""
    names = [line.partition(":")[0].removeprefix("phantom.") for line in lines]
    return {".".join(name.split(".")[:2]) for name in names}


PLANS = {
    "labels": labels_plan(),
    "findings": labels_plan(data__labels="multilabel", data__classes=["a", "b", "c"]),
    "masks": masks_plan(),
    "volumes": masks_plan(
        preprocessing__size=[8, 16, 16], training__patch=[8, 16, 8], training__foreground_patches=0.5
    ),
    "spacing": masks_plan(preprocessing__spacing_mm=[1.5, 1.0], preprocessing__crop={"kind": "lesion"}),
}
HERE = {name: made(plan) for name, plan in PLANS.items()}


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_same_plan_gives_the_same_fingerprint_twice(name: str) -> None:
    assert made(PLANS[name]) == HERE[name]


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_part_is_told_and_every_number_is_finite_or_a_metric(name: str) -> None:
    found = dict(HERE[name])
    parts = {entry.split(".")[1] for entry in found if entry.startswith("phantom.")}
    assert parts == {
        "preprocessing", "augmentation", "weights", "network", "device", "decoding", "statistics", "metrics"
    }  # fmt: skip
    undetermined = [entry for entry, value in found.items() if "nan" in value or "inf" in value]
    assert all(entry.startswith("phantom.metrics.") for entry in undetermined)
    assert not [value for value in found.values() if value.startswith("refused")]


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_fingerprint_crosses_the_wire_as_it_is_and_is_small(name: str) -> None:
    reply = reply_from_bytes(reply_to_bytes(Welcome(HERE[name], 1)))
    assert isinstance(reply, Welcome)
    assert differences(HERE[name], reply.fingerprint) == []
    assert sum(len(entry) + len(value) for entry, value in HERE[name]) < 16_000


def test_the_accuracy_of_known_predictions_is_what_one_counts_by_hand() -> None:
    value = float(dict(HERE["labels"])["phantom.metrics.accuracy"].partition(":")[2])
    right = [scores.argmax() == case.label for case, scores in phantom.scored_images(PLANS["labels"])]
    assert 0.5 < np.mean(right) < 0.9
    assert value == pytest.approx(np.mean(right), abs=1e-6)


# --- planted mistakes ------------------------------------------------------------------------------------------------


def test_another_constant_of_preprocessing_is_named_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = labels_plan(preprocessing__intensity={"kind": "local-contrast", "sigma_px": 3.0})
    here = made(plan)
    monkeypatch.setattr(intensity, "_FLAT", 0.025)
    lines = differences(here, made(plan))
    assert named(lines) == {"preprocessing.grey", "preprocessing.colour"}
    assert all("usually another interpolation, intensity constant or colour" in line for line in lines)


def test_another_interpolation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_antialiasing(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)

    monkeypatch.setattr(spatial, "_interpolate", without_antialiasing)
    assert named(differences(HERE["masks"], made(PLANS["masks"]))) == {"preprocessing.grey", "preprocessing.colour"}


def test_a_mask_that_is_resampled_half_a_voxel_off_is_named_by_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    def floored(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        nearest = [np.arange(new) * old // new for old, new in zip(mask.shape, shape, strict=True)]
        return np.ascontiguousarray(mask[np.ix_(*nearest)])

    monkeypatch.setattr(pipeline, "resample_mask", floored)
    assert named(differences(HERE["masks"], made(PLANS["masks"]))) == {"preprocessing.grid"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"preprocessing__intensity": {"kind": "percentile", "low": 1.0}}, {"preprocessing.grey"}),
        ({"preprocessing__spacing_mm": [0.5, 0.5]}, {"preprocessing.grid"}),
        ({"training__augmentation": {**CHANGES, "gamma": 0.21}}, {"augmentation.image"}),
        ({"plan__seed": 4}, {"weights.initial", "network.initial", "device.initial"}),
        ({"model__channels": [4, 12]}, {"parameters", "network.pattern", "network.initial"}),
    ],
    ids=["percentile", "spacing", "gamma", "seed", "channels"],
)
def test_what_a_plan_says_shows_in_the_part_that_it_is_about(changes: dict[str, Any], parts: set[str]) -> None:
    found = named(differences(HERE["masks"], made(masks_plan(**changes))))
    assert parts <= found
    if "model__channels" not in changes:
        assert {name.split(".")[0] for name in found} == {part.split(".")[0] for part in parts}


def test_rotation_the_other_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "radians", lambda degrees: -degrees * math.pi / 180)
    found = named(differences(HERE["masks"], made(PLANS["masks"])))
    assert {"augmentation.image"} <= found <= {"augmentation.image", "augmentation.mask"}


def test_a_generator_that_draws_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "generator", lambda *_names: np.random.default_rng(1))
    assert named(differences(HERE["masks"], made(PLANS["masks"]))) >= {"augmentation.draws", "augmentation.image"}


def test_another_formula_of_a_metric_is_named_with_the_metric_and_both_values() -> None:
    plan = PLANS["masks"]
    task = tasks.task_for(plan)
    wrong = dataclasses.replace(task, metrics=lambda counts: {**task.metrics(counts), "dice": 0.5})
    (line,) = differences(HERE["masks"], fingerprint_of(plan, wrong))
    value = float(dict(HERE["masks"])["phantom.metrics.dice"].partition(":")[2])
    assert line.startswith(f"phantom.metrics.dice: {value:.6g} here, 0.5 there, ")
    assert line.endswith("1e-09 allowed (usually another formula of the metric)")


def test_another_rule_of_counting_is_named_even_where_metrics_stay() -> None:
    plan = PLANS["labels"]
    task = tasks.task_for(plan)

    def doubled(scores: Any, case: Any) -> Any:
        observed, by_group = task.observe(scores, case), dict(task.schema.shapes)
        return {name: values * (1 + (name in by_group)) for name, values in observed.items()}

    assert "statistics" in named(
        differences(HERE["labels"], fingerprint_of(plan, dataclasses.replace(task, observe=doubled)))
    )


def test_another_activation_is_named() -> None:
    plan = PLANS["labels"]
    wrong = dataclasses.replace(tasks.task_for(plan), decode=lambda logits: logits.sigmoid().numpy())
    assert named(differences(HERE["labels"], fingerprint_of(plan, wrong))) == {"decoding"}


def test_another_loss_changes_loss_and_gradient_but_no_logits() -> None:
    plan = PLANS["labels"]
    task = tasks.task_for(plan)
    wrong = dataclasses.replace(task, loss=lambda logits, targets: 1.05 * task.loss(logits, targets))
    lines = differences(HERE["labels"], fingerprint_of(plan, wrong))
    assert {line.partition(":")[0].rpartition(".")[2] for line in lines} == {"loss", "gradient"}


Touch = Any


@contextlib.contextmanager
def built_with(monkeypatch: pytest.MonkeyPatch, touch: Touch) -> Iterator[None]:
    """Networks are built as ever, then touched."""
    build = models.build

    def touched(*arguments: Any) -> nn.Module:
        network = build(*arguments)
        touch(network)
        return network

    with monkeypatch.context() as patched:
        patched.setattr(models, "build", touched)
        yield


def swap_norms(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                other = nn.GroupNorm(child.num_channels, child.num_channels)
                setattr(module, name, other)


def loosen_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 0.1


@pytest.mark.parametrize("touch", [swap_norms, loosen_norms], ids=["another-norm", "another-epsilon"])
def test_a_wrong_normalisation_is_named_by_the_network_and_not_by_its_weights(
    monkeypatch: pytest.MonkeyPatch, touch: Touch
) -> None:
    with built_with(monkeypatch, touch):
        found = named(differences(HERE["labels"], made(PLANS["labels"])))
    assert found == {"network.initial", "network.pattern", "device.initial", "device.pattern"}


def test_another_initialisation_is_named_and_the_pattern_says_that_the_network_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start_elsewhere(network: nn.Module) -> None:
        with torch.no_grad():
            next(parameter for parameter in network.parameters() if parameter.ndim > 1).mul_(1.1)

    with built_with(monkeypatch, start_elsewhere):
        found = named(differences(HERE["labels"], made(PLANS["labels"])))
    assert {"weights.initial"} <= found <= {"weights.initial", "network.initial", "device.initial"}


def test_a_network_left_in_training_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = masks_plan(model__dropout=0.3)
    here = made(plan)
    assert made(plan) == here, "dropout draws nothing where it is not active"
    monkeypatch.setattr(nn.Module, "eval", lambda self: self.train())
    assert {"network.initial", "network.pattern"} <= named(differences(here, made(plan)))


def test_another_version_of_a_library_is_told_first_and_alone() -> None:
    older = tuple((name, "2.1.0" if name == "torch" else value) for name, value in HERE["masks"])
    (line,) = differences(HERE["masks"], older)
    assert line == f"torch: {dict(HERE['masks'])['torch']} here, 2.1.0 there"


# --- tolerance -------------------------------------------------------------------------------------------------------


def shaken(amount: float) -> Touch:
    """Multiplies what a network gives by 1 + noise of that size."""

    def touch(network: nn.Module) -> None:
        noise = torch.Generator().manual_seed(1)
        network.register_forward_hook(
            lambda _module, _inputs, out: out * (1 + amount * torch.randn(out.shape, generator=noise))
        )

    return touch


@pytest.mark.parametrize("name", ["labels", "masks"])
def test_noise_in_the_last_bits_is_accepted_and_noise_of_a_hundredth_is_not(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with built_with(monkeypatch, shaken(1e-6)):
        assert differences(HERE[name], made(PLANS[name])) == []
    with built_with(monkeypatch, shaken(1e-2)):
        lines = differences(HERE[name], made(PLANS[name]))
    assert "phantom.network.pattern.logits" in {line.partition(":")[0] for line in lines}


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("name", sorted(PLANS))
def test_other_kernels_of_the_cpu_are_accepted(name: str) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        assert differences(HERE[name], made(PLANS[name])) == []


def test_another_number_of_threads_is_accepted() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert differences(HERE["masks"], made(PLANS["masks"])) == []
    finally:
        torch.set_num_threads(threads)


def test_another_layout_in_memory_is_accepted_and_really_run() -> None:
    seen: list[bool] = []

    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        seen.append(True)
        yield

    machine = Machine(layout=torch.channels_last, precision=watched)
    assert differences(HERE["masks"], made(PLANS["masks"], machine)) == []
    assert len(seen) == 2, "once with each set of weights"


def in_bfloat16() -> Machine:
    return Machine(precision=lambda: torch.autocast("cpu", dtype=torch.bfloat16), arithmetic="bfloat16")


class Tf32(torch.overrides.TorchFunctionMode):
    """Rounds what convolutions multiply to the 11 significant bits that TF32 keeps."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.startswith("conv") or func.__name__ == "linear":
            args = (_kept(args[0]), _kept(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))


def _kept(values: torch.Tensor) -> torch.Tensor:
    bits = values.detach().contiguous().view(torch.int32)
    return values + (((bits + 0x1000) & ~0x1FFF).view(torch.float32) - values).detach()


@pytest.mark.parametrize("name", ["labels", "masks"])
def test_an_accelerator_s_precision_is_accepted_and_would_not_be_on_the_cpu(name: str) -> None:
    for machine in (Machine(precision=Tf32, arithmetic="tf32"), in_bfloat16()):
        found = made(PLANS[name], machine)
        assert found != HERE[name]
        assert differences(HERE[name], found) == []
    pretended = tuple((entry, value.replace("bfloat16:", "float32:")) for entry, value in found)
    assert {part.split(".")[0] for part in named(differences(HERE[name], pretended))} == {"device"}


def test_a_fault_of_the_accelerator_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is right on the CPU and gives something else where this party trains."""

    def broken(network: nn.Module) -> None:
        network.register_forward_hook(
            lambda _module, _inputs, out: 0.3 * out if torch.is_autocast_enabled("cpu") else out
        )

    with built_with(monkeypatch, broken):
        lines = differences(HERE["labels"], made(PLANS["labels"], in_bfloat16()))
    assert {part.split(".")[0] for part in named(lines)} == {"device"}
    assert all("accelerator" in line for line in lines)


# --- what it leaves alone --------------------------------------------------------------------------------------------


def test_no_generator_is_moved_and_no_setting_is_left_changed() -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_rng_state().numpy().tobytes(),
            np.random.get_state()[1].tobytes(),  # type: ignore[index] # noqa: NPY002
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        )

    before = state()
    made(masks_plan(model__dropout=0.3), in_bfloat16())
    assert state() == before


def test_a_caller_that_computes_no_gradients_gets_the_same() -> None:
    with torch.no_grad():
        assert differences(HERE["labels"], made(PLANS["labels"])) == []


def test_a_plan_that_cannot_read_the_phantom_says_so_by_a_code_that_both_have() -> None:
    plan = masks_plan(preprocessing__spacing_mm=[1e-4, 1e-4], preprocessing__fit="crop-pad")
    found = made(plan)
    assert dict(found)["phantom.preprocessing.grey"] == "refused:image-too-large"
    assert differences(found, made(plan)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preprocessing__size": [512, 512]}, (16, 16)),
        ({"preprocessing__size": [512, 512], "model__norm": "instance", "model__channels": [4, 8, 16]}, (16, 16)),
        ({"preprocessing__size": [512, 512], "model__channels": [4, 8, 16, 32, 64]}, (32, 32)),
        ({"preprocessing__size": [96, 512, 512], "training__patch": [8, 64, 64]}, (8, 16, 16)),
        ({"preprocessing__size": [8, 8]}, (8, 8)),
    ],
    ids=["large", "instance", "deep", "patch", "small"],
)
def test_the_network_reads_a_small_image_that_it_can_take_whatever_the_plan_s_size(
    changes: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert window(masks_plan(**{"model__norm": "group", **changes})) == expected


def test_it_costs_less_than_a_second_for_a_plan_like_the_demo_s() -> None:
    plan = masks_plan(preprocessing__size=[96, 96], model__channels=[16, 32, 48])
    began = time.process_time()
    made(plan)
    assert time.process_time() - began < 1
