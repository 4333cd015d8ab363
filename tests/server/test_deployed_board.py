"""The small file of a run: what it says follows from the events alone, at every moment, whole and readable."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_federation import tiny_plan

from server.deployed.board import Board
from server.deployed.live import LIVE, Live, read_live
from server.results import Participation, RoundRecord
from server.round_values import Event, Kind, Phase, State
from server.rounds import shape_of

SITES = ("aachen", "bergen", "coimbra", "drive")
RUN = "ab" * 16


def board(folder: Path, **known: Any) -> Board:
    return Board(folder / LIVE, lambda: 1000.0, replace(Live(RUN, "tiny", 3, headline="auroc"), **known))


def state(phase: Phase = Phase.TRAINING, round_number: int = 1, asked: tuple[str, ...] = SITES) -> State:
    return State(shape_of(tiny_plan()), phase, round_number, 0, frozenset(SITES), frozenset(asked))


def shown(folder: Path) -> Live:
    found = read_live(folder)
    assert found is not None
    return found


def record(round_number: int = 1, loss: float | None = 0.5, value: Any = "none") -> RoundRecord:
    metrics = None if value == "none" else {"pooled": {"auroc": {"value": value}}}
    return RoundRecord(Participation(round_number, SITES, {}), loss, "c" * 64, metrics)


# --- what an event changes -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(SITES), st.booleans()))
def test_everybody_who_was_asked_is_waited_for_heard_or_failed(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, bool]
) -> None:
    folder = tmp_path_factory.mktemp("board")
    made = board(folder)
    made.watch().asked(state())
    for site, well in said.items():
        made.watch().event(state(), Event(Kind.ANSWERED if well else Kind.FAILED, site, "" if well else "policy"))
    live = shown(folder)
    assert sorted((*live.asked, *live.answered, *live.failed)) == list(SITES)
    assert set(live.answered) == {site for site, well in said.items() if well}
    assert live.failed == {site: "policy" for site, well in said.items() if not well}


def test_who_is_asked_in_the_next_phase_starts_with_a_clean_sheet(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.watch().asked(state())
    made.watch().event(state(), Event(Kind.FAILED, site="aachen", code="policy"))
    made.watch().asked(state(Phase.MEASURING))
    live = shown(tmp_path)
    assert (live.phase, live.asked, live.answered, live.failed) == ("measuring", SITES, (), {})


@pytest.mark.parametrize("after", [state(Phase.MEASURING, 1), state(Phase.TRAINING, 2)], ids=["phase", "round"])
def test_what_was_heard_in_an_earlier_phase_or_round_is_not_counted_in_this_one(tmp_path: Path, after: State) -> None:
    made = board(tmp_path)
    made.watch().event(state(), Event(Kind.ANSWERED, site="aachen"))
    made.watch().event(after, Event(Kind.ANSWERED, site="bergen"))
    assert shown(tmp_path).answered == ("bergen",)


def test_names_stand_in_alphabetical_order_however_they_were_heard(tmp_path: Path) -> None:
    made = board(tmp_path)
    for site in ("drive", "aachen", "coimbra"):
        made.watch().event(state(asked=("bergen",)), Event(Kind.ANSWERED, site=site))
    assert shown(tmp_path).answered == ("aachen", "coimbra", "drive")


# --- what a round changes --------------------------------------------------------------------------------------------


def test_a_round_that_was_not_measured_keeps_the_last_value(tmp_path: Path) -> None:
    made = board(tmp_path)
    for one in (record(1, 0.5, 0.75), record(2, 0.25), record(3, 0.125, None)):
        made.watch().round(one)
    live = shown(tmp_path)
    assert (live.round, live.loss, live.value) == (3, 0.125, 0.75)


def test_a_value_of_nought_is_a_value(tmp_path: Path) -> None:
    made = board(tmp_path, value=0.75)
    made.watch().round(record(1, 0.0, 0.0))
    assert (shown(tmp_path).loss, shown(tmp_path).value) == (0.0, 0.0)


@pytest.mark.parametrize("metrics", [{}, {"pooled": {}}, {"pooled": {"dice": {"value": 0.1}}}], ids=["", "no", "other"])
def test_another_metric_is_never_taken_for_the_headline(tmp_path: Path, metrics: dict[str, Any]) -> None:
    made = board(tmp_path, value=0.75)
    made.watch().round(replace(record(), metrics=metrics))
    assert shown(tmp_path).value == 0.75


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_nobody_told_or_that_is_none_is_not_known(tmp_path: Path, loss: float | None) -> None:
    board(tmp_path).watch().round(record(1, loss))
    assert shown(tmp_path).loss is None


# --- the file --------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_said(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.say(state="failed", phase="training", round=2, asked=("aachen",), failed={"bergen": "silent"}, sentence="Ä")
    assert shown(tmp_path) == made.now
    assert made.now.updated == 1000.0


def test_the_file_is_plain_json_without_a_number_that_is_none(tmp_path: Path) -> None:
    board(tmp_path).say(loss=math.nan, value=math.inf)
    said = json.loads((tmp_path / LIVE).read_text(), parse_constant=pytest.fail)
    assert set(said) == set(asdict(Live(RUN, "tiny", 3)))


def test_an_unknown_word_is_a_mistake_of_ours_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        board(tmp_path).say(patient="anna")
    assert not (tmp_path / LIVE).exists()


@pytest.mark.parametrize(("now", "age_s"), [(1000.0, 0.0), (1060.5, 60.5), (900.0, 0.0)])
def test_an_age_is_never_negative(now: float, age_s: float) -> None:
    assert Live(RUN, "tiny", 3, updated=1000.0).age_s(now) == age_s


def test_whoever_reads_while_it_is_written_finds_a_whole_file(tmp_path: Path) -> None:
    made, found = board(tmp_path), list[Live | None]()
    made.say(round=0, sentence="x" * 20000)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found.append(read_live(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            made.say(round=number, sentence=chr(97 + number % 26) * 20000)
    finally:
        done.set()
        reader.join(10)
    assert None not in found
    assert all(len(set(live.sentence)) == 1 for live in found if live is not None)


def test_a_folder_of_another_user_s_mask_can_be_read_by_whom_the_mask_lets_in(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        board(tmp_path).say(round=1)
    finally:
        os.umask(before)
    assert (tmp_path / LIVE).stat().st_mode & 0o777 == 0o640
