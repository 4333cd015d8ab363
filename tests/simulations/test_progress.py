"""Progress: bars on a terminal, one plain line elsewhere, nothing on stdout."""

import io
import re

import pytest
from rich.console import Console

from simulations.progress import Silent, Terminal


def plain(total: int, notes: list[str]) -> str:
    out = io.StringIO()
    with Terminal(Console(file=out, width=100)).stage("preparing cases", total) as advance:
        for note in notes:
            advance(note)
    return out.getvalue()


def test_without_a_terminal_a_stage_is_one_line_with_what_was_done_and_the_last_note() -> None:
    said = plain(3, ["aachen", "bergen", "coimbra"])
    assert re.fullmatch(r"preparing cases: 3 of 3 in \d+\.\d s \(last: coimbra\)\n", said)


def test_an_empty_note_keeps_the_last_one() -> None:
    assert "(last: aachen)" in plain(2, ["aachen", ""])


def test_a_stage_that_ends_early_says_how_far_it_came() -> None:
    assert "1 of 5" in plain(5, ["aachen"])


def test_on_a_terminal_a_bar_shows_label_count_and_note() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160, color_system=None)
    with Terminal(console).stage("federated training", 4) as advance:
        for _ in range(4):
            advance("round 2 loss 0.300")
    said = out.getvalue()
    assert "federated training" in said
    assert "4/4" in said
    assert "round 2 loss 0.300" in said


def test_an_error_inside_a_stage_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="inside"), Terminal(Console(file=io.StringIO())).stage("x", 1):
        raise ValueError("inside")


def test_the_silent_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent().stage("x", 1) as advance:
        advance("note")
    assert capsys.readouterr() == ("", "")
