"""What a site helped to unmask is remembered for ever: on the disk, by question, and whoever else writes there."""

import dataclasses
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from summed import CONTEXT, code_of

from client.secure.released import Notes, Released, Remembered
from shared.errors import ConsiliumError, ProtocolError
from shared.secure.context import Context

FIRST, SECOND = ("aachen", "bergen", "coimbra"), ("aachen", "bergen")


@pytest.fixture(params=["memory", "disk"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Released:
    return Remembered() if request.param == "memory" else Notes(tmp_path / "sums")


def test_what_was_not_unmasked_may_be_for_anybody(released: Released) -> None:
    released.require(CONTEXT, FIRST)
    released.require(CONTEXT, SECOND)


def test_what_was_unmasked_may_be_again_for_the_same_sites_only(released: Released) -> None:
    released.note(CONTEXT, FIRST)
    released.note(CONTEXT, FIRST[::-1])
    released.require(CONTEXT, FIRST)
    for ask in (released.require, released.note):
        assert code_of(lambda ask=ask: ask(CONTEXT, SECOND)) == "unmasked-otherwise"  # type: ignore[misc]
    released.require(CONTEXT, FIRST)


@pytest.mark.parametrize("field", ["run", "round", "about"])
def test_every_question_is_remembered_by_itself(released: Released, field: str) -> None:
    other = dataclasses.replace(
        CONTEXT, **{"run": {"run": "x"}, "round": {"round": 4}, "about": {"about": "test"}}[field]
    )  # type: ignore[arg-type]
    released.note(CONTEXT, FIRST)
    released.note(other, SECOND)
    assert code_of(lambda: released.require(CONTEXT, SECOND)) == "unmasked-otherwise"
    assert code_of(lambda: released.require(other, FIRST)) == "unmasked-otherwise"


def test_the_same_question_under_another_plan_is_the_same_question(released: Released) -> None:
    released.note(CONTEXT, FIRST)
    other = dataclasses.replace(CONTEXT, plan_digest="0" * 64)
    assert code_of(lambda: released.require(other, SECOND)) == "unmasked-otherwise"


questions = st.builds(
    Context,
    st.just("ab" * 32),
    st.sampled_from(["run-1", "run-2"]),
    st.integers(1, 3),
    st.sampled_from(["train", "test"]),
)
sets = st.sampled_from([FIRST, SECOND, ("aachen", "delft")])


@given(st.lists(st.tuples(questions, sets), max_size=20))
def test_notes_are_those_of_a_dictionary_that_keeps_the_first(asked: list[tuple[Context, tuple[str, ...]]]) -> None:
    memory, model = Remembered(), {}
    for context, survivors in asked:
        kept = model.setdefault(context, survivors)
        try:
            memory.note(context, survivors)
            assert kept == survivors
        except ProtocolError:
            assert kept != survivors


def test_notes_outlive_the_process(tmp_path: Path) -> None:
    Notes(tmp_path / "sums").note(CONTEXT, FIRST)
    assert code_of(lambda: Notes(tmp_path / "sums").note(CONTEXT, SECOND)) == "unmasked-otherwise"


def test_notes_are_for_their_owner_alone_and_no_name_is_a_path(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        notes = Notes(tmp_path / "sums")
        notes.note(dataclasses.replace(CONTEXT, run="../../etc/passwd"), FIRST)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(notes.folder.stat().st_mode) == 0o700
    files = [path for path in notes.folder.iterdir() if path.suffix == ".json"]
    assert len(files) == 1
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert set(tmp_path.iterdir()) == {notes.folder}


def test_notes_hold_no_site_s_name(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "sums")
    notes.note(CONTEXT, FIRST)
    content = notes._path(CONTEXT).read_text()
    assert list(json.loads(content)) == ["3 train"]
    assert not any(site in content for site in FIRST)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"3 train": 1}', b'{"3 train": "ab"}', b"\xff"])
def test_damaged_notes_let_nothing_be_unmasked(tmp_path: Path, content: bytes) -> None:
    notes = Notes(tmp_path / "sums")
    notes.note(CONTEXT, FIRST)
    notes._path(CONTEXT).write_bytes(content)
    for ask in (notes.require, notes.note):
        assert code_of(lambda ask=ask: ask(CONTEXT, FIRST)) == "notes-unreadable"  # type: ignore[misc]


def _note(folder: Path, survivors: tuple[str, ...]) -> str:
    try:
        Notes(folder).note(CONTEXT, survivors)
    except ConsiliumError as error:
        return error.code
    return "noted"


def test_of_several_processes_that_note_different_sets_one_succeeds(tmp_path: Path) -> None:
    sets_ = [(tmp_path / "sums", ("aachen", f"site-{number}")) for number in range(6)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        codes = pool.starmap(_note, sets_)
    assert sorted(codes) == ["noted"] + ["unmasked-otherwise"] * 5


def test_a_write_that_was_cut_short_leaves_the_notes_as_they_were(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "sums")
    notes.note(CONTEXT, FIRST)
    path = notes._path(CONTEXT)
    path.with_name(path.name + ".pending").write_bytes(b"{")
    assert code_of(lambda: notes.note(CONTEXT, SECOND)) == "unmasked-otherwise"
    notes.note(dataclasses.replace(CONTEXT, round=4), SECOND)
    assert len(json.loads(path.read_bytes())) == 2
