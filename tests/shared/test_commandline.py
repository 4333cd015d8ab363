"""How a command ends: exit status, ``error:`` and ``hint:`` on stderr, and no traceback for what is known."""

import errno
import os
import sys
from typing import Annotated

import pytest
import typer

from shared import commandline
from shared.errors import CapacityError, PlanError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def work(times: Annotated[int, typer.Option(min=1, help="How often.")] = 1) -> None:
    """Print data and talk."""
    typer.echo("data" * times)
    typer.echo("talk", err=True)


@app.command()
def refuse() -> None:
    """Meet something that Consilium knows."""
    raise PlanError("the plan has 0 rounds", hint="give at least 1")


@app.command()
def shrug() -> None:
    """Meet something for which there is no hint."""
    raise CapacityError("no memory")


@app.command()
def stop() -> None:
    """Be interrupted."""
    raise KeyboardInterrupt


@app.command()
def leave(status: int) -> None:
    """End with a status of its own."""
    raise typer.Exit(status)


@app.command()
def fill(number: int) -> None:
    """Meet an error of the operating system."""
    raise OSError(number, os.strerror(number), "patient-42.dcm")


@app.command()
def stumble() -> None:
    """Meet a defect of ours."""
    raise ZeroDivisionError


def ended(monkeypatch: pytest.MonkeyPatch, *words: str, resume_hint: str = "") -> object:
    monkeypatch.setattr(sys, "argv", ["tool", *words])
    with pytest.raises(SystemExit) as left:
        commandline.run(app, resume_hint)
    return left.value.code


def test_done_is_zero_with_data_on_stdout_and_talk_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "work", "--times", "2") == 0
    assert capsys.readouterr() == ("datadata\n", "talk\n")


def test_a_refusal_is_one_with_error_and_hint_and_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "refuse") == 1
    assert capsys.readouterr() == ("", "error: the plan has 0 rounds\nhint:  give at least 1\n")


def test_without_a_hint_there_is_no_hint_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "shrug") == 1
    assert capsys.readouterr().err == "error: no memory\n"


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch, "stop", resume_hint="say --resume") == 1
    assert capsys.readouterr().err == "error: interrupted\nhint:  say --resume\n"


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_command_may_choose_its_status(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    assert ended(monkeypatch, "leave", str(status)) == status


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_sentence_that_names_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert ended(monkeypatch, "fill", str(number)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the disk is full\nhint:  free some space")
    assert "patient" not in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", "fill", str(number)])
    with pytest.raises(OSError, match=os.strerror(number)):
        commandline.run(app)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", "stumble"])
    with pytest.raises(ZeroDivisionError):
        commandline.run(app)


@pytest.mark.parametrize(
    ("words", "sentence", "command"),
    [
        (["wrok"], "No such command 'wrok'.", "tool"),
        (["work", "--tmes", "2"], "No such option", "tool work"),
        (["work", "--times", "0"], "Invalid value for '--times': 0 is not in the range x>=1.", "tool work"),
        (["work", "--times", "many"], "Invalid value for '--times'", "tool work"),
        (["fill"], "Missing argument 'NUMBER'.", "tool fill"),
        (["work", "more"], "Got unexpected extra argument (more)", "tool work"),
    ],
)
def test_wrong_usage_is_two_with_error_and_the_help_to_ask_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str, command: str
) -> None:
    assert ended(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith(f"error: {sentence}")
    assert second == f"hint:  {command} --help"


def test_no_command_at_all_shows_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch) == 2
    said = "".join(capsys.readouterr())
    assert "Usage: tool" in said
    assert "error:" not in said


def test_help_is_zero_and_shows_brackets_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "work", "--help") == 0
    out = capsys.readouterr().out
    assert "[default: 1; x>=1]" in out
    assert "\\[" not in out


def test_third_parties_are_silenced_before_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert ended(monkeypatch, "work") == 0
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert capsys.readouterr().out == "data\n"
