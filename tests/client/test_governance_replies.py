"""Replies on disk: the same bytes, for two rounds, and never others."""

import stat
import threading
from pathlib import Path

import pytest
from small_ledger import claim, sha

from client.governance.replies import Replies
from client.governance.spending import Claim
from shared.errors import ConsiliumError


@pytest.fixture
def replies(tmp_path: Path) -> Replies:
    return Replies(tmp_path / "replies")


def code_of(replies: Replies, one: Claim, sha256: str) -> str:
    with pytest.raises(ConsiliumError) as refused:
        replies.fetch(one, sha256)
    assert refused.value.hint
    return refused.value.code


def stored(replies: Replies) -> list[Path]:
    return sorted(replies.folder.rglob("*.reply"))


def test_what_was_stored_comes_back_to_the_last_byte(replies: Replies) -> None:
    content = bytes(range(256)) * 1000
    assert replies.store(claim(), content) == sha(content)
    assert Replies(replies.folder).fetch(claim(), sha(content)) == content


def test_no_byte_at_all_is_a_reply_too(replies: Replies) -> None:
    assert replies.fetch(claim(), replies.store(claim(), b"")) == b""


def test_replies_are_their_owner_s_alone(replies: Replies) -> None:
    replies.store(claim(), b"reply")
    with replies.alone(claim()):
        modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in replies.folder.rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
    assert stat.S_IMODE(replies.folder.stat().st_mode) == 0o700


def test_the_last_two_rounds_of_a_run_are_kept_and_older_ones_are_never_made_up(replies: Replies) -> None:
    given = {number: replies.store(claim(number=number), b"reply %d" % number) for number in (1, 2, 5, 9, 10)}
    assert [code_of(replies, claim(number=number), given[number]) for number in (1, 2, 5)] == ["reply-forgotten"] * 3
    assert [replies.fetch(claim(number=number), given[number]) for number in (9, 10)] == [b"reply 9", b"reply 10"]
    with pytest.raises(ConsiliumError, match="round 5 of this run was answered, and the reply is kept no longer: the "):
        replies.fetch(claim(number=5), given[5])


def test_a_late_reply_to_an_old_round_is_kept_until_the_next(replies: Replies) -> None:
    for number in (5, 6):
        replies.store(claim(number=number), b"reply")
    late = replies.store(claim(number=3), b"late")
    assert replies.fetch(claim(number=3), late) == b"late"
    replies.store(claim(number=7), b"reply")
    assert code_of(replies, claim(number=3), late) == "reply-forgotten"


def test_runs_forget_their_own_rounds_only(replies: Replies) -> None:
    given = replies.store(claim(run="other"), b"other")
    for number in range(1, 6):
        replies.store(claim(number=number), b"reply")
    assert replies.fetch(claim(run="other"), given) == b"other"


def test_a_training_and_two_measurements_of_one_round_have_a_reply_each(replies: Replies) -> None:
    asked = [claim(), claim(split="validation"), claim(split="test"), claim(name="second"), claim(plan=sha("other"))]
    given = [replies.store(one, b"reply %d" % place) for place, one in enumerate(asked)]
    assert [replies.fetch(*pair) for pair in zip(asked, given, strict=True)] == [b"reply %d" % n for n in range(5)]


def test_what_replaces_a_reply_is_the_only_one(replies: Replies) -> None:
    before, after = replies.store(claim(), b"before"), replies.store(claim(), b"after")
    assert replies.fetch(claim(), after) == b"after"
    assert code_of(replies, claim(), before) == "reply-damaged"
    assert len(stored(replies)) == 1


@pytest.mark.parametrize("damage", [b"", b"repli", b"reply\n"])
def test_other_bytes_than_those_that_left_never_leave(replies: Replies, damage: bytes) -> None:
    given = replies.store(claim(), b"reply")
    stored(replies)[0].write_bytes(damage)
    assert code_of(replies, claim(), given) == "reply-damaged"


@pytest.mark.parametrize("run", ["../../../etc", "/etc/passwd", "a" * 5000, "", "\N{SNOWMAN}\0"], ids=range(5))
def test_what_a_coordinator_calls_a_run_is_no_path(replies: Replies, run: str) -> None:
    before = {path for path in replies.folder.parent.rglob("*") if replies.folder not in path.parents}
    given = replies.store(claim(run=run), b"reply")
    assert replies.fetch(claim(run=run), given) == b"reply"
    after = {path for path in replies.folder.parent.rglob("*") if replies.folder not in path.parents}
    assert after - before == {replies.folder}


def test_huge_round_numbers_are_in_order_too(replies: Replies) -> None:
    given = {number: replies.store(claim(number=number), b"x") for number in (9, 10, 99_999_999)}
    assert code_of(replies, claim(number=9), given[9]) == "reply-forgotten"
    assert replies.fetch(claim(number=10), given[10]) == b"x"


def test_one_at_a_time_is_inside_for_one_run_and_other_runs_go_on(replies: Replies) -> None:
    inside: list[str] = []
    waiting = threading.Thread(target=lambda: enter(replies, claim(number=2), inside, "second"))
    with replies.alone(claim()):
        waiting.start()
        enter(replies, claim(run="other"), inside, "other run")
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
        inside.append("first")
    waiting.join()
    assert inside == ["other run", "first", "second"]


def enter(replies: Replies, one: Claim, inside: list[str], name: str) -> None:
    with replies.alone(one):
        inside.append(name)
