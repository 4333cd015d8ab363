"""The order of questions: forwards, remembered over a crash, and never repaired by forgetting."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.custodian.sequence import Question, Sequence, ask_again
from shared.errors import ConsiliumError, PolicyError, ProtocolError, SiteDataError
from shared.messages import Confirm, Deal, Envelope, Evaluate, Hello, Mask, Share, Train, Unmask


def asked(name: str, round_number: int, said: str = "a") -> Question:
    return Question(name, round_number, said * 64)


def test_a_question_is_its_kind_and_split() -> None:
    envelope, weights = Envelope("r", "d", 4), np.zeros(2, np.float32)
    assert Question.of(Train(envelope, weights), "x") == Question("train", 4, "x")
    assert Question.of(Evaluate(envelope, weights, "test"), "x") == Question("evaluate-test", 4, "x")
    assert Question.of(Hello(envelope), "x").name == "hello"


@pytest.mark.parametrize("step", [Deal, Mask, Confirm, Unmask], ids=lambda one: one.__name__)
def test_steps_of_a_sum_and_greetings_are_no_part_of_the_order(step: type[Any]) -> None:
    """A sum is asked for anew after a crash, with other keys: noted here, its steps would be refused."""
    envelope = Envelope("r", "d", 1)
    assert ask_again(step(envelope, "train", np.zeros(1, np.uint8)))
    assert ask_again(Hello(envelope, "roster"))
    for question in (Train(envelope, np.zeros(1, np.float32)), Share(envelope)):
        assert not ask_again(question)


def test_what_was_asked_is_remembered_by_whoever_opens_the_folder_next(tmp_path: Path) -> None:
    Sequence(tmp_path, 1).admit("run", asked("train", 2))
    again = Sequence(tmp_path, 1)
    again.admit("run", asked("train", 2))
    with pytest.raises(ProtocolError) as caught:
        again.admit("run", asked("train", 2, "b"))
    assert caught.value.code == "replayed-otherwise"
    with pytest.raises(ProtocolError) as caught:
        again.admit("run", asked("train", 1))
    assert caught.value.code == "outdated"


def test_kinds_and_runs_are_counted_apart(tmp_path: Path) -> None:
    sequence = Sequence(tmp_path, 2)
    sequence.admit("run", asked("train", 5))
    sequence.admit("run", asked("evaluate-validation", 1, "b"))
    sequence.admit("other", asked("train", 1, "c"))
    with pytest.raises(PolicyError) as caught:
        sequence.admit("third", asked("train", 1))
    assert caught.value.code == "too-many-runs"


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from("ab")), max_size=12))
def test_no_order_of_asking_gets_two_answers_to_one_round(
    tmp_path_factory: pytest.TempPathFactory, questions: list[tuple[int, str]]
) -> None:
    folder, admitted = tmp_path_factory.mktemp("sequence"), dict[int, str]()
    latest = 0
    for round_number, said in questions:
        try:
            Sequence(folder, 1).admit("run", asked("train", round_number, said))
        except ConsiliumError:
            continue
        assert admitted.setdefault(round_number, said) == said
        assert round_number >= latest
        latest = round_number


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"train": 3}', b'{"train": ["1", "a"]}'])
def test_a_damaged_note_refuses_its_run_and_stays(tmp_path: Path, content: bytes) -> None:
    sequence = Sequence(tmp_path, 3)
    sequence.admit("run", asked("train", 1))
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(content)
    with pytest.raises(SiteDataError) as caught:
        sequence.admit("run", asked("train", 2))
    assert caught.value.code == "sequence-damaged"
    assert path.read_bytes() == content
    sequence.admit("another", asked("train", 1))


def test_what_a_run_is_called_is_no_path(tmp_path: Path) -> None:
    Sequence(tmp_path / "runs", 1).admit("../../etc/passwd", asked("train", 1))
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "runs"]
