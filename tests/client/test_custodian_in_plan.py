"""What a plan lets a run ask of a sum: its steps, in the rounds of the plan, and only where the plan masks."""

from typing import Any, get_args

import numpy as np
import pytest
from masked_federation import SUMMED, masked_plan
from tiny_federation import tiny_plan

from client.custodian.in_plan import require_in_plan
from shared.errors import ProtocolError
from shared.messages import About, Confirm, Cross, Deal, Envelope, Evaluate, Mask, Request, Share, Train, Unmask
from shared.plan import Plan

STEPS: tuple[type[Any], ...] = (Deal, Mask, Confirm, Unmask)


def step(kind: type[Any], plan: Plan, round_number: int, about: About = "train") -> Any:
    return kind(Envelope("run", plan.digest(), round_number), about, np.zeros(1, np.uint8))


def code(request: Request, plan: Plan) -> str:
    with pytest.raises(ProtocolError) as caught:
        require_in_plan(request, plan)
    assert caught.value.code != ProtocolError.code
    return caught.value.code


@pytest.mark.parametrize("kind", STEPS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("about", get_args(About))
def test_every_step_about_every_question_is_in_a_plan_that_masks(kind: type[Any], about: About) -> None:
    plan = masked_plan()
    for round_number in range(plan.plan.rounds + 1):
        require_in_plan(step(kind, plan, round_number, about), plan)


@pytest.mark.parametrize("kind", STEPS, ids=lambda one: one.__name__)
def test_no_step_is_in_a_plan_that_does_not(kind: type[Any]) -> None:
    plan = tiny_plan(**SUMMED)
    assert code(step(kind, plan, 1), plan) == "not-in-plan"


@pytest.mark.parametrize("kind", STEPS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("round_number", [-1, 3, 2**40])
def test_a_step_of_a_round_that_is_not_the_plan_s_is_refused(kind: type[Any], round_number: int) -> None:
    plan = masked_plan(plan__rounds=2)
    assert code(step(kind, plan, round_number), plan) == "round"


def test_masks_change_nothing_of_what_else_a_run_may_ask() -> None:
    for plan in (tiny_plan(**SUMMED), masked_plan()):
        weights = np.zeros(1, np.float32)
        require_in_plan(Train(Envelope("run", plan.digest(), 1), weights), plan)
        require_in_plan(Evaluate(Envelope("run", plan.digest(), 2), weights, "test"), plan)
        for refused in (
            Evaluate(Envelope("run", plan.digest(), 1), weights, "test"),
            Evaluate(Envelope("run", plan.digest(), 1), weights, "train"),
            Share(Envelope("run", plan.digest(), 2)),
            Cross(Envelope("run", plan.digest(), 2), weights, "bergen"),
        ):
            assert code(refused, plan) == "not-in-plan"
