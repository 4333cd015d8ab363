"""A question at the terminal: only a yes is a yes."""

import io
import sys
from unittest import mock

import pytest

from shared.commandline import require_yes
from shared.errors import PolicyError


def answered(typed: str) -> bool:
    with mock.patch.object(sys, "stdin", io.StringIO(typed)):
        try:
            require_yes("Are these the words?")
        except PolicyError as error:
            return error.code != "not-confirmed"
    return True


@pytest.mark.parametrize("typed", ["y\n", "yes\n", "Y\n", " YES \n", "y"])
def test_yes_is_yes(typed: str) -> None:
    assert answered(typed)


@pytest.mark.parametrize("typed", ["n\n", "no\n", "\n", "", "nonsense\ny\n", "yep", "ja\n"])
def test_everything_else_and_silence_is_no(typed: str) -> None:
    assert not answered(typed)


def test_the_question_goes_to_stderr_so_that_stdout_stays_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert answered("y\n")
    said = capsys.readouterr()
    assert said.out == ""
    assert "Are these the words?" in said.err
