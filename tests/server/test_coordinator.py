"""The coordinator against an in-memory fleet: what counts, what does not, what is durable, what resumes."""

import dataclasses
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from tiny_federation import SITES, MemoryFleet, Tamper, coordinate, tiny_plan, tiny_site

from client.workbench import Workbench
from server.results import RoundRecord, read_rounds
from server.round_values import Event, State
from server.run_setup import Watch
from shared.errors import RunError
from shared.fixed_point import dequantise
from shared.messages import Envelope, Measured, Refusal, Reply, Request, Train, Update, Welcome
from shared.plan import Plan


def only_for(site: str, kind: type, change: Tamper) -> Tamper:
    """Change the replies of one site to one kind of reply."""

    def tamper(name: str, request: Request, reply: Reply) -> Reply | None:
        return change(name, request, reply) if name == site and isinstance(reply, kind) else reply

    return tamper


def events(folder: Path) -> list[tuple[int, str, str, str, str]]:
    with sqlite3.connect(folder / "journal.sqlite") as connection:
        return connection.execute("select round, phase, kind, site, code from events order by number").fetchall()


def test_a_run_asks_for_admission_training_measuring_and_testing_in_that_order(tmp_path: Path) -> None:
    fleet = MemoryFleet(tiny_plan(plan__rounds=2))
    coordinate(tiny_plan(plan__rounds=2), fleet, tmp_path)
    asked = [(kind, round_number) for name, kind, round_number in fleet.asked if name == SITES[0]]
    assert asked == [("Hello", 0), ("Train", 1), ("Evaluate", 1), ("Train", 2), ("Evaluate", 2), ("Evaluate", 2)]


def test_the_next_model_is_the_last_plus_the_mean_update_by_hand(tmp_path: Path) -> None:
    """Oracle: the same sites asked directly, averaged with plain numpy."""
    plan = tiny_plan(plan__rounds=1)
    outcome = coordinate(plan, MemoryFleet(plan), tmp_path)
    start = Workbench.for_plan(plan).initial_weights()
    request = Train(Envelope("x", plan.digest(), 1), start)
    replies = [tiny_site(name, plan).answer(request) for name in SITES]
    changes = [dequantise(reply.values, plan.aggregation.fixed_point) for reply in replies if isinstance(reply, Update)]
    np.testing.assert_allclose(outcome.weights, start + np.mean(changes, axis=0), atol=1e-7)


def test_the_federation_learns(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=8, training__steps=10)
    outcome = coordinate(plan, MemoryFleet(plan), tmp_path)
    assert outcome.test is not None
    assert outcome.test.block(Workbench.for_plan(plan).task)["pooled"]["auroc"]["value"] > 0.95  # type: ignore[index]


def test_the_order_in_which_sites_answer_changes_no_bit(tmp_path: Path) -> None:
    plan = tiny_plan()
    one = coordinate(plan, MemoryFleet(plan), tmp_path / "a")
    other = coordinate(plan, MemoryFleet(plan, reverse=True), tmp_path / "b")
    assert one.checkpoint == other.checkpoint
    assert one.weights.tobytes() == other.weights.tobytes()


@pytest.mark.parametrize("method", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_run_killed_after_a_round_goes_on_to_the_same_bytes(tmp_path: Path, method: str, killed_after: int) -> None:
    plan = tiny_plan(aggregation__method=method, aggregation__server_learning_rate=0.5, aggregation__average_last=2)
    whole = coordinate(plan, MemoryFleet(plan), tmp_path / "whole")

    class Killed(BaseException):
        pass

    def die(record: RoundRecord) -> None:
        if record.participation.round == killed_after:
            raise Killed

    with pytest.raises(Killed):
        coordinate(plan, MemoryFleet(plan), tmp_path / "cut", Watch(round=die))
    resumed = coordinate(plan, MemoryFleet(plan), tmp_path / "cut")
    assert resumed.checkpoint == whole.checkpoint
    names = [sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir()) for run in ("whole", "cut")]
    assert names[0] == names[1]
    assert [r.checkpoint for r in read_rounds(tmp_path / "cut" / "rounds.jsonl")] == [
        r.checkpoint for r in read_rounds(tmp_path / "whole" / "rounds.jsonl")
    ]


def test_a_run_killed_in_the_middle_of_a_round_loses_that_round_and_nothing_else(tmp_path: Path) -> None:
    plan = tiny_plan()
    whole = coordinate(plan, MemoryFleet(plan), tmp_path / "whole")
    seen: list[int] = []

    def die(state: State, _event: Event) -> None:
        seen.append(state.round)
        if seen.count(2) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinate(plan, MemoryFleet(plan), tmp_path / "cut", Watch(event=die))
    assert [r.participation.round for r in read_rounds(tmp_path / "cut" / "rounds.jsonl")] == [1]
    assert coordinate(plan, MemoryFleet(plan), tmp_path / "cut").checkpoint == whole.checkpoint


def bad_updates() -> list[tuple[str, Tamper]]:
    def with_(**changes: object) -> Tamper:
        return lambda _n, _r, reply: dataclasses.replace(reply, **changes)  # type: ignore[type-var]

    def shorter(_name: str, _request: Request, reply: Reply) -> Reply:
        assert isinstance(reply, Update)
        return dataclasses.replace(reply, values=reply.values[:-1])

    return [
        ("another schema", with_(schema="0" * 64)),
        ("a heavier weight than agreed", with_(weight=1000)),
        ("one parameter short", shorter),
        ("an answer to another question", lambda _n, _r, _reply: Welcome((), 1)),
        ("a refusal", lambda _n, _r, _reply: Refusal("loss-not-finite", "the loss is nan at local step 1 of 4")),
    ]


@pytest.mark.parametrize(("what", "change"), bad_updates(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_update_is_left_out_by_name_and_the_round_goes_on_with_the_rest(
    tmp_path: Path, what: str, change: Tamper
) -> None:
    assert what
    plan = tiny_plan(plan__rounds=1)
    outcome = coordinate(plan, MemoryFleet(plan, tamper=only_for("bergen", Update, change)), tmp_path / "bad")
    without = MemoryFleet(plan, tamper=only_for("bergen", Update, lambda _n, _r, _reply: None))
    assert outcome.checkpoint == coordinate(plan, without, tmp_path / "without").checkpoint
    record = read_rounds(tmp_path / "bad" / "rounds.jsonl")[0].participation
    assert record.participants == ("aachen", "coimbra")
    assert list(record.missing) == ["bergen"]


def test_a_silent_site_is_missing_for_want_of_an_answer_and_asked_again_next_round(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=2)

    def silent_once(_name: str, request: Request, reply: Reply) -> Reply | None:
        return None if request.envelope.round == 1 else reply

    coordinate(plan, MemoryFleet(plan, tamper=only_for("bergen", Update, silent_once)), tmp_path)
    first, second = (record.participation for record in read_rounds(tmp_path / "rounds.jsonl"))
    assert first.missing == {"bergen": "no-answer"}
    assert second.participants == SITES


def test_below_quorum_the_run_is_aborted_with_the_numbers(tmp_path: Path) -> None:
    plan = tiny_plan(participation__quorum=3)
    fleet = MemoryFleet(plan, tamper=only_for("bergen", Update, lambda _n, _r, _reply: None))
    with pytest.raises(RunError, match="2 sites delivered an update in round 1, the plan's quorum is 3"):
        coordinate(plan, fleet, tmp_path)


def test_an_aborted_run_can_be_resumed_when_the_site_is_back(tmp_path: Path) -> None:
    plan = tiny_plan(participation__quorum=3)
    whole = coordinate(plan, MemoryFleet(plan), tmp_path / "whole")
    fleet = MemoryFleet(
        plan, tamper=only_for("bergen", Update, lambda _n, r, reply: reply if r.envelope.round < 2 else None)
    )
    with pytest.raises(RunError):
        coordinate(plan, fleet, tmp_path / "cut")
    assert coordinate(plan, MemoryFleet(plan), tmp_path / "cut").checkpoint == whole.checkpoint


def test_where_the_plan_says_so_a_round_below_quorum_is_skipped_and_the_model_stays(tmp_path: Path) -> None:
    plan = tiny_plan(participation__quorum=3, participation__below_quorum="skip-round")
    fleet = MemoryFleet(
        plan, tamper=only_for("bergen", Update, lambda _n, r, reply: reply if r.envelope.round != 2 else None)
    )
    coordinate(plan, fleet, tmp_path)
    checkpoints = [record.checkpoint for record in read_rounds(tmp_path / "rounds.jsonl")]
    assert checkpoints[0] == checkpoints[1] != checkpoints[2]
    assert read_rounds(tmp_path / "rounds.jsonl")[1].loss is None


def test_a_site_with_another_fingerprint_is_not_admitted_and_the_difference_is_readable(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1)

    def older(_name: str, _request: Request, reply: Reply) -> Reply:
        assert isinstance(reply, Welcome)
        return dataclasses.replace(
            reply, fingerprint=tuple(sorted({**dict(reply.fingerprint), "torch": "2.1.0"}.items()))
        )

    outcome = coordinate(plan, MemoryFleet(plan, tamper=only_for("bergen", Welcome, older)), tmp_path)
    assert outcome.refused == (("bergen", "fingerprint"),)
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        sentence = connection.execute("select sentence from events where code = 'fingerprint'").fetchone()[0]
    assert "torch: " in sentence
    assert "2.1.0 there" in sentence


def test_a_site_that_was_not_admitted_is_never_asked_to_train(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1)
    fleet = MemoryFleet(plan, tamper=only_for("bergen", Welcome, lambda _n, _r, _reply: None))
    coordinate(plan, fleet, tmp_path)
    assert {kind for name, kind, _ in fleet.asked if name == "bergen"} == {"Hello"}


def test_every_event_is_in_the_journal(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1)
    coordinate(plan, MemoryFleet(plan), tmp_path)
    found = events(tmp_path)
    assert [(phase, kind) for _, phase, kind, site, _ in found if site == "aachen"] == [
        ("admitting", "answered"),
        ("training", "answered"),
        ("measuring", "answered"),
        ("testing", "answered"),
    ]


def release(plan: Plan, folder: Path) -> str:
    coordinate(plan, MemoryFleet(plan), folder)
    return (folder / "rounds.jsonl").read_text()


def test_under_release_sum_no_site_s_figures_are_kept_anywhere(tmp_path: Path) -> None:
    line = json.loads(release(tiny_plan(plan__rounds=1, evaluation__release="sum"), tmp_path / "sum"))
    assert line["metrics"]["pooled"]["auroc"]["value"] is not None
    assert line["metrics"]["sites"] == {}
    released = json.loads(release(tiny_plan(plan__rounds=1, evaluation__release="site"), tmp_path / "site"))
    assert set(released["metrics"]["sites"]) == set(SITES)


def test_statistics_of_another_schema_do_not_count(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1)

    def foreign(_name: str, _request: Request, reply: Reply) -> Reply:
        assert isinstance(reply, Measured)
        return dataclasses.replace(reply, schema="0" * 64)

    outcome = coordinate(plan, MemoryFleet(plan, tamper=only_for("bergen", Measured, foreign)), tmp_path)
    assert outcome.test is not None
    assert set(outcome.test.sites) == {"aachen", "coimbra"}


def test_the_final_model_is_the_mean_of_the_last_ones_by_hand(tmp_path: Path) -> None:
    from server.run_state import ModelFiles

    plan = tiny_plan(aggregation__average_last=2)
    outcome = coordinate(plan, MemoryFleet(plan), tmp_path)
    files = ModelFiles(tmp_path, Workbench.for_plan(plan).parameters, plan.digest())
    last = [files.load(record.checkpoint) for record in read_rounds(tmp_path / "rounds.jsonl")[-2:]]
    np.testing.assert_allclose(outcome.weights, np.mean(last, axis=0, dtype=np.float64), atol=1e-7)


def test_personalisation_is_asked_for_after_the_last_round_and_its_weights_stay_at_the_site(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=1, personalisation__steps=5, personalisation__learning_rate=0.01)
    fleet = MemoryFleet(plan)
    fleet.sites = {name: dataclasses.replace(site, folder=tmp_path / name) for name, site in fleet.sites.items()}
    outcome = coordinate(plan, fleet, tmp_path / "run")
    assert outcome.personalised is not None
    assert set(outcome.personalised.sites) == set(SITES)
    kept = [path.name for name in SITES for path in (tmp_path / name / "personal").iterdir()]
    assert len(kept) == 3
    assert not set(kept) & {path.name for path in (tmp_path / "run").rglob("*")}


def test_without_personalisation_nobody_is_asked_for_it(tmp_path: Path) -> None:
    fleet = MemoryFleet(tiny_plan(plan__rounds=1))
    assert coordinate(tiny_plan(plan__rounds=1), fleet, tmp_path).personalised is None
    assert "Personalise" not in {kind for _, kind, _ in fleet.asked}


def late(until: int) -> Tamper:
    """Aachen cannot be reached before round ``until``."""

    def tamper(site: str, request: Request, reply: Reply) -> Reply | None:
        away = site == "aachen" and request.envelope.round < until
        return Refusal("transport", "nobody there") if away else reply

    return tamper


def test_a_site_that_comes_late_joins_with_the_round_after_its_greeting(tmp_path: Path) -> None:
    plan = tiny_plan(plan__rounds=4)
    fleet = MemoryFleet(plan, tamper=late(until=2))
    outcome = coordinate(plan, fleet, tmp_path)
    records = read_rounds(tmp_path / "rounds.jsonl")
    took_part = [record.participation.participants for record in records]
    assert took_part == [SITES[1:], SITES[1:], SITES, SITES]
    assert records[0].participation.missing == {"aachen": "transport"}
    assert records[2].participation.missing == {}
    assert outcome.refused == ()
    asked = [(kind, at) for site, kind, at in fleet.asked if site == "aachen"]
    assert asked[:5] == [("Hello", 0), ("Hello", 1), ("Hello", 2), ("Evaluate", 2), ("Train", 3)]


def test_a_site_that_never_comes_is_missing_and_delays_nothing(tmp_path: Path) -> None:
    plan = tiny_plan()
    outcome = coordinate(plan, MemoryFleet(plan, tamper=late(until=99)), tmp_path)
    assert outcome.refused == (("aachen", "transport"),)
    assert all(record.participation.missing for record in read_rounds(tmp_path / "rounds.jsonl"))
