"""A site in a secure sum: steps come in one order, once, and asked twice it says the same; what it was refused costs it
nothing, and secrets last no longer than they are needed."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from summed import CONTEXT, DEFINITION, Sum, carried, code_of, expected, found, held, key_of, names_of, party, run

from client.secure.party import Identity, Party
from client.secure.released import Notes
from shared.errors import SiteDataError
from shared.messages import Masked
from shared.secure.context import Context
from shared.secure.held import parts
from shared.secure.holders import Threshold
from shared.secure.papers import Paper, Survivors
from shared.secure.question import question

ROOT = Path(__file__).parents[2]
SITES = tuple(sorted(names_of(4)))
ME, *REST = SITES
ANSWERS = {site: held([number, -number], [number], number + 1) for number, site in enumerate(SITES)}
BEFORE = {"deal": "offer", "mask": "deal", "confirm": "mask", "unmask": "confirm"}


def asks(sum_: Sum, step: str) -> Paper:
    """What this site is asked in ``step``."""
    papers: dict[str, Callable[[], Paper]] = {
        "deal": sum_.round.offers,
        "mask": lambda: sum_.round.received(ME),
        "confirm": sum_.round.survivors,
        "unmask": sum_.round.unmasking,
    }
    return carried(papers[step]())


def said(answer: Any) -> bytes:
    """An answer as bytes."""
    return answer.content.tobytes() if isinstance(answer, Masked) else answer.to_bytes()


def ask(sum_: Sum, step: str, paper: Paper | None = None, context: Context = CONTEXT) -> bytes:
    return said(getattr(sum_.parties[ME], step)(context, asks(sum_, step) if paper is None else paper))


# --- asked twice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BEFORE)
def test_asked_again_with_the_same_bytes_a_site_says_the_same(step: str) -> None:
    sum_ = Sum(ANSWERS).until(BEFORE[step])
    first = ask(sum_, step)
    assert [ask(sum_, step) for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("step", BEFORE)
def test_asked_again_after_the_next_step_it_refuses(step: str) -> None:
    later = {"deal": "mask", "mask": "confirm", "confirm": "unmask"}
    if step not in later:
        return
    sum_ = Sum(ANSWERS).until(later[step])
    assert code_of(lambda: ask(sum_, step)) == "step-order"


def test_a_question_asked_twice_is_offered_the_same_keys_until_something_was_dealt() -> None:
    sum_ = Sum(ANSWERS)
    site = sum_.parties[ME]
    assert site.offer(CONTEXT, ANSWERS[ME]) == site.offer(CONTEXT, held([0, 0], [0])), "the same answer, read again"
    sum_.until("deal")
    later = site.offer(CONTEXT, ANSWERS[ME])
    assert later not in sum_.round.offers().offers, "what was dealt already is not offered for another sum"


def test_another_answer_to_the_same_question_is_offered_under_new_keys() -> None:
    site = Sum(ANSWERS).parties[ME]
    offers = [site.offer(CONTEXT, held([value, 0], [0])) for value in range(3)]
    assert len({key for one in offers for key in (one.cipher_key, one.mask_key, one.commitment)}) == 9


def test_a_new_question_forgets_the_one_before() -> None:
    sum_ = Sum(ANSWERS).until("deal")
    paper = asks(sum_, "mask")
    sum_.parties[ME].offer(dataclasses.replace(CONTEXT, round=4), ANSWERS[ME])
    assert code_of(lambda: ask(sum_, "mask", paper)) == "session-unknown"


def test_two_runs_at_once_do_not_disturb_each_other() -> None:
    first = Sum(ANSWERS).until("deal")
    second = Sum(ANSWERS, context=dataclasses.replace(CONTEXT, run="run-2"), parties=first.parties).until("deal")
    for one in (first, second):
        one.mask(SITES)
        one.confirm(SITES)
    for one in (second, first):
        one.unmask(SITES)
        assert found(one.round.total()) == expected(ANSWERS.values())


def test_two_sums_of_one_run_have_nothing_in_common() -> None:
    """Keys, seeds, shares and masks: what leaves in one round is nothing that left in another."""
    first = Sum(ANSWERS)
    run(first)
    second = Sum(ANSWERS, context=dataclasses.replace(CONTEXT, round=4), parties=first.parties)
    run(second)
    for one, other in zip(first.round.offers().offers, second.round.offers().offers, strict=True):
        assert not {one.cipher_key, one.mask_key, one.commitment} & {other.cipher_key, other.mask_key, other.commitment}
    revealed = [{share for of in sum_.revealed.values() for share in of.seeds.values()} for sum_ in (first, second)]
    assert not revealed[0] & revealed[1]
    assert all(not np.array_equal(first.masked[site].content, second.masked[site].content) for site in SITES)


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "instead"), list(itertools.permutations(BEFORE, 2)))
def test_no_step_comes_in_place_of_another(step: str, instead: str) -> None:
    sum_, other = Sum(ANSWERS).until(BEFORE[step]), Sum(ANSWERS, seed=1).until(BEFORE[instead])
    paper = Survivors(survivors=SITES[:3], signatures={}) if instead == "confirm" else asks(other, instead)
    just_answered = BEFORE[step] == instead
    assert code_of(lambda: ask(sum_, instead, paper)) == ("step-repeated" if just_answered else "step-order")
    assert ask(sum_, step), "the refusal cost nothing"


@given(st.lists(st.sampled_from([*BEFORE, *BEFORE, "offer"]), max_size=14), st.booleans())
def test_whatever_is_asked_in_whichever_order_only_the_course_of_a_sum_is_answered(
    steps: list[str], began: bool
) -> None:
    """The model is one pointer into the course. All papers are right ones, so that only their order can be refused."""
    site = party(ME, {name: key_of(name).verify_key for name in SITES}, Threshold())
    course, at = list(BEFORE), 0
    for step in ["offer"] * began + steps:
        if step == "offer":
            if at > 0:
                return
            site.offer(CONTEXT, ANSWERS[ME])
            began = True
            continue
        due, again = step in course[at : at + 1], step in course[max(0, at - 1) : at]
        if began and (due or again):
            getattr(site, step)(CONTEXT, PREPARED[step])
            at += due
        else:
            code = code_of(lambda step=step: getattr(site, step)(CONTEXT, PREPARED[step]))  # type: ignore[misc]
            assert code == ("step-order" if began else "session-unknown")


def prepared() -> dict[str, Paper]:
    """Each step's paper, of one course with seeded secrets: a site that draws the same secrets takes them all."""
    sum_ = Sum(ANSWERS).until("confirm")
    return {step: asks(sum_, step) for step in BEFORE}


PREPARED = prepared()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_nothing_leaves_that_could_not_be_noted(tmp_path: Path) -> None:
    sum_ = Sum(ANSWERS)
    notes = Notes(tmp_path / "sums")
    sum_.parties[ME] = party(ME, sum_.members, Threshold(), released=notes)
    sum_.until("confirm")
    notes.folder.mkdir()
    damaged = notes._path(question(CONTEXT, DEFINITION))
    damaged.write_bytes(b"{")
    with pytest.raises(SiteDataError):
        ask(sum_, "unmask")
    damaged.unlink()
    assert ask(sum_, "unmask")


def test_the_note_is_on_the_disk_when_shares_leave(tmp_path: Path) -> None:
    sum_ = Sum(ANSWERS)
    notes = Notes(tmp_path / "sums")
    sum_.parties[ME] = party(ME, sum_.members, Threshold(), released=notes)
    sum_.until("confirm")
    assert not notes.folder.exists(), "nothing is noted of a sum that is not unmasked"
    ask(sum_, "unmask")
    after = party(ME, sum_.members, Threshold(), released=Notes(tmp_path / "sums"))
    assert code_of(lambda: after._released.require(question(CONTEXT, DEFINITION), SITES[:3])) == "unmasked-otherwise"


def test_a_site_that_restarts_has_dropped_out_and_the_others_go_on() -> None:
    sum_ = Sum({site: held([1, number], [2], 1) for number, site in enumerate(SITES)}).until("deal")
    sum_.parties[ME] = party(ME, sum_.members, Threshold(), seed=99)
    assert code_of(lambda: sum_.mask([ME])) == "session-unknown"
    sum_.mask(REST)
    sum_.confirm(REST)
    sum_.unmask(REST)
    assert found(sum_.round.total()) == expected(sum_.answers[site] for site in REST)


@pytest.mark.parametrize(
    "name", ["", "St. Mary's", "../north", "a" * 64, "a\n"], ids=["none", "'", "/", "long", "line"]
)
def test_a_name_that_no_paper_may_bear_makes_no_party_and_no_step_fails_for_it(name: str) -> None:
    """Once the first step of a sum ended in a raw error of its paper."""
    assert code_of(lambda: Identity(name, key_of("aachen"))) == "site-name"


# --- what is kept, what is seen --------------------------------------------------------------------------------------


def state_of(site: Party) -> set[str]:
    session = site._sessions[CONTEXT.run]
    return {field.name for field in dataclasses.fields(session.state)}


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ("offer", {"context", "held", "secrets", "offer"}),
        ("deal", {"agreed", "held", "secrets", "own"}),
        ("mask", {"agreed", "dealers", "shares"}),
        ("confirm", {"agreed", "dealers", "shares", "survivors"}),
        ("unmask", set()),
    ],
)
def test_a_site_keeps_secrets_and_values_as_long_as_it_needs_them(step: str, kept: set[str]) -> None:
    assert state_of(Sum(ANSWERS).until(step).parties[ME]) == kept


def test_forgetting_a_run_leaves_nothing_and_may_be_done_twice() -> None:
    site = Sum(ANSWERS).until("mask").parties[ME]
    site.forget(CONTEXT.run)
    site.forget(CONTEXT.run)
    assert site._sessions == {}


def test_an_answer_is_not_changed_by_masking_it() -> None:
    before = {site: (one.values.copy(), one.counts.copy()) for site, one in ANSWERS.items()}
    run(Sum(ANSWERS))
    for site, (values, counts) in before.items():
        assert np.array_equal(ANSWERS[site].values, values)
        assert np.array_equal(ANSWERS[site].counts, counts)


def test_no_masked_value_has_a_bit_above_the_ring() -> None:
    sum_ = Sum({site: held([100] * 50, [], 1) for site in SITES}).until("mask")
    for message in sum_.masked.values():
        assert message.bits == 16
        assert message.content.size == 2 * 50
        assert int(parts(message)[0].max()) < 2**16


def test_only_half_of_what_was_dealt_is_revealed_of_anybody() -> None:
    sum_ = Sum(ANSWERS).until("deal")
    sum_.mask(SITES[:3])
    sum_.confirm(SITES[:3])
    sum_.unmask(SITES[:3])
    for revelation in sum_.revealed.values():
        assert sorted(revelation.seeds) == sorted(SITES[:3])
        assert sorted(revelation.keys) == [SITES[3]]


def test_survivors_are_confirmed_whatever_order_they_are_asked_in() -> None:
    with pytest.raises(ValueError, match="sorted"):
        Survivors(survivors=SITES[::-1], signatures={})


def test_neither_side_needs_torch_or_flower() -> None:
    """What decides about secrets is small enough to be read: its imports are, too."""
    modules = "client.secure.party, client.secure.released, server.secure.round"
    code = f"import sys, {modules}; print(*(name for name in ('torch', 'flwr', 'scipy') if name in sys.modules))"
    found_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found_.stdout.strip() == ""
