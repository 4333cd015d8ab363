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
from summed import CONTEXT, DEFINITION, code_of

from client.secure.released import Notes, Released, Remembered
from shared.errors import ConsiliumError, ProtocolError
from shared.secure.question import question

FIRST, SECOND = ("aachen", "bergen", "coimbra"), ("aachen", "bergen")
ASKED = question(CONTEXT, DEFINITION)


@pytest.fixture(params=["memory", "disk"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Released:
    return Remembered() if request.param == "memory" else Notes(tmp_path / "sums")


def test_what_was_not_unmasked_may_be_for_anybody(released: Released) -> None:
    released.require(ASKED, FIRST)
    released.require(ASKED, SECOND)


def test_what_was_unmasked_may_be_again_for_the_same_sites_only(released: Released) -> None:
    released.note(ASKED, FIRST)
    released.note(ASKED, FIRST[::-1])
    released.require(ASKED, FIRST)
    for ask in (released.require, released.note):
        assert code_of(lambda ask=ask: ask(ASKED, SECOND)) == "unmasked-otherwise"  # type: ignore[misc]
    released.require(ASKED, FIRST)


OTHERS = {
    "round of training": question(dataclasses.replace(CONTEXT, round=4), DEFINITION),
    "about": question(dataclasses.replace(CONTEXT, about="test"), DEFINITION),
    "definition": question(CONTEXT, "ef" * 32),
}


@pytest.mark.parametrize("which", OTHERS)
def test_every_question_is_remembered_by_itself(released: Released, which: str) -> None:
    other = OTHERS[which]
    released.note(ASKED, FIRST)
    released.note(other, SECOND)
    assert code_of(lambda: released.require(ASKED, SECOND)) == "unmasked-otherwise"
    assert code_of(lambda: released.require(other, FIRST)) == "unmasked-otherwise"


@pytest.mark.parametrize("change", [{"plan_digest": "0" * 64}, {"run": "another"}], ids=["plan", "run"])
def test_the_same_question_under_another_plan_or_run_is_the_same_question(
    released: Released, change: dict[str, str]
) -> None:
    released.note(ASKED, FIRST)
    again = question(dataclasses.replace(CONTEXT, **change), DEFINITION)  # type: ignore[arg-type]
    assert code_of(lambda: released.require(again, SECOND)) == "unmasked-otherwise"


questions = st.sampled_from([ASKED, *OTHERS.values()])
sets = st.sampled_from([FIRST, SECOND, ("aachen", "delft")])


@given(st.lists(st.tuples(questions, sets), max_size=20))
def test_notes_are_those_of_a_dictionary_that_keeps_the_first(asked: list[tuple[str, tuple[str, ...]]]) -> None:
    memory = Remembered()
    model: dict[str, tuple[str, ...]] = {}
    for which, survivors in asked:
        kept = model.setdefault(which, survivors)
        try:
            memory.note(which, survivors)
            assert kept == survivors
        except ProtocolError:
            assert kept != survivors


def test_notes_outlive_the_process(tmp_path: Path) -> None:
    Notes(tmp_path / "sums").note(ASKED, FIRST)
    assert code_of(lambda: Notes(tmp_path / "sums").note(ASKED, SECOND)) == "unmasked-otherwise"


def test_notes_are_for_their_owner_alone_and_no_name_is_a_path(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        notes = Notes(tmp_path / "sums")
        notes.note(question(dataclasses.replace(CONTEXT, run="../../etc/passwd"), "../" * 20), FIRST)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(notes.folder.stat().st_mode) == 0o700
    files = [path for path in notes.folder.iterdir() if path.suffix == ".json"]
    assert len(files) == 1
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert set(tmp_path.iterdir()) == {notes.folder}


def test_notes_hold_no_site_s_name(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "sums")
    notes.note(ASKED, FIRST)
    content = notes._path(ASKED).read_text()
    assert list(json.loads(content)) == [ASKED]
    assert not any(site in content for site in FIRST)


DAMAGED = [b"", b"{", b"[]", b"null", b'{"%s": 1}' % ASKED.encode(), b'{"%s": "ab"}' % ASKED.encode(), b"\xff"]


@pytest.mark.parametrize("content", DAMAGED, ids=["none", "cut", "list", "null", "number", "short", "noise"])
def test_damaged_notes_let_nothing_be_unmasked(tmp_path: Path, content: bytes) -> None:
    notes = Notes(tmp_path / "sums")
    notes.note(ASKED, FIRST)
    notes._path(ASKED).write_bytes(content)
    for ask in (notes.require, notes.note):
        assert code_of(lambda ask=ask: ask(ASKED, FIRST)) == "notes-unreadable"  # type: ignore[misc]


def _note(folder: Path, survivors: tuple[str, ...]) -> str:
    try:
        Notes(folder).note(ASKED, survivors)
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
    notes.note(ASKED, FIRST)
    path = notes._path(ASKED)
    path.with_name(path.name + ".pending").write_bytes(b"{")
    assert code_of(lambda: notes.note(ASKED, SECOND)) == "unmasked-otherwise"
    beside = ASKED[:2] + "0" * 62
    notes.note(beside, SECOND)
    assert sorted(json.loads(path.read_bytes())) == sorted([ASKED, beside])


def test_no_file_grows_with_all_that_a_site_has_answered(tmp_path: Path) -> None:
    """Three hundred questions lie in as many files as two digits can name, and none holds more than its share."""
    notes = Notes(tmp_path / "sums")
    asked = [question(dataclasses.replace(CONTEXT, round=number), DEFINITION) for number in range(1, 301)]
    for one in asked:
        notes.note(one, FIRST)
    files = {path.stem: set(json.loads(path.read_bytes())) for path in notes.folder.glob("*.json")}
    assert set().union(*files.values()) == set(asked)
    assert all(one.startswith(stem) for stem, held in files.items() for one in held)
    assert max(map(len, files.values())) < 12
