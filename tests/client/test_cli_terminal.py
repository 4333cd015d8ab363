"""Progress and tables: bars on a terminal alone, throughput and time left on them, plain columns in a file."""

import io
import re
import time

import pytest
from rich.console import Console

from client import terminal


def on_a_terminal() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=120, color_system=None), out


def printed(*parts: object, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(*parts)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_without_a_terminal_a_bar_says_nothing() -> None:
    out = io.StringIO()
    with terminal.bar(Console(file=out), "reading images") as progress:
        progress(1, 2)
    with terminal.waiting(Console(file=out), "looking"):
        pass
    assert out.getvalue() == ""


def test_on_a_terminal_a_bar_shows_how_much_how_fast_and_how_long() -> None:
    console, out = on_a_terminal()
    with terminal.bar(console, "reading images") as progress:
        for done in range(9):
            progress(done, 8)
            time.sleep(0.01)
    said = out.getvalue()
    assert "reading images" in said
    assert "8/8" in said
    assert re.search(r"\d+(\.\d)?/s left +0:00:00", said)


def test_steps_that_follow_each_other_show_up_one_by_one_and_an_unknown_total_is_no_zero() -> None:
    console, out = on_a_terminal()
    with terminal.bars(console, "looking at files", "reading images") as (files, cases):
        files(7, 0)
        time.sleep(0.15)
        assert "looking at files" in out.getvalue()
        assert "reading images" not in out.getvalue()
        cases(3, 4)
    said = out.getvalue()
    assert "7/?" in said
    assert "3/4" in said


def test_the_speed_is_units_by_time() -> None:
    console, out = on_a_terminal()
    with terminal.bar(console, "x") as progress:
        progress(0, 40)
        for done in (10, 20, 30, 40):
            time.sleep(0.05)
            progress(done, 40)
    speed = float(re.findall(r"([\d.]+)/s left", out.getvalue())[-1])
    assert 50 < speed <= 210, "10 units in 50 ms or more"


def test_before_anything_is_done_a_bar_has_no_speed() -> None:
    console, out = on_a_terminal()
    with terminal.bar(console, "x"):
        pass
    assert "- left" in out.getvalue()


def test_an_error_inside_reaches_the_caller() -> None:
    for console in (Console(file=io.StringIO()), on_a_terminal()[0]):
        with pytest.raises(ValueError, match="inside"), terminal.bar(console, "x"):
            raise ValueError("inside")


def test_talk_goes_to_stderr_and_data_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.stderr().print("talk")
    terminal.stdout().print("data")
    assert capsys.readouterr() == ("data\n", "talk\n")


def test_what_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.stdout().print("[red]x[/red]")
    terminal.stdout().print(terminal.listing(("a", "b"), [("[bold]", "[/x] y")]))
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "[/x] y" in out


def test_counts_stand_in_two_columns_with_numbers_to_the_right() -> None:
    assert printed(terminal.counts("Files", {"image": 7, "not-an-image": 120})) == [
        "Files",
        "image           7",
        "not-an-image  120",
    ]


def test_a_listing_wraps_its_last_column_only() -> None:
    said = printed(terminal.listing(("code", "what"), [("mask-empty", "one two three four")]), width=24)
    assert said == ["code        what", "mask-empty  one two", "            three four"]


def test_a_file_gets_long_lines_unbroken(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.stdout().print(terminal.listing(("a", "b"), [("x", "word " * 30)]))
    assert len(capsys.readouterr().out.splitlines()) == 2
