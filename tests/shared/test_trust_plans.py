"""Signed plans: the plan that opens is the plan that was signed, by digest, or nothing opens."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_trust import NOW, code_of

from shared.crypto.signing import SigningKey
from shared.errors import ProtocolError
from shared.plan import Plan
from shared.trust.documents import opened, seal, stamp
from shared.trust.plans import SignedPlan, open_plan, sign_plan
from simulations.scenario import load

KEY = SigningKey.generate()
PLAN: Plan = load("demo").plan
FILE = sign_plan(PLAN, KEY, NOW)


def signed(text: str, digest: str = "") -> bytes:
    """A plan's file with any text, well signed."""
    found = digest or hashlib.sha256(text.encode()).hexdigest()
    return seal(SignedPlan(plan=text, digest=found, created=stamp(NOW)), KEY)


@pytest.mark.parametrize("name", ["demo", "demo-private", "breast", "sts3d"])
def test_a_plan_opens_as_it_was_signed(name: str) -> None:
    plan = load(name).plan
    assert open_plan(sign_plan(plan, KEY, NOW), KEY.verify_key) == plan


def test_the_file_says_the_digest_that_check_prints() -> None:
    held = opened(FILE, SignedPlan, KEY.verify_key)
    assert held.digest == PLAN.digest()
    assert hashlib.sha256(held.plan.encode()).hexdigest() == PLAN.digest()


def test_a_plan_of_another_lead_is_refused() -> None:
    assert code_of(lambda: open_plan(FILE, SigningKey.generate().verify_key)) == "signer"


@settings(max_examples=200)
@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_a_plan_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    content = bytearray(FILE)
    content[place] ^= change
    with pytest.raises(ProtocolError):
        open_plan(bytes(content), KEY.verify_key)


def test_a_plan_altered_after_signing_is_refused_although_it_is_a_plan() -> None:
    text = PLAN.canonical_bytes().decode()
    seed = f'"seed":{PLAN.plan.seed}'
    altered = text.replace(seed, f'"seed":{PLAN.plan.seed + 1}')
    assert altered != text
    assert code_of(lambda: open_plan(signed(altered, PLAN.digest()), KEY.verify_key)) == "plan-digest"
    assert open_plan(signed(altered), KEY.verify_key).plan.seed == PLAN.plan.seed + 1


def test_a_plan_in_another_spelling_is_refused_because_its_digest_would_be_another() -> None:
    text = PLAN.canonical_bytes().decode()
    for other in (text.replace(",", ", "), text.replace("consilium-plan-1", "consilium-plan-2")):
        assert code_of(lambda other=other: open_plan(signed(other), KEY.verify_key)) == "plan-version"  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "consilium-plan-1\n", "consilium-plan-1\n[]", "x\n7", "x\n" + "[" * 9000])
def test_a_text_that_is_no_plan_is_refused(text: str) -> None:
    assert code_of(lambda: open_plan(signed(text), KEY.verify_key)) == "plan-text"


def test_a_plan_that_says_something_impossible_is_refused_as_a_plan() -> None:
    text = PLAN.canonical_bytes().decode().replace('"rounds":', '"rounds":-', 1)
    assert code_of(lambda: open_plan(signed(text), KEY.verify_key)) == "plan"


def test_the_largest_plan_fits_its_file() -> None:
    """In ASCII each letter outside of it takes six bytes."""
    assert SignedPlan.most_bytes > len(FILE) * 20
