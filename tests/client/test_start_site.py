"""What ``consilium-site start`` keeps running: in which order, when one counts as ready, and what an end means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from real_sites import now

from client.commands import start
from client.custodian.service import STOPPED
from client.link_watch import Ending
from client.settings import template
from client.site_folder import SiteFolder
from shared.errors import SiteDataError
from shared.supervision import News, Program


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    made = SiteFolder.init(tmp_path / "aachen", template("aachen"), now())
    (made.path / "run").mkdir(mode=0o700, exist_ok=True)
    return made


def programs(site: SiteFolder, **inherited: str) -> tuple[Program, Program]:
    custodian, supernode = start.supervisor(site, inherited, lambda _news: None).programs
    return custodian, supernode


def test_the_custodian_comes_before_the_one_that_only_carries(site: SiteFolder) -> None:
    assert [one.name for one in programs(site)] == ["custodian", "supernode"]


def test_each_works_on_this_folder_wherever_the_command_was_typed(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.path.parent)
    for one in programs(SiteFolder.open(Path("aachen"))):
        assert one.command().argv[-1] == str(site.path)
        assert one.log == site.path / "log" / f"{one.name}.log"


def test_what_a_person_has_set_reaches_both_and_telemetry_is_off(site: SiteFolder) -> None:
    for one in programs(site, HTTPS_PROXY="http://proxy.example:3128"):
        environment = one.command().environment
        assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"
        assert environment["FLWR_TELEMETRY_ENABLED"] == "0"


def test_the_logs_are_for_the_owner_alone(site: SiteFolder) -> None:
    programs(site)
    assert (site.path / "log").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("written", "ready"),
    [(None, False), ("", False), ("no number", False), ("{pid}", True), ("{pid}\n", True), ("1{pid}", False)],
    ids=["nothing", "empty", "rubbish", "its own", "with a line end", "another's"],
)
def test_the_custodian_is_ready_when_its_own_number_is_written(
    site: SiteFolder, written: str | None, ready: object
) -> None:
    if written is not None:
        (site.path / "run" / "custodian.pid").write_text(written.format(pid=os.getpid()))
    assert programs(site)[0].ready(os.getpid()) is ready


def test_the_number_of_an_earlier_custodian_makes_none_ready(site: SiteFolder) -> None:
    (site.path / "run" / "custodian.pid").write_text(str(os.getpid()))
    assert not programs(site)[0].ready(os.getpid() + 1)


def test_every_end_that_the_supernode_can_explain_is_explained_and_no_other(site: SiteFolder) -> None:
    custodian, supernode = programs(site)
    unexplained = {Ending.STOPPED, Ending.FAILED, Ending.USAGE}
    assert set(supernode.meanings) == set(Ending) - unexplained
    assert set(custodian.meanings) == {STOPPED}


def test_one_code_means_one_thing_for_each_process(site: SiteFolder) -> None:
    """The two share a number: what a coordinator that is away means must not be said of a job that hung."""
    custodian, supernode = programs(site)
    assert STOPPED == Ending.TRY_AGAIN
    assert "coordinator" not in custodian.meanings[STOPPED].sentence
    assert "coordinator" in supernode.meanings[Ending.TRY_AGAIN].sentence


def test_what_somebody_must_mend_is_tried_less_often_than_what_mends_itself(site: SiteFolder) -> None:
    meanings = programs(site)[1].meanings
    patient = min(meanings[Ending.CERTIFICATE].pause_s, meanings[Ending.NOT_ADMITTED].pause_s)
    assert patient >= 10 * meanings[Ending.TRY_AGAIN].pause_s > 0


def test_a_folder_is_kept_running_once_and_is_free_afterwards(site: SiteFolder) -> None:
    refused = pytest.raises(SiteDataError, match="aachen runs already from this folder")
    with start.alone(site), refused as caught, start.alone(site):
        pytest.fail("two custodians")
    assert caught.value.code == "folder-in-use"
    with start.alone(site):
        pass


def test_two_sites_on_one_machine_do_not_hinder_each_other(site: SiteFolder, tmp_path: Path) -> None:
    other = SiteFolder.init(tmp_path / "bergen", template("bergen"), now())
    with start.alone(site), start.alone(other):
        assert (other.path / "run").stat().st_mode & 0o777 == 0o700


def test_what_happens_to_a_process_is_a_line_for_programs_too(site: SiteFolder) -> None:
    told: list[News] = []
    keeper = start.supervisor(site, {}, told.append)
    keeper.tell(News("custodian", "ended", "custodian was killed; next attempt in 0.5 s", -9))
    lines = [json.loads(one) for one in (site.path / "log" / "events.jsonl").read_text().splitlines()]
    assert [{key: one[key] for key in ("process", "event", "program", "exit")} for one in lines] == [
        {"process": "start", "event": "program-ended", "program": "custodian", "exit": -9}
    ]
    assert [one.kind for one in told] == ["ended"]
    assert (site.path / "log" / "events.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_stops_nothing(site: SiteFolder) -> None:
    told: list[News] = []
    keeper = start.supervisor(site, {}, told.append)
    (site.path / "log" / "events.jsonl").mkdir()
    keeper.tell(News("custodian", "started", "custodian runs"))
    assert [one.program for one in told] == ["custodian"]
