"""Models of single sites at the desk: asked for after the last round, for each site once, and under no other plan."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from desk_of import Correspondent
from hypothesis import given
from hypothesis import strategies as st

from client.custodian.in_plan import require_in_plan
from client.custodian.sequence import Question
from shared.errors import ProtocolError
from shared.messages import Cross, Envelope, Measured, Personalise, Refusal, Reply, Share, Shared, Vector

OWN = {"personalisation__steps": 2, "personalisation__learning_rate": 0.01}
LAST = 3


def correspondent(folder: Path, **changes: object) -> Correspondent:
    found = Correspondent(folder / "approved", **{**OWN, "evaluation__cross_site": True, **changes})
    found.site = dataclasses.replace(found.site, folder=folder)
    return found


@pytest.fixture
def lead(tmp_path: Path) -> Correspondent:
    return correspondent(tmp_path)


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), type(reply)
    return reply.code


def cross(lead: Correspondent, model: str, add: float = 0.0, at: int = LAST) -> Cross:
    weights: Vector = (lead.weights + np.float32(add)).astype(np.float32)
    return Cross(lead.envelope(at), weights, model)


def personalise(lead: Correspondent) -> Personalise:
    return Personalise(lead.envelope(LAST), lead.weights, "test")


def test_a_model_that_was_made_in_this_run_is_given_out_as_often_as_the_reply_gets_lost(lead: Correspondent) -> None:
    assert isinstance(lead.ask(personalise(lead)), Measured)
    first, again = lead.ask(Share(lead.envelope(LAST))), lead.ask(Share(lead.envelope(LAST)))
    assert isinstance(first, Shared)
    assert isinstance(again, Shared)
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (first.weights != lead.weights).any()
    assert [line[1] for line in lead.book.lines] == ["Measured", "Shared", "Shared"]


def test_a_site_without_a_model_of_this_run_says_so(lead: Correspondent) -> None:
    assert code(lead.ask(Share(lead.envelope(LAST)))) == "not-kept"


def test_models_of_several_sites_are_measured_each_once(lead: Correspondent) -> None:
    for place, model in enumerate(("aachen", "bergen", "coimbra")):
        assert isinstance(lead.ask(cross(lead, model, place)), Measured)
    assert isinstance(lead.ask(cross(lead, "bergen", 1)), Measured)
    assert code(lead.ask(cross(lead, "bergen", 5))) == "replayed-otherwise"


@pytest.mark.parametrize("model", ["", "stranger", "aachen ", "../bergen", "Bergen"])
def test_nobody_invents_a_site_to_measure_test_patients_once_more(lead: Correspondent, model: str) -> None:
    assert code(lead.ask(cross(lead, model))) == "not-in-plan"
    assert not lead.opened


def test_the_model_of_a_site_that_has_left_is_measured_no_more(lead: Correspondent) -> None:
    lead.members = frozenset({"aachen", "coimbra"})
    assert code(lead.ask(cross(lead, "bergen"))) == "not-in-plan"
    assert isinstance(lead.ask(cross(lead, "coimbra")), Measured)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_before_the_last_round_no_model_leaves_and_none_is_measured(lead: Correspondent, at: int) -> None:
    assert code(lead.ask(Share(lead.envelope(at)))) == "not-in-plan"
    assert code(lead.ask(cross(lead, "bergen", at=at))) == "not-in-plan"


def test_a_plan_that_shares_no_models_refuses_both_whatever_was_kept(tmp_path: Path) -> None:
    lead = correspondent(tmp_path, evaluation__cross_site=False)
    assert isinstance(lead.ask(personalise(lead)), Measured)
    assert code(lead.ask(Share(lead.envelope(LAST)))) == "not-in-plan"
    assert code(lead.ask(cross(lead, "bergen"))) == "not-in-plan"
    assert [line[0] for line in lead.book.lines] == ["leaves", "refused", "refused"]


def test_a_desk_that_knows_no_roster_measures_no_model(lead: Correspondent) -> None:
    with pytest.raises(ProtocolError) as caught:
        require_in_plan(cross(lead, "bergen"), lead.plan)
    assert caught.value.code == "not-in-plan"
    require_in_plan(cross(lead, "bergen"), lead.plan, frozenset({"bergen"}))  # the control


@pytest.mark.parametrize("spoilt", ["short", "nan"])
def test_a_model_that_cannot_be_measured_is_refused(lead: Correspondent, spoilt: str) -> None:
    weights = lead.weights[:-1] if spoilt == "short" else np.full_like(lead.weights, np.nan)
    expected = {"short": "weights-shape", "nan": "weights-not-finite"}[spoilt]
    assert code(lead.ask(Cross(lead.envelope(LAST), weights, "bergen"))) == expected


@given(st.text(max_size=20), st.text(max_size=20))
def test_models_of_different_sites_are_different_questions(one: str, other: str) -> None:
    envelope, weights = Envelope("run", "d", LAST), np.zeros(2, np.float32)
    first, second = (Question.of(Cross(envelope, weights, model), "x") for model in (one, other))
    assert (first == second) == (one == other)
    assert first.name.startswith("cross-")
    assert Question.of(Share(envelope), "x").name == "share"
