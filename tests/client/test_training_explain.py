"""Explanations: against other ways to the same map, every network, planted faults, and what must not leave."""

import copy
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from monai.visualize import OcclusionSensitivity
from scipy.stats import spearmanr
from tiny_federation import tiny_plan
from torch import Tensor, nn
from torch.nn import functional

from client.training.explain import Method, explain, explainer, last_map
from client.training.explained import chosen, drawn_anew, explained, lesion_of
from shared.errors import ModelError, PlanError
from shared.evaluation.additive import Statistics
from shared.evaluation.explanations import Explained, explaining, explanations_block
from shared.models import ModelSpec, build, build_network
from shared.plan import Plan
from shared.preprocessing.image import Case
from shared.seeds import generator
from shared.tasks import task_for
from shared.tasks.classification import cross_entropy

CPU = torch.device("cpu")
EDGE = 24
METHODS: tuple[Method, ...] = ("grad-cam", "occlusion")


def blob_plan(**changes: Any) -> Plan:
    return tiny_plan(preprocessing__size=[EDGE, EDGE], data__classes=["quiet", "blob"], **changes)


def blob_case(number: int, label: int, edge: int = EDGE) -> Case:
    """Noise with a bright square that means nothing, and in the second class a dark one, which is the lesion."""
    rng = generator(8, "blob", str(number), str(label))
    (row, column), (other_row, other_column) = corners = rng.integers(0, edge - 5, (2, 2))
    while abs(corners[0] - corners[1]).max() < 8:
        (row, column), (other_row, other_column) = corners = rng.integers(0, edge - 5, (2, 2))
    mask = np.zeros((edge, edge), np.uint8)
    mask[row : row + 6, column : column + 6] = 1
    voxels = rng.normal(0, 0.5, (1, edge, edge)) - (2.0 if label else 0.0) * mask
    voxels[0, other_row : other_row + 6, other_column : other_column + 6] += 3.0
    return Case(f"b{number}", f"p{number // 2}", voxels.astype(np.float32), mask, label, (1.0, 1.0))


CASES = [blob_case(number, 1) for number in range(12)]


def untrained(seed: int, *, normalised: bool = False) -> nn.Module:
    model = build_network(ModelSpec("cnn", 2, 1, 2, (8, 16, 16), "group"), seed)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.GroupNorm) and not normalised:
            model.set_submodule(name, nn.Identity())
    return model


@lru_cache(maxsize=1)
def training_images() -> Tensor:
    """Images of the two classes in turn."""
    return torch.from_numpy(np.stack([blob_case(1000 + at, at % 2).voxels for at in range(320)]))


@lru_cache(maxsize=1)
def trained() -> nn.Module:
    return taught(untrained(7))


def taught(model: nn.Module) -> nn.Module:
    """``model`` after it has learnt to tell dark squares."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        images = training_images()[16 * (step % 20) :][:16]
        loss = cross_entropy(model(images), torch.arange(16) % 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    return model.eval()


def asking(method: Method, **changes: Any) -> Plan:
    return blob_plan(evaluation__explain=method, evaluation__floor=3, evaluation__release="sum", **changes)


def seen(model: nn.Module, cases: Sequence[Case], plan: Plan) -> Statistics:
    return explained(model, cases, task_for(plan), plan, CPU)


def told(model: nn.Module, method: Method, cases: Sequence[Case] = CASES) -> dict[str, Any]:
    plan = asking(method)
    asked = explaining(plan)
    assert asked is not None
    block: dict[str, Any] = explanations_block(Explained(asked, seen(model, cases, plan), {}))["classes"]["blob"]
    return block


def pooled(model: nn.Module, method: Method, cases: Sequence[Case] = CASES) -> dict[str, float]:
    return {name: of["value"] for name, of in told(model, method, cases)["model"].items()}


class Corner(nn.Module):
    """Looks at the upper left corner of an image and at nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.window = nn.Conv2d(2, 2, 1, groups=2, bias=False)
        nn.init.constant_(self.features.weight, 0.2)
        nn.init.ones_(self.window.weight)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.zeros_like(images)
        seen[..., :4, :4] = 1 + images[..., :4, :4].abs()
        maps: Tensor = self.window(self.features(seen).relu())
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


# --- against other ways to the same map ------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_grad_cam_of_a_global_average_is_the_class_activation_map(index: int) -> None:
    """Selvaraju et al., section 3.1: with a linear head on global means, both are the same up to scale."""
    model, case = trained(), CASES[0]
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        features = model.stages(torch.from_numpy(case.voxels)[None])
        weights = model.head.weight[index] - model.head.weight[1 - index]
        rough = (features * weights[None, :, None, None]).sum(dim=1, keepdim=True).relu()
        by_hand = functional.interpolate(rough, size=(EDGE, EDGE), mode="bilinear")[0, 0].numpy()
    found = explain(model, case, index, blob_plan(), CPU, "grad-cam")
    np.testing.assert_allclose(found, by_hand / max(by_hand.max(), 1e-12), atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_occlusion_is_what_monai_finds_where_torch_still_reads_its_indices(index: int) -> None:
    model, case = trained(), CASES[1]
    image = torch.from_numpy(case.voxels)[None]

    def log_odds(logits: Tensor) -> Tensor:
        return logits - logits.flip(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = OcclusionSensitivity(
            model, mask_size=EDGE // 8, mode="mean_img", overlap=0.5, activate=log_odds, verbose=False
        )
        left, _ = monai(image)
    with torch.no_grad():
        fall = (log_odds(model(image))[0, index] - left[0, index].as_tensor()).clamp(min=0).numpy()
    found = explain(model, case, index, blob_plan(), CPU, "occlusion")
    np.testing.assert_allclose(found, fall / fall.max(), atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
def test_occlusion_of_a_linear_network_is_its_weights_times_what_differs_from_the_mean(size: tuple[int, ...]) -> None:
    """One voxel, one window: with as many windows an edge as voxels nothing overlaps."""
    rng = np.random.default_rng(2)
    weights, voxels = rng.normal(size=(2, *size)).astype(np.float32)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.stack([torch.zeros(64), torch.from_numpy(weights).flatten()]))
    case = Case("c", "p", voxels[None], None, 1, (1.0,) * len(size))
    gain = weights * (voxels - voxels.mean())
    found = explain(linear, case, 1, tiny_plan(), CPU, "occlusion")
    np.testing.assert_allclose(found, gain.clip(0) / gain.max(), atol=1e-4)


def test_a_window_shows_the_mean_of_each_channel_and_not_of_all() -> None:
    """Three channels of even colour: hiding any part of them changes nothing, so there is no map."""
    even = np.broadcast_to(np.float32([10, 20, 90])[:, None, None], (3, 8, 8))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.arange(384.0).reshape(2, 192).sin())
    case = Case("c", "p", np.ascontiguousarray(even), None, 1, (1.0, 1.0))
    assert explain(linear, case, 1, tiny_plan(), CPU, "occlusion").max() == 0.0


def test_a_constant_added_to_all_logits_changes_no_map_though_it_changes_each_logit() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(trained())

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(images)
            return logits + 5 * images.square().mean(dim=(1, 2, 3))[:, None]

    for method in METHODS:
        one, other = (explain(model, CASES[2], 1, blob_plan(), CPU, method) for model in (trained(), Shifted()))
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_findings_that_may_occur_together_are_explained_by_their_own_logit() -> None:
    plan = blob_plan(data__labels="multilabel")
    model, case = trained(), CASES[3]
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        features = model.stages(torch.from_numpy(case.voxels)[None])
        rough = (features * model.head.weight[1][None, :, None, None]).sum(dim=1, keepdim=True).relu()
        by_hand = functional.interpolate(rough, size=(EDGE, EDGE), mode="bilinear")[0, 0].numpy()
    found = explain(model, case, 1, plan, CPU, "grad-cam")
    np.testing.assert_allclose(found, by_hand / by_hand.max(), atol=1e-5)


# --- every network ---------------------------------------------------------------------------------------------------

LAYERS = {
    ("cnn", 2): "network.stages",
    ("cnn", 3): "network.stages",
    ("whitened_cnn", 2): "network.stages.3",
    ("whitened_cnn", 3): "network.stages.3",
    ("densenet121", 2): "network.class_layers.relu",
    ("densenet121", 3): "network.features.transition3.conv",
    ("resnet18", 2): "network.layer4",
    ("resnet18", 3): "network.layer3",
}


@pytest.mark.parametrize(("name", "dimensions"), LAYERS, ids=str)
def test_every_classifier_has_a_map_from_the_last_layer_that_has_one(name: str, dimensions: int) -> None:
    size = [64, 64] if dimensions == 2 else [32, 32, 32]
    plan = tiny_plan(
        preprocessing__size=size,
        preprocessing__spacing_mm=[1.0] * dimensions,
        model__name=name,
        model__channels=None,
        data__modality="mr",
    )
    model = build_network(ModelSpec(name, dimensions, 1, 2, None, "group"), 1)
    voxels = np.random.default_rng(4).normal(size=(1, *size)).astype(np.float32)
    case = Case("c", "p", voxels, None, 1, (1.0,) * dimensions)
    wrapped = nn.ModuleDict({"network": model})
    wrapped.forward = model.forward  # type: ignore[method-assign]
    assert last_map(wrapped.eval(), torch.zeros(1, 1, *size)) == LAYERS[name, dimensions]
    methods: tuple[Method, ...] = METHODS if dimensions == 2 and name == "cnn" else ("grad-cam",)
    for method in methods:
        maps = [explain(model, case, index, plan, CPU, method) for index in (0, 1)]
        for found in maps:
            assert found.shape == tuple(size)
            assert found.dtype == np.float32
            assert found.min() >= 0
            assert found.max() in {0.0, 1.0}
        assert max(found.max() for found in maps) == 1.0


def test_a_network_without_a_map_is_refused_by_grad_cam_and_explained_by_occlusion() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    case = Case("c", "p", CASES[0].voxels[:, :8, :8], None, 1, (1.0, 1.0))
    with pytest.raises(ModelError, match="none of the network's 3 layers") as refused:
        explain(flat, case, 1, tiny_plan(), CPU, "grad-cam")
    assert "occlusion" in refused.value.hint
    assert explain(flat, case, 1, tiny_plan(), CPU, "occlusion").max() == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_frozen_networks_are_explained_and_nothing_of_a_network_changes(method: Method) -> None:
    model = copy.deepcopy(trained()).requires_grad_(False).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = explain(model, CASES[0], 1, blob_plan(), CPU, method)
    np.testing.assert_array_equal(found, explain(trained(), CASES[0], 1, blob_plan(), CPU, method))
    assert model.training
    assert not any(of.requires_grad or of.grad is not None for of in model.parameters())
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_diverged_network_has_a_map_of_zeros_and_the_summary_says_so(method: Method) -> None:
    broken = copy.deepcopy(trained())
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    assert explain(broken, CASES[0], 1, blob_plan(), CPU, method).max() == 0.0
    found = pooled(broken, method, CASES[:6])
    assert found["saliency_found"] == 0.0
    assert found["saliency_inside"] is None


# --- does it see what is there? --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_learnt_the_lesion_looks_at_it_and_one_of_random_weights_does_not(method: Method) -> None:
    """Adebayo et al.: the control has the same architecture and images, and weights drawn anew."""
    learnt = pooled(trained(), method)
    assert learnt["saliency_chance"] == pytest.approx(36 / EDGE**2, abs=1e-6)
    assert learnt["pointing_game"] > 0.9
    assert learnt["saliency_inside"] > 3 * learnt["saliency_chance"]
    drawn = [pooled(untrained(seed), method) for seed in (1, 2)]
    assert np.mean([of["pointing_game"] for of in drawn]) < 0.3
    assert np.mean([of["saliency_inside"] for of in drawn]) < 0.4 * learnt["saliency_inside"]


@pytest.mark.slow
def test_under_group_norm_grad_cam_misses_what_occlusion_finds() -> None:
    """Eight seeds; the control is the same seeds and images without normalisation, where Grad-CAM finds it too."""
    models = {norm: [taught(untrained(seed, normalised=norm)) for seed in range(8)] for norm in (False, True)}
    by_norm = {
        norm: np.array([pooled(model, "grad-cam")["pointing_game"] for model in some]) for norm, some in models.items()
    }
    assert by_norm[False].mean() > 0.9
    assert by_norm[True].mean() < 0.8
    assert by_norm[True].min() < 0.5
    assert min(pooled(model, "occlusion")["pointing_game"] for model in models[True]) > 0.75


@pytest.mark.parametrize("method", METHODS)
def test_a_map_changes_when_the_weights_are_drawn_anew_and_only_then(method: Method) -> None:
    """Rank correlation as in Adebayo et al., section 3; the control is the same network once more."""

    def maps(model: nn.Module) -> list[Any]:
        explain_one = explainer(model, blob_plan(), CPU, method)
        return [explain_one(case, 1).ravel() for case in CASES[:3]]

    learnt, again, *drawn = map(maps, (trained(), copy.deepcopy(trained()), untrained(1), untrained(2)))
    assert min(spearmanr(one, other)[0] for one, other in zip(learnt, again, strict=True)) > 0.999
    assert np.mean([spearmanr(a, b)[0] for other in drawn for a, b in zip(learnt, other, strict=True)]) < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_looks_only_at_a_corner_is_found(method: Method) -> None:
    """However well it may score, its attention is not on the lesions; no lesion here lies in the corner."""
    cases = [case for case in CASES if case.mask is not None and not case.mask[:8, :8].any()]
    assert len(cases) > 6
    found = told(Corner(), method, cases)["model"]
    assert found["saliency_found"]["value"] == 1.0
    assert found["pointing_game"]["value"] == 0.0
    assert found["saliency_inside"]["value"] < 0.2 * found["saliency_chance"]["value"]
    assert found["pointing_game"]["high"] < pooled(trained(), method, cases)["pointing_game"]


# --- what may leave --------------------------------------------------------------------------------------------------


def test_cases_without_a_mask_and_with_an_empty_one_do_not_count() -> None:
    def without(case: Case, mask: Any) -> Case:
        return Case(case.case_id + "x", case.patient + "x", case.voxels, mask, case.label, case.spacing_mm)

    more = [without(case, mask) for case in CASES[:3] for mask in (None, np.zeros((EDGE, EDGE), np.uint8))]
    one, other = (seen(trained(), cases, asking("grad-cam")) for cases in (CASES, [*CASES, *more]))
    assert (one.flat() == other.flat()).all()
    assert int(one.total()["cases"]) == 12
    assert int(one.total()["patients"]) == 6


@pytest.mark.parametrize("method", METHODS)
def test_sums_of_two_sites_are_the_statistics_of_both_in_one_room(method: Method) -> None:
    parts = [seen(trained(), cases, asking(method)) for cases in (CASES[4:], CASES[:4])]
    assert ((parts[0] + parts[1]).flat() == seen(trained(), CASES, asking(method)).flat()).all()


def test_no_case_gives_zero_statistics() -> None:
    assert not seen(trained(), [], asking("occlusion")).flat().any()


def test_a_case_with_findings_is_explained_for_each_it_has_and_left_out_where_it_has_none() -> None:
    plan = asking("grad-cam", data__labels="multilabel")
    cases = [
        Case(f"m{at}", f"p{at}", case.voxels, case.mask, label, (1.0, 1.0))
        for at, (case, label) in enumerate(zip(CASES, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=False))
    ]
    total = seen(trained(), cases, plan).total()
    assert total["class/cases"][:2].tolist() == [2, 2]
    assert int(total["cases"]) == 4
    assert int(total["patients"]) == 3


def test_at_most_so_many_cases_are_explained_and_those_do_not_depend_on_where_they_lie() -> None:
    plan = asking("grad-cam", evaluation__explain_cases=5)
    shuffled = [CASES[place] for place in np.random.default_rng(0).permutation(len(CASES))]
    one, other = ([cases[one.position].case_id for one in chosen(cases, plan)] for cases in (CASES, shuffled))
    assert one == other
    assert len(one) == 5
    assert one != sorted(one), "the order is not that of the names themselves"
    assert (seen(trained(), CASES, plan).flat() == seen(trained(), shuffled, plan).flat()).all()


def test_the_lesion_is_the_class_of_the_mask_that_the_plan_names() -> None:
    mask = CASES[0].mask
    assert mask is not None
    both = mask.copy()
    both[0, :5] = 2
    case = Case("c", "p", CASES[0].voxels, both, 1, (1.0, 1.0))
    np.testing.assert_array_equal(lesion_of(case, asking("grad-cam", evaluation__explain_lesion=1)), both == 1)
    np.testing.assert_array_equal(lesion_of(case, asking("grad-cam")), both > 0)
    assert not list(chosen([case], asking("grad-cam", evaluation__explain_lesion=3)))


def test_a_control_is_the_plan_s_network_with_weights_that_nobody_trains() -> None:
    plan = asking("occlusion")
    task = task_for(plan)
    drawn = [drawn_anew(task, plan, number) for number in (0, 0, 1)]
    other = drawn_anew(task, blob_plan(plan__seed=9), 0)
    own = build(plan, task.output_channels, task.output)
    first, again, *different = [
        [one.detach().numpy().tobytes() for one in of.parameters()] for of in (*drawn, other, own)
    ]
    assert first == again
    assert len({tuple(one) for one in (first, *different)}) == 4
    assert [len(one) for one in first] == [len(one) for one in different[-1]]


def test_each_image_has_its_own_control_which_follows_it_wherever_it_is() -> None:
    plan = asking("occlusion")
    by_name = {CASES[one.position].case_id: one.control for one in chosen(CASES, plan)}
    assert len(set(by_name.values())) == len(CASES)
    some = CASES[5:8]
    assert {some[one.position].case_id: one.control for one in chosen(some, plan)}.items() <= by_name.items()


def test_the_difference_is_the_model_minus_its_control_on_the_same_images() -> None:
    block = told(trained(), "occlusion")
    for name, of in block["difference"].items():
        assert of["value"] == pytest.approx(block["model"][name]["value"] - block["control"][name]["value"], abs=1e-9)
    assert block["difference"]["saliency_inside"]["low"] > 0


@pytest.mark.parametrize(("method", "seeds"), [("grad-cam", 8), ("occlusion", 3)])
def test_a_network_that_has_learnt_nothing_is_no_better_than_its_control(method: Method, seeds: int) -> None:
    """The control of the test above: untrained networks stand where the trained one stood."""
    for seed in range(1, seeds + 1):
        assert told(untrained(seed, normalised=True), method)["difference"]["saliency_inside"]["low"] < 0


def test_a_plan_that_asks_for_nothing_explains_nothing() -> None:
    with pytest.raises(PlanError, match="asks for no explanations"):
        seen(trained(), CASES, blob_plan())


def test_segmentation_is_refused() -> None:
    plan = tiny_plan(plan__task="segmentation", data__classes=["background", "square"], model__name="unet")
    with pytest.raises(PlanError, match="segmentation"):
        explainer(trained(), plan, CPU, "grad-cam")
