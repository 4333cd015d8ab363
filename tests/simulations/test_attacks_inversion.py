"""Gradient inversion: small networks give an image back, noise does not, and likeness is what it is defined to be."""

import math

import numpy as np
import pytest
import torch
from monai.metrics.regression import SSIMMetric
from torch import Tensor, nn
from torch.nn import functional

from shared.models.spec import ModelSpec
from shared.privacy.clipping import Clip
from shared.privacy.noise import UnsafeSeededNoise
from shared.privacy.terms import Terms
from simulations.attacks.inversion import Found, Search, Victim, invert, released, small_network, total_variation
from simulations.attacks.likeness import CEILING_DB, likeness

EDGE = 12
SHAPE = (1, 1, EDGE, EDGE)
SEARCH = Search(-1.0, 1.0, iterations=250, restarts=1)
CLIP = Clip(1.0)


def terms(noise_multiplier: float) -> Terms:
    return Terms(0.2, noise_multiplier, 1.0, 16.0, 10, 10)


def image(seed: int = 0) -> Tensor:
    """A bright disc on a dark ramp: smooth, as bodies are, and with an edge."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:EDGE, :EDGE]
    top, left = rng.uniform(4, 8, 2)
    disc = 1.0 * (np.hypot(rows - top, columns - left) < 3)
    return torch.from_numpy((0.9 * disc - 0.8 + 0.05 * columns).astype(np.float32))[None, None]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, reduction="none")


def spec(dimensions: int = 2, outputs: int = 2) -> ModelSpec:
    return ModelSpec("cnn", dimensions, 1, outputs)


def victim(seed: int = 0, label: int = 1) -> Victim:
    return Victim(small_network(spec(), "image", (EDGE, EDGE), seed), cross_entropy, torch.tensor([label]))


def looked_for(observed: Tensor, attacked: Victim, seed: int = 0, search: Search = SEARCH) -> Found:
    return invert(attacked, observed, SHAPE, search, np.random.default_rng(seed))


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_network_s_plain_gradient_gives_the_image_back_far_better_than_a_guess(seed: int) -> None:
    attacked, truth = victim(seed), image(seed)
    found = looked_for(attacked.gradient(truth).detach(), attacked, seed)
    guess = torch.stack([image(other)[0] for other in range(10, 40)]).mean(dim=0, keepdim=True)
    reconstructed, guessed = likeness(found.image, truth, 2.0), likeness(guess, truth, 2.0)
    assert reconstructed.psnr_db > guessed.psnr_db + 10
    assert reconstructed.ssim > 0.9 > guessed.ssim
    assert found.distance < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_what_private_training_lets_out_gives_no_image_back(seed: int) -> None:
    attacked, truth = victim(seed), image(seed)
    observed = released(attacked.gradient(truth).detach(), terms(1.0), CLIP, UnsafeSeededNoise(seed))
    found = looked_for(observed, attacked, seed)
    guess = torch.stack([image(other)[0] for other in range(10, 40)]).mean(dim=0, keepdim=True)
    assert likeness(found.image, truth, 2.0).psnr_db < likeness(guess, truth, 2.0).psnr_db
    assert likeness(found.image, truth, 2.0).ssim < 0.3


def test_clipping_alone_protects_nothing() -> None:
    """A direction is all that the attack uses, and clipping keeps it: without noise the image comes back."""
    attacked, truth = victim(), image()
    observed = released(attacked.gradient(truth).detach(), terms(0.0), CLIP, UnsafeSeededNoise(0))
    assert likeness(looked_for(observed, attacked).image, truth, 2.0).ssim > 0.9


def test_a_gradient_that_is_only_noise_gives_noise_back() -> None:
    attacked = victim()
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=attacked.gradient(image()).numel())).float()
    assert likeness(looked_for(noise, attacked).image, image(), 2.0).ssim < 0.3


def test_a_linear_layer_with_bias_gives_its_input_back_exactly() -> None:
    """The known closed form: the gradient of the weights is that of the bias times the input."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(EDGE * EDGE, 2))
    attacked = Victim(network, cross_entropy, torch.tensor([0]))
    truth = image(3)
    gradient = attacked.gradient(truth).detach()
    weights, bias = gradient[: 2 * EDGE * EDGE].view(2, -1), gradient[-2:]
    exact = (weights[0] / bias[0]).view(SHAPE)
    torch.testing.assert_close(exact, truth, atol=1e-4, rtol=0)
    found = looked_for(gradient, attacked)
    assert likeness(found.image, exact, 2.0).psnr_db > 25


# --- how it is looked for --------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_autograd_parameter_by_parameter() -> None:
    attacked, truth = victim(), image()
    attacked.loss(attacked.model(truth), attacked.target).mean().backward()  # type: ignore[no-untyped-call]
    oracle = torch.cat([one.grad.reshape(-1) for one in attacked.model.parameters() if one.grad is not None])
    torch.testing.assert_close(attacked.gradient(truth).detach(), oracle)


def test_frozen_parameters_never_travel_and_are_not_in_the_gradient() -> None:
    attacked = victim()
    whole = attacked.gradient(image()).numel()
    frozen = next(attacked.model.parameters())
    frozen.requires_grad_(False)
    assert attacked.gradient(image()).numel() == whole - frozen.numel()


def test_the_search_stays_within_the_range_of_grey_values() -> None:
    attacked = victim()
    found = looked_for(attacked.gradient(image()).detach(), attacked, search=Search(-0.2, 0.3, 20, 1))
    assert float(found.image.min()) >= -0.2 - 1e-6
    assert float(found.image.max()) <= 0.3 + 1e-6


def test_the_best_of_several_searches_is_kept() -> None:
    attacked = victim()
    observed = attacked.gradient(image()).detach()
    short = Search(-1.0, 1.0, iterations=15, restarts=1)
    rng = np.random.default_rng(7)
    alone = [invert(attacked, observed, SHAPE, short, rng).distance for _ in range(4)]
    together = looked_for(observed, attacked, 7, Search(-1.0, 1.0, iterations=15, restarts=4))
    assert together.distance == pytest.approx(min(alone))
    assert together.distance < max(alone)


def test_the_same_generator_finds_the_same_image() -> None:
    attacked = victim()
    observed = attacked.gradient(image()).detach()
    short = Search(-1.0, 1.0, iterations=10, restarts=2)
    one, two, other = (looked_for(observed, attacked, seed, short).image for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_total_variation_is_the_sum_over_axes_of_mean_steps() -> None:
    steps = torch.tensor([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]])[None, None]
    assert float(total_variation(steps)) == pytest.approx(1.5)
    assert float(total_variation(steps.movedim(-1, -2))) == pytest.approx(1.5)
    assert float(total_variation(torch.ones(1, 1, 3, 3, 3))) == 0.0


# --- what is released ------------------------------------------------------------------------------------------------


def test_without_noise_the_clipped_gradient_over_the_expected_patients_is_released() -> None:
    gradient = torch.tensor([3.0, 4.0])
    found = released(gradient, terms(0.0), CLIP, UnsafeSeededNoise(0))
    torch.testing.assert_close(found, torch.tensor([0.6, 0.8]) / 16)


def test_a_gradient_below_the_bound_is_not_scaled() -> None:
    gradient = torch.tensor([0.3, 0.4])
    torch.testing.assert_close(released(gradient, terms(0.0), CLIP, UnsafeSeededNoise(0)), gradient / 16)


def test_the_noise_has_the_plan_s_size_in_every_coordinate() -> None:
    sigma, coordinates = 2.5, 40_000
    found = released(torch.zeros(coordinates), terms(sigma), Clip(1.0), UnsafeSeededNoise(3)) * 16
    assert float(found.std()) == pytest.approx(sigma, rel=0.02)
    assert abs(float(found.mean())) < 4 * sigma / math.sqrt(coordinates)
    assert float(found.std()) != pytest.approx(1.5 * sigma, rel=0.02), "a control: another sigma is told apart"


# --- the small network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(12, 12), (13, 10), (32, 32)])
def test_the_small_network_takes_any_size_and_gives_one_prediction_per_image(size: tuple[int, int]) -> None:
    assert small_network(spec(outputs=3), "image", size, 0)(torch.zeros(2, 1, *size)).shape == (2, 3)


def test_the_small_network_for_voxels_answers_on_the_grid_of_the_image() -> None:
    assert small_network(spec(outputs=3), "dense", (9, 7), 0)(torch.zeros(1, 1, 9, 7)).shape == (1, 3, 9, 7)
    volume = small_network(spec(dimensions=3), "dense", (5, 6, 7), 0)
    assert volume(torch.zeros(1, 1, 5, 6, 7)).shape == (1, 2, 5, 6, 7)


def test_the_small_network_follows_from_its_seed_and_leaves_torch_s_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two, other = (next(iter(victim(seed).model.parameters())) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


# --- likeness --------------------------------------------------------------------------------------------------------


def test_psnr_is_the_range_over_the_root_mean_squared_error_in_decibels() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    assert likeness(truth + 0.2, truth, 2.0).psnr_db == pytest.approx(20.0, abs=1e-4)
    assert likeness(truth + 0.02, truth, 2.0).psnr_db == pytest.approx(40.0, abs=1e-3)


def test_equal_images_are_as_alike_as_can_be() -> None:
    truth = image()
    found = likeness(truth, truth, 2.0)
    assert found.psnr_db == CEILING_DB
    assert found.ssim == pytest.approx(1.0)


def test_ssim_of_flat_images_is_the_luminance_term_of_its_definition() -> None:
    """Wang et al., eq. 6 with constant images: (2 a b + c1) / (a^2 + b^2 + c1), c1 = (0.01 range)^2."""
    one, two = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.9)
    small = (0.01 * 2.0) ** 2
    oracle = (2 * 0.5 * 0.9 + small) / (0.5**2 + 0.9**2 + small)
    assert likeness(one, two, 2.0).ssim == pytest.approx(oracle, abs=1e-4)


@pytest.mark.parametrize("shape", [(24, 20), (16, 16), (14, 13, 12)])
def test_ssim_of_pictures_and_volumes_is_monais(shape: tuple[int, ...]) -> None:
    truth = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (1, 1, *shape))).float()
    picture = truth + 0.3 * torch.from_numpy(np.random.default_rng(9).normal(size=truth.shape)).float()
    oracle = SSIMMetric(len(shape), data_range=2.0)(picture, truth)
    assert isinstance(oracle, Tensor)
    assert likeness(picture, truth, 2.0).ssim == pytest.approx(float(oracle), abs=1e-4)


def test_an_image_and_noise_have_no_structure_in_common() -> None:
    noise = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, SHAPE)).float()
    assert abs(likeness(noise, image(), 2.0).ssim) < 0.2


def test_images_smaller_than_the_window_have_a_likeness_too() -> None:
    volume = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (1, 2, 4, 6, 8))).float()
    assert likeness(volume, volume, 2.0).ssim == pytest.approx(1.0)
    assert likeness(volume.flip(-1), volume, 2.0).ssim < 0.5
