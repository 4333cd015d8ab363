"""Local training: determinism, schedules, micro-batches, proximal term, refusals, on a network small to check."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CPU, FIT, make_data, make_model, make_plan, squared_error
from torch import Tensor, nn

from client.training import local
from client.training.batches import batches
from shared.errors import CapacityError, ProtocolError, UpdateRejected
from shared.plan import Plan
from shared.seeds import generator


def run(plan: Plan, model: nn.Module, *, rng_name: str = "train", round_number: int = 1) -> local.Trained:
    assignment = local.round_assignment(plan, round_number)
    return local.train(model, make_data(), FIT, plan, assignment, rng=generator(1, rng_name), device=CPU)


def weights(model: nn.Module) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


def test_the_same_inputs_give_the_same_bytes() -> None:
    one, other = make_model(), make_model()
    run(make_plan(), one)
    run(make_plan(), other)
    assert weights(one).tobytes() == weights(other).tobytes()


def test_another_generator_gives_other_weights() -> None:
    one, other = make_model(), make_model()
    run(make_plan(), one)
    run(make_plan(), other, rng_name="elsewhere")
    assert weights(one).tobytes() != weights(other).tobytes()


class WithDropout(nn.Module):
    """The linear model behind dropout, which draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.dropout = make_model(), nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.model(self.dropout(images))
        return found


def test_dropout_is_drawn_from_the_given_generator_and_torch_s_own_is_left_alone() -> None:
    plan = make_plan(model__dropout=0.5)
    results = []
    for rng_name in ("train", "train", "elsewhere"):
        model = WithDropout()
        before = torch.random.get_rng_state()
        run(plan, model, rng_name=rng_name)
        assert torch.equal(torch.random.get_rng_state(), before)
        results.append(weights(model).tobytes())
    assert results[0] == results[1] != results[2]


def test_training_lowers_the_loss() -> None:
    plan = make_plan(training__steps=60)
    model = make_model()
    first = run(make_plan(training__steps=1), make_model()).loss_sum
    run(plan, model)
    assert run(make_plan(training__steps=1), model).loss_sum < first


def test_one_plain_step_is_the_gradient_of_the_mean_loss_by_hand() -> None:
    """Oracle: closed-form gradient of the mean squared error of a linear model."""
    model, seen = make_model(), []
    spy = dataclasses.replace(
        FIT, loss=lambda outputs, targets: seen.append(targets) or squared_error(outputs, targets)
    )
    inputs: list[Tensor] = []
    model.register_forward_pre_hook(lambda _module, given: inputs.append(given[0].flatten(1).double()))
    plan = make_plan(training__steps=1)
    local.train(model, make_data(), spy, plan, local.round_assignment(plan, 1), rng=generator(1, "x"), device=CPU)
    x, y = inputs[0], seen[0].double()
    residual = x.sum(1) * 0.05 + 0.05 - y
    gradient = torch.cat([(2 * residual[:, None] * x).mean(0), (2 * residual).mean()[None]])
    np.testing.assert_allclose(weights(model), 0.05 - 0.1 * gradient.numpy(), rtol=1e-5, atol=1e-6)


def test_the_cosine_starts_at_the_rate_and_ends_at_zero() -> None:
    training = make_plan(training__schedule="cosine").training
    rates = [local.scheduled_rate(training, step, 20, 0) for step in range(21)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(0.05)
    assert rates[20] == pytest.approx(0.0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_fine_tuning_starts_at_its_own_rate_and_falls_to_zero() -> None:
    plan = make_plan(personalisation__steps=10, personalisation__learning_rate=0.5)
    assignment = local.personal_assignment(plan)
    rates = [assignment.rate(step) for step in range(11)]
    assert (rates[0], rates[5]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert assignment.steps == 10
    assert assignment.proximal_mu == 0


def test_fine_tuning_that_the_plan_does_not_name_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"no \[personalisation\]"):
        local.personal_assignment(make_plan())


def test_warm_up_rises_linearly_to_the_rate() -> None:
    training = make_plan().training
    assert [local.scheduled_rate(training, step, 20, 4) for step in range(5)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1]
    )


def test_the_schedule_goes_on_from_round_to_round() -> None:
    plan = make_plan(training__schedule="cosine")
    joined = [local.round_assignment(plan, r).rate(step) for r in (1, 2, 3, 4) for step in range(5)]
    whole = [local.long_assignment(plan, 20).rate(step) for step in range(20)]
    assert joined == pytest.approx(whole)


@pytest.mark.parametrize("largest", [1, 2, 3])
def test_the_gradient_does_not_depend_on_how_many_pieces_memory_allows(largest: int) -> None:
    whole, pieces = make_model(), make_model()
    out_of_memory_above(pieces, largest)
    run(make_plan(), whole)
    run(make_plan(), pieces)
    np.testing.assert_allclose(weights(pieces), weights(whole), rtol=1e-5, atol=1e-7)


def out_of_memory_above(model: nn.Module, largest: int) -> None:
    """What CUDA does when a batch does not fit."""

    def check(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(check)


def test_when_not_even_one_image_fits_the_error_says_what_to_reduce() -> None:
    model = make_model()
    out_of_memory_above(model, 0)
    with pytest.raises(CapacityError) as caught:
        run(make_plan(), model)
    assert "training.patch" in caught.value.hint


def test_a_loss_that_is_not_finite_ends_training_by_name() -> None:
    model = make_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(UpdateRejected) as caught:
        run(make_plan(), model)
    assert caught.value.code == "loss-not-finite"
    assert "step 1 of 5" in caught.value.sentence


def test_the_proximal_term_is_the_gradient_of_half_mu_times_the_squared_distance() -> None:
    """Oracle: autograd on the term itself, on top of the same batches."""
    mu = 0.7
    plan = make_plan(aggregation__method="fedprox", aggregation__proximal_mu=mu)
    model, manual = make_model(), make_model()
    run(plan, model)
    start = [parameter.detach().clone() for parameter in manual.parameters()]
    optimizer = torch.optim.SGD(manual.parameters(), lr=0.1)
    for images, targets in recorded_batches(plan):
        optimizer.zero_grad()
        distance = sum((p - s).pow(2).sum() for p, s in zip(manual.parameters(), start, strict=True))
        (squared_error(manual(images), targets).mean() + mu / 2 * distance).backward()
        optimizer.step()
    np.testing.assert_allclose(weights(model), weights(manual), rtol=1e-5, atol=1e-6)


def recorded_batches(plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    source = batches(make_data(), FIT, plan, generator(1, "train"))
    for _ in range(plan.training.steps):
        batch = next(source)
        yield batch.images, batch.targets


def test_without_fedprox_there_is_no_proximal_term() -> None:
    assert local.round_assignment(make_plan(), 1).proximal_mu == 0


def test_gradient_clipping_bounds_the_step() -> None:
    plan = make_plan(training__steps=1, training__gradient_clip=1e-3)
    model = make_model()
    run(plan, model)
    assert np.linalg.norm(weights(model) - weights(make_model())) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_frozen_parameters_do_not_move_even_under_weight_decay() -> None:
    model = make_model()
    first, *rest = model.parameters()
    first.requires_grad_(False)
    run(make_plan(training__optimizer="adamw", training__weight_decay=0.5), model)
    assert torch.all(first == 0.05)
    assert not torch.all(rest[0] == 0.05)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_each_optimizer_is_torch_s_own(name: str) -> None:
    optimizer = local.make_optimizer(make_model(), make_plan(training__optimizer=name).training)
    assert type(optimizer).__name__.lower() == name


def test_optimizer_state_starts_anew_each_time() -> None:
    """Training 5 steps twice from the same weights is the same, although Adam keeps moments within a call."""
    plan = make_plan(training__optimizer="adam")
    one, other = make_model(), make_model()
    run(plan, other)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.05)
    run(plan, one)
    run(plan, other)
    assert weights(one).tobytes() == weights(other).tobytes()


def test_the_reported_loss_is_the_sum_of_the_steps_mean_losses() -> None:
    values: list[float] = []
    spy = dataclasses.replace(
        FIT, loss=lambda o, t: (values.append(float(squared_error(o, t).mean().detach())), squared_error(o, t))[1]
    )
    plan = make_plan()
    assignment = local.round_assignment(plan, 1)
    trained = local.train(make_model(), make_data(), spy, plan, assignment, rng=generator(1, "t"), device=CPU)
    assert trained.loss_sum == pytest.approx(math.fsum(values), rel=1e-6)
    assert trained.steps == 5


def test_nothing_is_written_to_disk_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(make_plan(), make_model())
    assert list(tmp_path.iterdir()) == []
