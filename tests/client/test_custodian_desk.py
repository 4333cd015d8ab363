"""The desk: each check refuses by its code before anything is opened, and nothing leaves without a line in the log."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk_of import NOW, Correspondent
from masked_federation import NAMES, SUMMED, masked_site
from summed import key_of

from client.governance.policy import parse
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError
from shared.messages import (
    Confirm,
    Deal,
    Evaluate,
    Hello,
    Mask,
    Offered,
    Personalise,
    Refusal,
    Reply,
    Unmask,
    Update,
    Welcome,
)
from shared.parcels import Parcel
from shared.trust.documents import stamp

STEPS: tuple[type[Any], ...] = (Deal, Mask, Confirm, Unmask)


@pytest.fixture
def lead(tmp_path: Path) -> Correspondent:
    return Correspondent(tmp_path / "approved")


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), type(reply)
    return reply.code


def test_a_proved_and_approved_request_is_answered_and_receipted(lead: Correspondent) -> None:
    reply = lead.ask(lead.train())
    assert isinstance(reply, Update)
    assert [line[:2] for line in lead.book.lines] == [("leaves", "Update")]


def test_a_greeting_may_be_for_anybody_and_nothing_else_may(lead: Correspondent) -> None:
    assert isinstance(lead.ask(Hello(lead.envelope(0)), site=""), Welcome)
    assert code(lead.ask(lead.train(), site="")) == "site"


def test_a_roster_that_comes_with_a_greeting_is_held_before_the_greeting_is_answered(lead: Correspondent) -> None:
    assert isinstance(lead.ask(Hello(lead.envelope(0), "roster 2")), Welcome)
    assert lead.rosters == [b"roster 2"]
    assert isinstance(lead.ask(Hello(lead.envelope(0))), Welcome)
    assert lead.rosters == [b"roster 2"], "a greeting without one leaves the one that is held"


def test_a_greeting_with_a_roster_that_is_not_taken_is_refused_and_nothing_is_opened(lead: Correspondent) -> None:
    assert code(lead.ask(Hello(lead.envelope(0), "older"))) == "roster-older"
    assert not lead.opened
    assert lead.book.lines == [("refused", "roster-older", 1)]


def test_a_roster_from_somebody_who_proves_nothing_or_has_no_approval_is_never_looked_at(lead: Correspondent) -> None:
    greeting = Hello(lead.envelope(0), "roster 2")
    assert code(lead.ask(greeting, order=lead.order(SigningKey.generate()))) == "signer"
    assert code(lead.ask(greeting, order=lead.order(federation="other"))) == "order-federation"
    lead.book.withdrawn = True
    assert code(lead.ask(greeting)) == "withdrawn"
    assert lead.rosters == []


@pytest.mark.parametrize("step", STEPS, ids=lambda one: one.__name__)
def test_a_step_of_a_sum_is_not_in_a_plan_without_secure_aggregation(lead: Correspondent, step: type[Any]) -> None:
    assert code(lead.ask(step(lead.envelope(), "train", np.zeros(2, np.uint8)))) == "not-in-plan"
    assert not lead.opened


def test_under_secure_aggregation_a_desk_lets_out_keys_and_steps_and_no_update(tmp_path: Path) -> None:
    lead = Correspondent(tmp_path / "approved", **(SUMMED | {"secure_aggregation__enabled": True}))
    lead.site = masked_site("aachen", lead.plan, {name: key_of(name).verify_key for name in NAMES})
    assert isinstance(lead.ask(lead.train()), Offered)
    assert code(lead.ask(Deal(lead.envelope(), "train", np.zeros(2, np.uint8)))) == "paper-form"
    assert [line[1] for line in lead.book.lines] == ["Offered", "paper-form"]
    assert isinstance(lead.ask(lead.train()), Offered), "a step uses no question up"
    assert code(lead.ask(lead.train(add=1e-3))) == "replayed-otherwise"


def test_a_desk_whose_site_has_no_masks_answers_nothing_of_such_a_plan(tmp_path: Path) -> None:
    lead = Correspondent(tmp_path / "approved", **(SUMMED | {"secure_aggregation__enabled": True}))
    for request in (Hello(lead.envelope(0)), lead.train()):
        assert code(lead.ask(request)) == "no-masks"


def test_an_order_of_another_lead_is_refused(lead: Correspondent) -> None:
    assert code(lead.ask(lead.train(), order=lead.order(SigningKey.generate()))) == "signer"
    assert lead.book.lines == [("refused", "signer", 0)]
    assert not lead.opened


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"federation": "other"}, "order-federation"),
        ({"created": stamp(NOW - timedelta(days=9)), "expires": stamp(NOW - timedelta(hours=3))}, "order-expired"),
        ({"created": stamp(NOW + timedelta(hours=3))}, "order-early"),
        ({"run": "cd" * 16}, "order-run"),
        ({"plan_digest": "0" * 64}, "order-run"),
        ({"run_key": SigningKey.generate().verify_key.hex()}, "signature-invalid"),
    ],
    ids=["federation", "expired", "early", "run", "plan", "run key"],
)
def test_an_order_that_is_not_for_this_is_refused(lead: Correspondent, change: dict[str, str], expected: str) -> None:
    assert code(lead.ask(lead.train(), order=lead.order(**change))) == expected
    assert not lead.opened


def test_a_clock_that_is_an_hour_off_stops_nothing(lead: Correspondent) -> None:
    for skew in (timedelta(hours=-1), timedelta(days=1, hours=1)):
        lead.now = NOW + skew
        assert isinstance(lead.ask(lead.train()), Update)


@pytest.mark.parametrize("field", ["body", "order", "signature"])
def test_a_parcel_changed_by_a_relay_is_refused(lead: Correspondent, field: str) -> None:
    def change(parcel: Parcel) -> Parcel:
        content = bytearray(getattr(parcel, field))
        content[len(content) // 2] ^= 1
        return dataclasses.replace(parcel, **{field: bytes(content)})

    assert code(lead.ask(lead.train(), change)) in {"signature-invalid", "document", "document-form", "form"}
    assert not lead.opened


def test_a_request_for_another_site_is_refused(lead: Correspondent) -> None:
    assert code(lead.ask(lead.train(), site="bergen")) == "site"


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04", b"[" * 5000])
def test_a_signed_body_that_is_no_request_is_refused(lead: Correspondent, body: bytes) -> None:
    from shared.parcels import Body, signed_request

    parcel = signed_request(Body.of(body), "aachen", lead.order(), lead.run_key)
    assert code(lead.ask(lead.train(), lambda _: parcel)) == "format"


def test_a_plan_that_nobody_approved_or_that_was_withdrawn_is_refused(lead: Correspondent, tmp_path: Path) -> None:
    lead.book.withdrawn = True
    assert code(lead.ask(lead.train())) == "withdrawn"
    other = Correspondent(tmp_path / "other", plan__rounds=2)
    other.book = lead.book
    assert code(other.ask(other.train())) == "withdrawn"
    assert not lead.opened
    assert lead.book.lines[-1] == ("refused", "withdrawn", 1)


def test_outside_the_hospital_s_hours_nothing_is_computed(lead: Correspondent) -> None:
    lead.rules = parse('[hours]\nzone = "UTC"\nwindows = [{ start = "20:00", end = "06:00" }]\n')
    refused = lead.ask(lead.train())
    assert code(refused) == "policy"
    assert not lead.opened
    lead.now = NOW + timedelta(hours=9)
    assert isinstance(lead.ask(lead.train()), Update)


def test_a_lead_that_the_policy_does_not_name_may_not_ask(lead: Correspondent) -> None:
    stranger = SigningKey.generate().verify_key.fingerprint()
    lead.rules = parse(f'[who]\nleads = ["{stranger}"]\n')
    assert code(lead.ask(lead.train())) == "policy"


def test_the_same_question_gets_the_same_answer_and_another_one_none(lead: Correspondent) -> None:
    first, again = lead.ask(lead.train(2)), lead.ask(lead.train(2))
    assert isinstance(first, Update)
    assert isinstance(again, Update)
    np.testing.assert_array_equal(first.values, again.values)
    assert code(lead.ask(lead.train(2, add=1e-3))) == "replayed-otherwise"
    assert code(lead.ask(lead.train(1))) == "outdated"
    assert isinstance(lead.ask(lead.train(3)), Update)


def test_test_patients_are_measured_with_one_model_only(lead: Correspondent) -> None:
    asked = Evaluate(lead.envelope(3), lead.weights, "test")
    assert not isinstance(lead.ask(asked), Refusal)
    other = Evaluate(lead.envelope(3), (lead.weights * 2).astype(np.float32), "test")
    assert code(lead.ask(other)) == "replayed-otherwise"
    assert code(lead.ask(Personalise(lead.envelope(3), lead.weights, "test"))) == "not-in-plan"


def test_an_approval_is_good_for_so_many_runs_and_no_more(lead: Correspondent) -> None:
    for run in ("01" * 16, "02" * 16):
        assert isinstance(lead.ask(lead.train(run=run), order=lead.order(run=run)), Update)
    assert code(lead.ask(lead.train(run="03" * 16), order=lead.order(run="03" * 16))) == "too-many-runs"


def test_without_a_line_in_the_log_nothing_leaves(lead: Correspondent) -> None:
    lead.book.broken = True
    with pytest.raises(SiteDataError, match="audit log"):
        lead.ask(lead.train())


def test_a_refusal_under_privacy_tells_no_number_of_cases(tmp_path: Path) -> None:
    lead = Correspondent(tmp_path / "approved")
    lead.plan = lead.book.plan = lead.plan.model_copy(
        update={"privacy": lead.plan.privacy.model_copy(update={"unit": "patient"})}
    )

    def fail(_approved: object) -> None:
        raise SiteDataError("3 of 41 patients are too few", code="too-few")

    lead._open = fail  # type: ignore[assignment, method-assign]
    refused = lead.ask(lead.train())
    assert isinstance(refused, Refusal)
    assert refused.code == "too-few"
    assert not any(digit in refused.sentence for digit in "0123456789")
