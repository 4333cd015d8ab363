"""The lead's page case by case: each state of a run, a site and a folder has its sentence, its mark and its number."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from watched import ROOMY, SITES, Watched, disk_of, finished, private_plan, watched

from server.dashboard import look as look_module
from server.dashboard import sentences
from server.dashboard.failures import REASONS
from server.dashboard.look import Look, RunLook, SiteLook, look, read_run
from server.dashboard.numbers import gauges, state_of
from server.dashboard.page import content, renderer, roles
from server.dashboard.spending import rounds_begun, spent
from server.deployed.live import LIVE, Live
from server.results import ROUNDS, append_round
from shared.plan import parse
from shared.trust import roster as rosters


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    disk_of(monkeypatch, ROOMY)
    return watched(tmp_path)


def now(seen: Watched) -> Look:
    return look(seen.folder, seen.nodes, seen.clock())


def section(seen: Watched, name: str) -> str:
    made, _ = renderer()
    return made(now(seen))[name]


def live(**changes: Any) -> RunLook:
    said = {"run": "ab" * 16, "plan": "lungs", "rounds": 10, "updated": 1000.0, **changes}
    return RunLook("ab" * 16, Live(**said))


# --- sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "level", "word"),
    [
        (SiteLook("a", "suspended", "connected"), "off", "suspended"),
        (SiteLook("a", "suspended", "away", 60.0), "off", "suspended"),
        (SiteLook("a", "active", "unknown"), "off", "not known"),
        (SiteLook("a", "active", "never"), "warn", "never connected"),
        (SiteLook("a", "active", "away"), "bad", "away"),
        (SiteLook("a", "active", "connected"), "good", "connected"),
    ],
    ids=["suspended", "suspended-away", "unknown", "never", "away", "connected"],
)
def test_a_site_s_state_is_one_mark_and_one_word(site: SiteLook, level: str, word: str) -> None:
    found = sentences.health(site, None)
    assert (found.level, found.word) == (level, word)
    assert found.sentence.endswith(".")


def test_how_long_a_site_has_been_away_is_only_said_where_it_is_known() -> None:
    assert "last seen" not in sentences.health(SiteLook("a", "active", "away"), None).sentence
    assert "2 hours ago" in sentences.health(SiteLook("a", "active", "away", 7201.0), None).sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"asked": ("a",)}, "It is working: its answer is awaited."),
        ({"answered": ("a",)}, "It has answered."),
        ({}, "It is ready."),
        ({"asked": ("a",), "state": "finished"}, "It is ready."),
    ],
    ids=["asked", "answered", "neither", "over"],
)
def test_what_a_connected_site_does_follows_from_the_run(changes: dict[str, Any], said: str) -> None:
    assert sentences.health(SiteLook("a", "active", "connected"), live(**changes)).sentence == said


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_reason_goes_on_from_the_name_of_a_site(code: str) -> None:
    found = sentences.health(SiteLook("a", "active", "connected"), live(failed={"a": code}))
    assert found.level == "warn"
    assert found.sentence == f"It is connected, but {REASONS[code].sentence}."
    verbs = {"did", "was", "could", "has", "lost", "does", "ran", "computes", "says", "answered", "sent"}
    assert REASONS[code].sentence.split()[0] in verbs


def test_a_site_that_was_removed_is_gone_from_the_page(seen: Watched) -> None:
    from small_trust import no_passphrase

    lead = seen.folder.lead_key(no_passphrase)
    assert "basel" in section(seen, "sites")
    seen.folder.change_roster(lead, lambda held: rosters.without(held, "basel", seen.now))
    assert "basel" not in section(seen, "sites")
    assert "aachen" in section(seen, "sites")


def test_a_federation_without_sites_says_how_one_is_enrolled(tmp_path: Path) -> None:
    from small_trust import NOW, new_federation

    made, _ = renderer()
    found = look(new_federation(tmp_path), lambda: (), NOW)
    assert "consilium-server enrol" in made(found)["sites"]


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "word"),
    [
        (RunLook("ab" * 16), "ordered"),
        (RunLook("ab" * 16, fault="the signature is wrong"), "damaged"),
        (live(), "running"),
        (live(state="finished"), "finished"),
        (live(state="failed", sentence="too few sites"), "ended"),
    ],
    ids=["ordered", "damaged", "running", "finished", "failed"],
)
def test_how_a_run_stands_is_one_word(run: RunLook, word: str) -> None:
    assert sentences.outcome(run).word == word


def test_a_run_that_was_ordered_and_never_began_says_so(seen: Watched) -> None:
    run = seen.begin()
    assert sentences.lead(now(seen)) == "The run retina-vessels was ordered and has not begun."
    assert read_run(seen.folder, run.run).live is None
    assert "consilium_run_round" not in {one.name for one in gauges(now(seen))}


def test_a_live_file_that_is_cut_short_is_a_run_that_has_said_nothing(seen: Watched) -> None:
    run = seen.begin()
    seen.trained(run, 2)
    path = run.path / LIVE
    path.write_bytes(path.read_bytes()[:-20])
    assert read_run(seen.folder, run.run).live is None
    assert "has not begun" in sentences.lead(now(seen))


def test_rounds_that_cannot_be_read_are_said_and_the_page_stands(seen: Watched) -> None:
    run = seen.begin()
    seen.trained(run, 2)
    (run.path / ROUNDS).write_text('{"round": "first"}\n')
    found = read_run(seen.folder, run.run)
    assert "no round" in found.fault
    assert found.live is not None
    assert sentences.outcome(found).word == "damaged"


def test_a_round_that_a_crash_cut_off_is_not_drawn(seen: Watched) -> None:
    run = seen.begin()
    seen.trained(run, 3)
    with (run.path / ROUNDS).open("ab") as file:
        file.write(b'{"round": 4, "los')
    assert len(read_run(seen.folder, run.run).rounds) == 3
    assert read_run(seen.folder, run.run).fault == ""


def test_the_names_of_those_awaited_answered_and_failed_stand_below_each_other() -> None:
    run = live(asked=("a",), answered=("b", "c"), failed={"e": "busy", "d": "busy"})
    assert roles(run) == [("Awaited", ("a",)), ("Answered", ("b", "c")), ("Failed", ("d", "e"))]
    assert roles(live(state="finished")) == []
    assert roles(None) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answered": ("a",), "asked": ("b",)}, "1 of 2 sites has answered; b is awaited."),
        ({"answered": ("a", "b"), "asked": ("c", "d")}, "2 of 4 sites have answered; c and d are awaited."),
        ({"answered": ("a", "b")}, "2 of 2 sites have answered."),
        ({"failed": {"a": "busy"}}, "No site has answered; a failed."),
        ({}, "No site is asked at the moment."),
    ],
    ids=["one", "some", "all", "none", "nobody"],
)
def test_answers_are_counted_in_a_sentence(seen: Watched, changes: dict[str, Any], said: str) -> None:
    board = seen.board(seen.begin())
    board.say(phase="training", round=1, **changes)
    assert sentences.lead(now(seen)).endswith(said)


def test_a_loss_that_no_site_told_is_a_gap_and_not_a_zero(seen: Watched) -> None:
    run = seen.begin()
    board = seen.board(run)
    for at in (1, 2, 3, 4):
        record = replace(finished(at, {}), loss=None) if at == 2 else finished(at, {})
        append_round(run.path / ROUNDS, record)
        board.watch().round(record)
    (loss, _) = content(now(seen))["curves"]
    assert [at for at, _ in loss.known] == [1, 3, 4]


def test_only_the_newest_runs_are_read(seen: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_module, "SHOWN_RUNS", 2)
    names = [seen.begin().run for _ in range(4)]
    assert len(now(seen).runs) == 2
    assert {one.run for one in now(seen).runs} <= set(names)


# --- privacy ---------------------------------------------------------------------------------------------------------


def test_before_the_first_round_nothing_is_paid(seen: Watched) -> None:
    board = seen.board(seen.begin(private_plan()))
    board.say(phase="admitting", asked=SITES[:2])
    run = now(seen).run
    assert run is not None
    assert rounds_begun(run) == 0
    assert [one.paid for one in spent(run)] == [0.0, 0.0]


def test_each_round_that_begins_costs_more_and_a_finished_one_no_more_than_that(seen: Watched) -> None:
    board = seen.trained(seen.begin(private_plan()), 4)
    paid = []
    for at in (5, 6, 7):
        board.say(round=at)
        run = now(seen).run
        assert run is not None
        paid.append(spent(run)[0].paid)
    assert paid[0] < paid[1] < paid[2] < 8.0


def test_a_site_whose_patients_the_plan_does_not_count_has_no_bar(seen: Watched) -> None:
    from report_runs import PRIVATE

    plan = parse(PRIVATE.replace("public_patients = 50", "public_patients = { aachen = 50 }"))
    seen.trained(seen.begin(plan), 2)
    run = now(seen).run
    assert run is not None
    assert [one.site for one in spent(run)] == ["aachen"]


# --- folder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "level"), [(100 << 30, None), (10 << 30, "warn"), (1 << 20, "bad")])
def test_a_disk_that_fills_up_is_a_notice(
    seen: Watched, monkeypatch: pytest.MonkeyPatch, free: int, level: str | None
) -> None:
    disk_of(monkeypatch, free)
    found = [one.level for one in sentences.notices(now(seen)) if "are free on the disk" in one.sentence]
    assert found == ([level] if level else [])


@pytest.mark.parametrize("name", ["tls/server.pem", "trust/ca.pem"])
def test_a_certificate_that_is_missing_is_said_and_the_other_is_shown(seen: Watched, name: str) -> None:
    (seen.folder.path / name).unlink()
    found = now(seen)
    assert len(found.certificates) == 1
    assert any(name.rpartition("/")[2] in sentence for sentence, _ in found.faults)
    assert state_of(found) == "damaged"


def test_what_is_most_urgent_stands_first(seen: Watched) -> None:
    left = {one.name: one.days for one in now(seen).certificates}["server certificate"]
    seen.now += timedelta(days=left - 20)
    seen.gateway = False
    assert [one.level for one in sentences.notices(now(seen))] == ["bad", "warn"]


def test_every_metric_has_a_name_of_ours_a_meaning_and_stands_once(seen: Watched) -> None:
    seen.trained(seen.begin(private_plan()), 3, {2: {"chur": "no-answer"}})
    found = gauges(now(seen))
    assert len({one.name for one in found}) == len(found) >= 14
    assert all(one.name.startswith("consilium_") and one.meaning.endswith(".") for one in found)


def test_a_page_on_which_nothing_happened_is_the_same_a_moment_later(seen: Watched) -> None:
    """Else every browser would be sent it every second."""
    seen.trained(seen.begin(private_plan()), 3)
    made, _ = renderer()
    seen.now += timedelta(seconds=5)
    first = made(now(seen))
    seen.now += timedelta(seconds=20)
    second = made(now(seen))
    assert {name for name in first if first[name] != second[name]} <= {"upkeep"}
