"""The journal: durable before it returns, append-only, one plan, one opener, and whole after a kill or a full disk."""

from __future__ import annotations

import json
import math
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from server.journal import Completed, Entry, Journal, Row, is_open
from shared.errors import CapacityError, RunError
from shared.plan import Plan, parse

ROOT = Path(__file__).parents[2]
DIGEST = "ab" * 32
PLAN = """
[plan]
name = "p"
task = "segmentation"
rounds = {rounds}
seed = 11
[data]
modality = "fundus"
classes = ["a", "b"]
[preprocessing]
size = [32, 32]
[model]
name = "unet"
[training]
steps = 1
patients_per_step = 1
learning_rate = 0.1
[privacy]
unit = "none"
"""


def clock() -> Callable[[], float]:
    """1.0, 2.0, 3.0 ..."""
    ticks = count(1)
    return lambda: float(next(ticks))


def plan(rounds: int = 3) -> Plan:
    return parse(PLAN.format(rounds=rounds))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.create(path, DIGEST, "the plan's text", 7, clock()) as created:
        yield created


@pytest.fixture
def closed(path: Path) -> Path:
    """A journal that was begun and closed."""
    with Journal.create(path, DIGEST, "text", 7, clock()):
        return path


def reopened(path: Path) -> Journal:
    return Journal.open(path, DIGEST, clock())


def test_a_new_journal_knows_its_run_and_nothing_else(journal: Journal) -> None:
    assert (journal.plan_digest, journal.plan_text, journal.seed) == (DIGEST, "the plan's text", 7)
    assert journal.run == "abababababab"
    assert list(journal.events()) == []
    assert journal.last_completed() is None
    assert journal.checkpoints() == []


def test_what_was_written_is_read_back_in_order_after_opening_again(path: Path) -> None:
    rows = [
        Row(1, "training", "answered", "a", detail={"loss": 0.5, "steps": 20}),
        Row(1, "training", "failed", "b", "update-not-finite", "the change of 1 or more parameters is not finite"),
        Row(1, "training", "deadline"),
    ]
    with Journal.create(path, DIGEST, "text", 7, clock()) as journal:
        journal.append(rows[:2])
        journal.append(rows[2:])
    with reopened(path) as journal:
        assert list(journal.events()) == [Entry(2.0, rows[0]), Entry(2.0, rows[1]), Entry(3.0, rows[2])]
        assert (journal.plan_digest, journal.plan_text, journal.seed) == (DIGEST, "text", 7)


def test_recording_one_event_is_appending_one_row(journal: Journal) -> None:
    journal.record(2, "testing", "failed", "b", "site-data", "too few cases")
    assert [entry.row for entry in journal.events()] == [Row(2, "testing", "failed", "b", "site-data", "too few cases")]


def test_completed_rounds_are_kept_with_what_is_needed_to_go_on(journal: Journal) -> None:
    journal.complete_round(1, "c1", "", {"pooled": {"dice": 0.5}})
    journal.complete_round(2, "c2", "s2")
    assert journal.last_completed() == Completed(2, "c2", "s2", {})
    assert journal.checkpoints() == ["c1", "c2"]


def test_metrics_come_back_as_they_were_given_and_undetermined_ones_as_null(path: Path) -> None:
    metrics = {"pooled": {"dice": 0.1 + 0.2, "auroc": math.nan}, "sites": [math.inf, 3, None, "a"], "n": (1, 2)}
    with Journal.create(path, DIGEST, "text", 7, clock()) as journal:
        journal.complete_round(1, "c1", "", metrics)
    with reopened(path) as journal:
        last = journal.last_completed()
    assert last is not None
    assert last.metrics == {"pooled": {"dice": 0.1 + 0.2, "auroc": None}, "sites": [None, 3, None, "a"], "n": [1, 2]}


def test_metrics_are_stored_as_json_that_any_program_reads(path: Path, journal: Journal) -> None:
    journal.complete_round(1, "c1", "", {"b": math.nan, "a": 1})
    with sqlite3.connect(path) as connection:
        stored = connection.execute("select metrics from completed").fetchone()[0]
    connection.close()
    assert stored == '{"a":1,"b":null}'
    assert json.loads(stored) == {"a": 1, "b": None}


@pytest.mark.parametrize("wrong", [0, 1, 3, 9])
def test_rounds_are_completed_in_order_and_once(journal: Journal, wrong: int) -> None:
    journal.complete_round(1, "c1", "")
    with pytest.raises(RunError, match=f"round {wrong} cannot be completed after round 1") as caught:
        journal.complete_round(wrong, "c", "")
    assert caught.value.code == "journal-order"
    assert journal.checkpoints() == ["c1"]


@pytest.mark.parametrize("table", ["run", "events", "completed"])
@pytest.mark.parametrize(
    "statement", ["update {} set rowid = 99", "delete from {}", "replace into {} select * from {}"]
)
def test_rows_cannot_be_changed_or_removed(path: Path, journal: Journal, table: str, statement: str) -> None:
    journal.record(1, "training", "deadline")
    journal.complete_round(1, "c1", "")
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement.replace("{}", table))
    connection.close()


def test_every_table_has_its_guards(path: Path, journal: Journal) -> None:  # noqa: ARG001 - creates the file
    connection = sqlite3.connect(path)
    names = {
        kind: {name for (name,) in connection.execute("select name from sqlite_master where type = ?", (kind,))}
        for kind in ("table", "trigger")
    }
    connection.close()
    assert names["trigger"] == {
        f"{table}_{verb}" for table in names["table"] for verb in ("update", "delete", "replace")
    }
    assert names["table"]


def test_every_commit_reaches_the_disk(journal: Journal) -> None:
    settings = [journal._connection.execute(f"pragma {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]


def test_a_journal_of_another_plan_is_refused_with_both_digests(closed: Path) -> None:
    with pytest.raises(RunError, match="belongs to plan abababababab, this is plan cdcdcdcdcdcd") as caught:
        Journal.open(closed, "cd" * 32, clock())
    assert caught.value.code == "journal-plan"


def test_a_refused_opening_leaves_the_journal_free_for_the_right_plan(closed: Path) -> None:
    with pytest.raises(RunError):
        Journal.open(closed, "cd" * 32, clock())
    with reopened(closed):
        pass


def test_a_journal_is_created_once(closed: Path) -> None:
    with reopened(closed) as journal:
        journal.record(1, "training", "deadline")
    with pytest.raises(RunError, match="exists") as caught:
        Journal.create(closed, DIGEST, "text", 7, clock())
    assert caught.value.code == "journal-exists"
    with reopened(closed) as kept:
        assert len(list(kept.events())) == 1


def test_opening_a_journal_that_is_not_there_is_an_error_and_makes_no_file(path: Path) -> None:
    with pytest.raises(RunError, match="there is no journal") as caught:
        reopened(path)
    assert caught.value.code == "journal-missing"
    assert not path.exists()


def test_opening_an_empty_file_is_an_error(path: Path) -> None:
    path.touch()
    with pytest.raises(RunError, match="is empty"):
        reopened(path)


def test_a_file_that_is_no_database_is_an_error_that_says_damaged(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunError, match="the journal is damaged"):
        reopened(path)


def test_a_second_opener_is_refused_while_the_first_is_there(path: Path, journal: Journal) -> None:
    for second in (reopened, lambda path: Journal.create(path, DIGEST, "text", 7, clock())):
        with pytest.raises(RunError, match="is open in another process") as caught:
            second(path)
        assert caught.value.code == "journal-locked"
    journal.record(1, "training", "deadline")


_HOLD = """
import sys, time
from pathlib import Path
from server.journal import Journal
journal = Journal.open(Path(sys.argv[1]), sys.argv[2], time.time)
print("open", flush=True)
time.sleep(60)
"""


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_another_process_is_refused_until_the_first_is_killed(closed: Path) -> None:
    with started(_HOLD, str(closed), DIGEST) as holder:
        assert next_line(holder) == "open"
        with pytest.raises(RunError, match="is open in another process"):
            reopened(closed)
        holder.send_signal(signal.SIGKILL)
    with reopened(closed):
        pass


def test_whether_a_process_has_it_open_is_known_without_taking_it_away(closed: Path) -> None:
    assert not is_open(closed)
    assert not is_open(closed.with_name("another.sqlite"))
    with started(_HOLD, str(closed), DIGEST) as holder:
        assert next_line(holder) == "open"
        assert is_open(closed)
        holder.send_signal(signal.SIGKILL)
    assert not is_open(closed)


def test_asking_whether_it_is_open_keeps_nobody_from_opening_it(closed: Path) -> None:
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            is_open(closed)
            time.sleep(0.002)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(50):
            with reopened(closed):
                pass
    finally:
        over.set()
        asking.join()


def test_a_journal_is_opened_or_begun_by_its_plan(path: Path) -> None:
    with Journal.open_or_create(path, plan(), clock()) as journal:
        journal.complete_round(1, "c1", "")
        assert (journal.plan_digest, journal.seed) == (plan().digest(), 11)
        assert journal.plan_text.encode() == plan().canonical_bytes()
    with Journal.open_or_create(path, plan(), clock()) as journal:
        assert journal.checkpoints() == ["c1"]
    with pytest.raises(RunError, match="belongs to plan"):
        Journal.open_or_create(path, plan(rounds=4), clock())


def test_an_empty_file_left_by_a_kill_is_begun_again(path: Path) -> None:
    path.touch()
    with Journal.open_or_create(path, plan(), clock()) as journal:
        assert journal.last_completed() is None


def test_an_interrupted_transition_leaves_none_of_its_rows(journal: Journal) -> None:
    journal.record(1, "training", "answered", "a")
    broken = Row(1, "training", "deadline", detail={"value": object()})
    with pytest.raises(TypeError):
        journal.append([Row(1, "training", "answered", "b"), broken])
    assert [entry.row.site for entry in journal.events()] == ["a"]
    journal.record(1, "training", "answered", "c")
    assert [entry.row.site for entry in journal.events()] == ["a", "c"]


def test_a_transition_of_many_rows_is_one_transaction(path: Path, journal: Journal) -> None:
    before = path.with_name(path.name + "-wal").stat().st_size
    journal.append([Row(1, "training", "answered", f"site-{number}") for number in range(20)])
    one_by_one = path.with_name(path.name + "-wal").stat().st_size - before
    for number in range(20):
        journal.record(1, "training", "answered", f"site-{number}")
    singly = path.with_name(path.name + "-wal").stat().st_size - before - one_by_one
    assert one_by_one < singly / 4


def test_a_full_disk_is_reported_and_keeps_what_was_written(journal: Journal) -> None:
    journal.record(1, "training", "answered", "a")
    pages = journal._connection.execute("pragma page_count").fetchone()[0]
    journal._connection.execute(f"pragma max_page_count = {pages}")
    large = [Row(1, "training", "failed", "b", sentence="x" * 3000)] * 20
    with pytest.raises(CapacityError, match=r"the disk is full: .*, \d+ bytes are free") as caught:
        journal.append(large)
    assert caught.value.code == "disk-full"
    assert [entry.row.site for entry in journal.events()] == ["a"]
    journal._connection.execute("pragma max_page_count = 100000")
    journal.append(large)
    assert len(list(journal.events())) == 21


_LIMITED = """
import resource, sys, time
from pathlib import Path
from server.journal import Journal, Row
from shared.errors import RunError
journal = Journal.open(Path(sys.argv[1]), sys.argv[2], time.time)
size = Path(sys.argv[1] + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, size + 200_000))
written = 0
try:
    while True:
        journal.append([Row(1, "training", "failed", "a", sentence="x" * 9000)])
        written += 1
except RunError as error:
    print(written, error.code)
"""


def test_a_write_that_the_system_cuts_short_keeps_every_transition_before_it(closed: Path) -> None:
    with started(_LIMITED, str(closed), DIGEST) as writer:
        written, code = next_line(writer).split()
    assert (int(written) > 0, code) == (True, "journal-unwritable")
    with reopened(closed) as again:
        assert len(list(again.events())) == int(written)


_WRITER = """
import sys, time
from pathlib import Path
from server.journal import Journal, Row
with Journal.open(Path(sys.argv[1]), sys.argv[2], time.time) as journal:
    done = journal.last_completed()
    number = done.round if done else 0
    while True:
        number += 1
        journal.append([Row(number, "training", "answered", site) for site in "abc"])
        journal.complete_round(number, f"c{number}", f"s{number}")
        print(number, flush=True)
"""


def kill_after_a_while(path: Path, seconds: float) -> int:
    """The last round whose call had returned when the writer was killed."""
    with started(_WRITER, str(path), DIGEST) as writer:
        last = int(next_line(writer))
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout is not None
        lines = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    return int(lines[-1]) if lines else last


@pytest.mark.parametrize("seed", range(4))
def test_killing_the_writer_at_any_moment_loses_no_transition_that_had_returned(closed: Path, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(2):
        returned = kill_after_a_while(closed, generator.uniform(0, 0.15))
        with reopened(closed) as journal:
            assert journal._connection.execute("pragma integrity_check").fetchone()[0] == "ok"
            last = journal.last_completed()
            rows = [(entry.row.round, entry.row.site) for entry in journal.events()]
            checkpoints = journal.checkpoints()
        assert last is not None
        assert returned <= last.round <= returned + 1
        assert checkpoints == [f"c{number}" for number in range(1, last.round + 1)]
        assert last.checkpoint == checkpoints[-1]
        assert rows[-1][0] - last.round in {0, 1}
        assert [site for _, site in rows] == list("abc") * (len(rows) // 3)
        # A round whose events were written, but not its end, is written again by the next process.
        assert {number for number, _ in rows} == set(range(1, rows[-1][0] + 1))


_CREATOR = """
import sys, time
from pathlib import Path
from server.journal import Journal
print("go", flush=True)
Journal.create(Path(sys.argv[1]), sys.argv[2], "text", 7, time.time)
"""


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01])
def test_killing_the_creator_leaves_a_whole_journal_or_one_that_can_be_begun(path: Path, delay: float) -> None:
    with started(_CREATOR, str(path), plan().digest()) as creator:
        next_line(creator)
        time.sleep(delay)
        creator.send_signal(signal.SIGKILL)
    with Journal.open_or_create(path, plan(), clock()) as journal:
        assert journal.plan_digest == plan().digest()
        journal.complete_round(1, "c1", "")


def test_the_journal_holds_no_time_but_that_of_its_clock(path: Path) -> None:
    for name in ("one", "two"):
        folder = path.parent / name
        folder.mkdir()
        with Journal.create(folder / path.name, DIGEST, "text", 7, clock()) as journal:
            journal.record(1, "training", "answered", "a")
            journal.complete_round(1, "c1", "", {"dice": 0.5})
    one, two = ((path.parent / name / path.name).read_bytes() for name in ("one", "two"))
    assert one == two
