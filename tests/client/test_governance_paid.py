"""Reserve, compute, store, release, return: in this order, once, and the same bytes whenever somebody asks again."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_ledger import AT, EVENT, Crash, Faults, claim, cohort, dying, made, rows, sha

from client.governance.paid import Till
from client.governance.replies import Replies
from shared.errors import CaseError, ConsiliumError
from shared.privacy.accounting import Cap


@pytest.fixture
def till(tmp_path: Path) -> Till:
    ledger = made(tmp_path / "ledger.sqlite", cohort("first", train=["a", "b"], test=["c"]))
    return Till(ledger, Replies(tmp_path / "replies"), Cap(10, 1e-5), lambda: AT)


def fresh() -> bytes:
    """An answer with its own noise: no two are the same."""
    return os.urandom(32)


def never() -> bytes:
    raise AssertionError("nothing was to be computed")


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConsiliumError) as refused:
        action()
    return refused.value.code


def test_whoever_asks_again_gets_the_same_bytes_and_nothing_is_computed_or_charged(till: Till) -> None:
    answer = till.answer_once(claim(), EVENT, fresh)
    before = till.ledger.digest()
    assert [till.answer_once(claim(), EVENT, never) for _ in range(3)] == [answer] * 3
    assert till.ledger.digest() == before
    assert till.answer_once(claim(number=2), EVENT, fresh) != answer, "the control: another round is another draw"


def test_the_event_is_in_the_ledger_before_anything_is_computed_and_the_reply_on_disk_before_it_left(
    till: Till,
) -> None:
    seen: list[list[tuple[int]]] = []

    def compute() -> bytes:
        seen.append(rows(till.ledger.path, "select (select count(*) from releases) from reservations"))
        assert not list(till.replies.folder.rglob("*.reply"))
        return b"answer"

    till.answer_once(claim(), EVENT, compute)
    assert seen == [[(0,)]]
    assert rows(till.ledger.path, "select reply from releases") == [(sha("answer"),)]


def test_above_the_cap_nothing_is_computed(till: Till) -> None:
    for number in (1, 2):
        till.answer_once(claim(number=number), EVENT, fresh)
    assert code_of(lambda: till.answer_once(claim(number=3), EVENT, never)) == "budget"


def test_other_weights_for_a_round_that_was_answered_get_no_answer(till: Till) -> None:
    till.answer_once(claim(), EVENT, fresh)
    assert code_of(lambda: till.answer_once(claim(request="other"), EVENT, never)) == "replayed-otherwise"
    assert code_of(lambda: till.answer_once(claim(), replace(EVENT, steps=1), never)) == "replayed-otherwise"


def test_a_reply_that_is_forgotten_or_damaged_is_not_computed_again(till: Till) -> None:
    till = replace(till, cap=Cap(100, 1e-5))
    for number in (1, 2, 3):
        till.answer_once(claim(number=number), EVENT, fresh)
    assert code_of(lambda: till.answer_once(claim(number=1), EVENT, never)) == "reply-forgotten"
    for path in till.replies.folder.rglob("*.reply"):
        path.write_bytes(b"rot")
    assert code_of(lambda: till.answer_once(claim(number=3), EVENT, never)) == "reply-damaged"


def test_what_failed_before_it_left_is_computed_anew_for_what_was_reserved(till: Till) -> None:
    def fail() -> bytes:
        raise CaseError("no memory")

    assert code_of(lambda: till.answer_once(claim(), EVENT, fail)) == "case"
    answer = till.answer_once(claim(), EVENT, fresh)
    assert till.answer_once(claim(), EVENT, never) == answer
    assert len(rows(till.ledger.path, "select * from reservations")) == 1


def points(till: Till) -> int:
    """How many points an answer has at which a process can end."""
    faults = Faults()
    with dying(faults):
        till.answer_once(claim(number=1), EVENT, fresh)
    return faults.seen


def test_wherever_it_ends_nothing_left_that_is_not_in_the_ledger_and_asking_again_ends_the_same(
    till: Till, tmp_path: Path
) -> None:
    """Every point between two statements and two writes, one after the other."""
    total = points(till)
    assert total > 20
    released = []
    for at in range(1, total + 1):
        (folder := tmp_path / str(at)).mkdir()
        ledger = made(folder / "ledger.sqlite", cohort("first", train=["a", "b"]))
        other = Till(ledger, Replies(folder / "replies"), Cap(5, 1e-5), till.now)
        with dying(Faults(at)), pytest.raises(Crash):
            other.answer_once(claim(), EVENT, fresh)
        left = rows(ledger.path, "select reply from releases")
        released.append(bool(left))
        answer = other.answer_once(claim(), EVENT, never if left else fresh)
        assert [(sha(answer),)] == rows(ledger.path, "select reply from releases")
        assert left in ([], [(sha(answer),)])
        assert len(rows(ledger.path, "select * from reservations")) == 1, "charged once, wherever it ended"
        assert other.answer_once(claim(), EVENT, never) == answer
    assert released == sorted(released)
    assert set(released) == {False, True}, "points before and after the release were hit"


def test_two_who_ask_at_once_get_the_same_bytes_of_one_computation(till: Till) -> None:
    computed: list[bytes] = []
    answers: list[bytes] = []
    at_work, go_on = threading.Event(), threading.Event()

    def slow() -> bytes:
        at_work.set()
        assert go_on.wait(30)
        computed.append(fresh())
        return computed[-1]

    asking = [threading.Thread(target=lambda: answers.append(till.answer_once(claim(), EVENT, slow))) for _ in range(4)]
    for thread in asking:
        thread.start()
    assert at_work.wait(30)
    go_on.set()
    for thread in asking:
        thread.join()
    assert answers == computed * 4
    assert len(computed) == 1
