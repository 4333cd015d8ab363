"""Orders: for one run of one plan of one federation, for a time, with two hours of grace for clocks."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_trust import DAY, HOUR, NOW, Lead, Member, code_of

from shared.crypto.signing import SigningKey
from shared.errors import PolicyError, ProtocolError
from shared.trust.orders import SKEW, Expected, RunOrder, Times, make_order, open_order, require_valid, sign_order

LEAD = Lead((Member("aachen"),))
RUN_KEY = SigningKey.generate()
RUN, PLAN = "0123456789abcdef" * 2, "ab" * 32
ENDS = NOW + 7 * DAY
ORDER = make_order(RUN, PLAN, LEAD.roster, RUN_KEY.verify_key, Times(NOW, ENDS))
FILE = sign_order(ORDER, LEAD.key)
EXPECTED = Expected("lungs", PLAN)


def at(now: datetime, expected: Expected = EXPECTED) -> str:
    """ "" if the order holds, else the code of the refusal."""
    try:
        require_valid(ORDER, expected, now)
    except (PolicyError, ProtocolError) as error:
        return error.code
    return ""


def test_an_order_says_all_that_was_asked_for() -> None:
    assert ORDER.model_dump() == {
        "run": RUN,
        "plan_digest": PLAN,
        "federation": "lungs",
        "roster_version": 2,
        "run_key": RUN_KEY.verify_key.hex(),
        "created": "2026-11-20T12:00:00+00:00",
        "expires": "2026-11-27T12:00:00+00:00",
    }


def test_an_order_opens_as_it_was_signed_and_only_with_the_leads_key() -> None:
    assert open_order(FILE, LEAD.key.verify_key) == ORDER
    assert code_of(lambda: open_order(FILE, SigningKey.generate().verify_key)) == "signer"


def test_the_key_of_a_run_cannot_give_orders() -> None:
    longer = ORDER.model_copy(update={"expires": "2027-11-20T12:00:00+00:00"})
    assert code_of(lambda: open_order(sign_order(longer, RUN_KEY), LEAD.key.verify_key)) == "signer"


def test_the_key_in_an_order_checks_what_the_run_signs() -> None:
    message = b"consilium-request-1\nx"
    open_order(FILE, LEAD.key.verify_key).verify_key.verify(RUN_KEY.sign(message), message)


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_an_order_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    content = bytearray(FILE)
    content[place] ^= change
    with pytest.raises(ProtocolError):
        open_order(bytes(content), LEAD.key.verify_key)


# --- when it holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "answer"),
    [
        (timedelta(0), ""),
        (-HOUR, ""),
        (-2 * HOUR, ""),
        (-2 * HOUR - timedelta(seconds=1), "order-early"),
        (-DAY, "order-early"),
        (7 * DAY, ""),
        (7 * DAY + HOUR, ""),
        (7 * DAY + 2 * HOUR, ""),
        (7 * DAY + 2 * HOUR + timedelta(seconds=1), "order-expired"),
        (400 * DAY, "order-expired"),
    ],
    ids=str,
)
def test_an_order_holds_from_two_hours_before_it_begins_to_two_hours_after_it_ends(off: timedelta, answer: str) -> None:
    assert at(NOW + off) == answer


@given(st.integers(-3600, 3600), st.integers(0, 7 * 24 * 3600))
def test_a_clock_that_is_an_hour_off_stops_nothing(off: int, into: int) -> None:
    assert timedelta(hours=1) < SKEW
    assert at(NOW + timedelta(seconds=into + off)) == ""


def test_the_times_are_told_as_they_are() -> None:
    with pytest.raises(PolicyError, match=r"ended at 2026-11-27T12:00:00\+00:00, and here it is 2026-12-20T12:00:00"):
        require_valid(ORDER, EXPECTED, NOW + 30 * DAY)


def test_the_zone_of_the_clock_does_not_matter() -> None:
    assert at(datetime(2026, 11, 20, 12, 30, tzinfo=UTC).astimezone()) == ""


# --- what it is for --------------------------------------------------------------------------------------------------


def test_an_order_for_another_plan_is_refused_and_both_digests_are_named() -> None:
    with pytest.raises(PolicyError, match="plan abababababab, approved was cdcdcdcdcdcd"):
        require_valid(ORDER, Expected("lungs", "cd" * 32), NOW)
    assert at(NOW, Expected("lungs", "cd" * 32)) == "order-plan"


def test_a_plan_that_differs_in_one_digit_is_another_plan() -> None:
    assert at(NOW, Expected("lungs", PLAN[:-1] + "c")) == "order-plan"


def test_an_order_of_another_federation_is_refused() -> None:
    assert at(NOW, Expected("livers", PLAN)) == "order-federation"


def test_an_order_under_another_roster_is_not_refused() -> None:
    """A site that joins or leaves must not stop the runs of the others."""
    for version in (1, 9):
        require_valid(ORDER.model_copy(update={"roster_version": version}), EXPECTED, NOW)


# --- what it may say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": RUN[:-1]},
        {"run": RUN.upper()},
        {"run": "../" + RUN[3:]},
        {"run_key": "00"},
        {"roster_version": 0},
        {"federation": "Lungs"},
        {"expires": "2026-11-20T12:00:00+00:00"},
        {"expires": "2026-11-20T11:59:59+00:00"},
        {"expires": "2028-01-01T00:00:00+00:00"},
        {"plan": "x"},
    ],
    ids=str,
)
def test_an_order_that_says_something_impossible_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RunOrder(**(ORDER.model_dump() | wrong))
    assert RunOrder(**ORDER.model_dump()) == ORDER


def test_an_impossible_order_is_refused_although_the_lead_has_signed_it() -> None:
    endless = ORDER.model_copy(update={"expires": "9999-01-01T00:00:00+00:00"})
    assert code_of(lambda: open_order(sign_order(endless, LEAD.key), LEAD.key.verify_key)) == "document-form"
