"""How a site does, read off a real folder, a real socket and a real lock; and what is said and counted of it."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lived_in import LEFT, Hospital, custodian, hospital, supernode, week_later
from prometheus_client.parser import text_string_to_metric_families
from small_ledger import claim
from small_trust import DAY, HOUR, NOW, new_site

from client import terminal
from client.governance.audit import AuditLog, Event
from client.governance.ledger import Ledger
from client.site_folder import SiteFolder
from client.statuspage import diary, processes, shown
from client.statuspage.app import renderer
from client.statuspage.collect import sentences, site_status
from client.statuspage.diary import sentence_of
from client.statuspage.numbers import gauges, state_of
from client.statuspage.processes import locked
from shared.local_page.telemetry import exposition
from shared.privacy.accounting import Cap
from shared.privacy.events import Event as Paid

PATIENTS = ("p1", "p2", "p3", "p4")


@pytest.fixture
def home(tmp_path: Path) -> Hospital:
    return hospital(tmp_path)


def status(home: Hospital) -> dict[str, Any]:
    return site_status(SiteFolder.open(home.site.path), week_later())


def numbers(home: Hospital) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(exposition(gauges(status(home))).decode())
    return {
        (one.name.removeprefix("consilium_"), *one.labels.values()): one.value
        for each in families
        for one in each.samples
    }


def page(home: Hospital) -> str:
    sections, _ = renderer()
    return sections(status(home))["budgets"]


def printed(home: Hospital, capsys: pytest.CaptureFixture[str]) -> str:
    for part in shown.terminal(status(home)):
        terminal.stdout().print(part)
    return capsys.readouterr().out


# --- processes -------------------------------------------------------------------------------------------------------


def test_without_processes_everything_is_down_and_says_how_to_start_it(home: Hospital) -> None:
    found = status(home)
    assert [found[part]["state"] for part in ("custodian", "supernode", "link")] == ["down"] * 3
    assert all("consilium-site start" in found[part]["hint"] for part in ("custodian", "supernode", "link"))
    assert state_of(found) == "custodian-down"
    assert "takes no part" in shown.lead(found)


def test_a_site_at_work_says_so(home: Hospital) -> None:
    home.session()
    with custodian(home.run) as service, supernode(home.run):
        service.bench.since, service.bench.answered, service.bench.waiting = time.monotonic() - 190, 23, 2
        found = status(home)
    assert [found[part]["state"] for part in ("custodian", "supernode", "link")] == ["busy", "up", "up"]
    assert found["custodian"]["sentence"] == "It has been working for 3 minutes; 2 more requests in line."
    assert (found["custodian"]["waiting"], found["custodian"]["answered"]) == (2, 23)
    assert state_of(found) == "ok"
    assert shown.lead(found) == "This site is working for the federation lungs, for 3 minutes by now."


def test_a_custodian_that_waits_is_ready(home: Hospital) -> None:
    home.session()
    with custodian(home.run), supernode(home.run):
        assert shown.lead(status(home)) == "This site is ready for the federation lungs."


def test_a_token_that_others_can_read_is_named_as_what_is_wrong(home: Hospital) -> None:
    with custodian(home.run):
        (home.run / "relay.token").chmod(0o644)
        found = status(home)["custodian"]
    assert found["state"] == "down"
    assert "open to others" in found["sentence"]


def test_a_socket_that_a_killed_custodian_left_is_no_custodian(home: Hospital) -> None:
    with custodian(home.run):
        pass
    (home.run / "custodian.sock").touch()
    (home.run / "relay.token").chmod(0o640)
    assert status(home)["custodian"]["state"] == "down"


def test_a_lock_is_seen_while_it_is_held_and_looking_does_not_take_it(home: Hospital) -> None:
    path = home.run / "supernode.lock"
    assert locked(path) is False
    with supernode(home.run):
        assert locked(path) is True
        assert locked(path) is True
    assert locked(path) is False
    with supernode(home.run):
        pass


def test_a_system_that_does_not_list_its_locks_is_not_known_and_not_down(home: Hospital, tmp_path: Path) -> None:
    (home.run / "supernode.lock").touch()
    found = processes.supernode(home.run, tmp_path / "no-locks")
    assert found["state"] == "unknown"
    assert shown.LEVELS[found["state"]] == "off"


@pytest.fixture
def by_services(home: Hospital, tmp_path: Path) -> Hospital:
    """Two users: the socket's folder is elsewhere, and the relay's files are in a third."""
    home.run.rename(tmp_path / "link")
    (home.site.path / "run").symlink_to(tmp_path / "link")
    return home


def test_a_relay_with_a_user_of_its_own_is_not_called_down(by_services: Hospital) -> None:
    with custodian(by_services.run):
        found = status(by_services)
        assert shown.lead(found) == "This site's custodian is ready for the federation lungs."
    assert (found["supernode"]["state"], found["link"]["state"]) == ("unknown", "unknown")
    assert found["supernode"]["hint"] == "systemctl status consilium-relay"
    assert shown.word("link", "unknown") == "not known"


def test_nobody_is_told_to_start_by_hand_what_is_a_service(by_services: Hospital) -> None:
    """It would be a second custodian for one ledger, or be refused as one."""
    assert status(by_services)["custodian"]["hint"] == "systemctl status consilium-custodian"
    (by_services.run / "custodian.sock").touch()
    (by_services.run / "relay.token").touch(0o640)
    (by_services.run / "relay.token").write_text("00" * 32 + "\n")
    hints = [status(by_services)[part]["hint"] for part in ("custodian", "supernode", "link")]
    assert not [hint for hint in hints if "start" in hint or "log/" in hint]


def test_a_supernode_that_has_no_session_since_it_started_is_not_connected(home: Hospital) -> None:
    home.session()
    (home.run / "superexec.secret").write_text("a later start")
    with supernode(home.run):
        found = status(home)
    assert found["link"]["state"] == "down"
    assert "has not reached lead.example:443" in found["link"]["sentence"]


# --- what people decided ---------------------------------------------------------------------------------------------


def test_approvals_say_who_when_and_how_many_runs(home: Hospital) -> None:
    (found,) = status(home)["approvals"]
    assert (found["name"], found["by"], found["state"], found["runs"], found["served"]) == (
        "retina-vessels",
        "m.curie",
        "approved",
        2,
        0,
    )
    assert numbers(home)["approvals",] == 1


def test_a_withdrawn_approval_counts_no_more(home: Hospital) -> None:
    home.withdraw()
    assert status(home)["approvals"][0]["state"] == "withdrawn"
    assert numbers(home)["approvals",] == 0


def test_budgets_are_those_of_the_budget_command(home: Hospital) -> None:
    from client.commands.budget import budget

    said = {line.split: (line.spent, line.cap) for line in budget(home.site, None, None)}
    assert {one["split"]: (one["spent"], one["cap"]) for one in status(home)["budgets"]} == said
    assert said["train"][0] > 0
    assert numbers(home)["epsilon_spent_ratio", "1", "train"] == pytest.approx(said["train"][0] / said["train"][1])


def test_the_policy_is_said_in_sentences_and_a_wider_one_otherwise(home: Hospital) -> None:
    careful = sentences(home.site.policy)
    assert careful[0] == "Plans must protect patients, with ε up to 8 each and 10 in a lifetime, at δ = 10⁻⁵."
    (home.site.path / "policy.toml").write_text(
        "[privacy]\nunsafe_allow_unprotected = true\n[statistics]\nrelease = []\n"
    )
    wider = sentences(home.site.policy)
    assert wider[0] == "Plans without protection are permitted."
    assert wider[1] == "Figures about patients may leave not at all."


def test_whether_sites_may_share_noise_is_said_where_they_may(home: Hospital) -> None:
    assert not [one for one in sentences(home.site.policy) if "share" in one]
    (home.site.path / "policy.toml").write_text("[privacy]\nmax_epsilon_alone = 30.0\n")
    said = sentences(home.site.policy)
    assert said[1] == "Sites may share the noise, with ε up to 30 in a run if all other sites collude."
    assert len(said) == 5


def test_what_was_paid_if_all_other_sites_collude_is_on_the_page_where_noise_was_shared(
    home: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {one["if_all_collude"] for one in status(home)["budgets"]} == {None}
    assert "collude" not in printed(home, capsys) + page(home)
    event = Paid(2.4, 0.064, 50, 1.2)
    Ledger.open(home.site.path / "ledger.sqlite").reserve(claim(number=9), event, Cap(10, 1e-5), NOW)
    train, *others = status(home)["budgets"]
    assert (train["split"], {one["if_all_collude"] for one in others}) == ("train", {None})
    assert train["if_all_collude"] > train["reserved"]
    said = " ".join(printed(home, capsys).split())
    assert f"if all other sites collude, a patient has paid up to epsilon {train['if_all_collude']:.3f}." in said
    assert page(home).count(f"; {train['if_all_collude']:.2f} if all other sites collude</p>") == 1


def test_a_policy_that_cannot_be_read_is_a_fault_and_the_rest_is_there(home: Hospital) -> None:
    (home.site.path / "policy.toml").write_text("surprise = 1\n")
    found = status(home)
    assert found["policy"] is None
    assert {one["code"] for one in found["faults"]} == {"policy-file"}
    assert found["approvals"]


# --- what left -------------------------------------------------------------------------------------------------------


def test_what_left_is_the_sum_of_the_receipts_of_seven_days(home: Hospital) -> None:
    home.note(Event("leaves-measured", "lesions", {"round": 3, "bytes": 100}), NOW + DAY)
    found = status(home)["left"]
    assert found["messages"] == len(LEFT) + 1
    assert found["bytes"] == sum(octets for _, octets in LEFT) + 100
    assert [tuple(one) for one in found["kinds"]] == [("measured", 1, 100), ("update", 3, sum(o for _, o in LEFT))]
    assert found["refused"] == 1
    assert numbers(home)["left_bytes_week",] == found["bytes"]


def test_what_left_before_is_not_counted(home: Hospital) -> None:
    found = diary.diary(home.site.path / "audit.jsonl", NOW + 7 * DAY + HOUR + timedelta(minutes=30))
    assert found.left.messages == 1
    assert diary.diary(home.site.path / "audit.jsonl", NOW + 30 * DAY).left.messages == 0


def test_a_log_that_was_sealed_meanwhile_is_read_on(home: Hospital) -> None:
    before, log = status(home)["left"]["messages"], home.site.audit
    small = AuditLog(log.path, log.signer, most_bytes=1)
    small.append(Event("leaves-update", "lesions", {"round": 4, "bytes": 7}), NOW + DAY)
    assert len(list(home.site.path.glob("audit-*.jsonl"))) == 1
    found = status(home)
    assert found["left"]["messages"] == before + 1
    assert [one["number"] for one in found["audit"]] == sorted((one["number"] for one in found["audit"]), reverse=True)


def test_the_last_lines_are_in_words_the_newest_first(home: Hospital) -> None:
    found = [one["sentence"] for one in status(home)["audit"]]
    assert found[0] == "A request was refused (train): replayed otherwise."
    assert found[1] == "An update of the model left for round 3: 50.0 KiB."
    assert found[-1] == "This site was made."


@pytest.mark.parametrize(
    "name", ["custodian-start", "approve", "withdraw", "something-new", "leaves-other", "refused-more"]
)
def test_every_event_is_a_sentence(name: str) -> None:
    said = sentence_of({"event": name, "counts": {"bytes": 1}})
    assert said[0].isupper()
    assert said.endswith(".")


def test_a_line_that_is_no_entry_is_counted_and_hides_no_other(home: Hospital) -> None:
    path = home.site.path / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b'{"number": "x"}\nrubbish\n' + b"[" * 5000 + b"\n")
    found = status(home)
    assert found["audit_damaged"] == 3
    assert found["left"]["messages"] == len(LEFT)


def test_a_log_that_is_gone_is_a_fault_and_nothing_is_said_to_have_left(home: Hospital) -> None:
    (home.site.path / "audit.jsonl").unlink()
    found = status(home)
    assert found["left"] is None
    assert [one["code"] for one in found["faults"]] == ["file"]
    assert "left_bytes_week" not in {name for name, *_ in numbers(home)}


# --- the whole -------------------------------------------------------------------------------------------------------


def test_a_site_that_has_not_joined_yet_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Hospital(new_site(tmp_path))
    found = status(home)
    assert (found["federation"], found["faults"], found["link"]["state"]) == (None, [], "off")
    assert state_of(found) == "not-enrolled"
    assert "in no federation yet" in printed(home, capsys)


def test_a_suspended_site_is_told(home: Hospital) -> None:
    found = status(home)
    found["federation"]["standing"] = "suspended"
    assert shown.lead(found) == "This site is suspended in the federation lungs."


def test_the_authority_s_days_are_told_and_urgent_from_seven_on(home: Hospital) -> None:
    (found,) = status(home)["certificates"]
    assert found["level"] == "good"
    (later,) = site_status(home.site, week_later() + timedelta(days=found["days"] - 6))["certificates"]
    assert (later["days"], later["level"]) == (6, "bad")


def test_the_terminal_says_what_the_value_says(home: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(home, capsys)
    assert "does not run" in said
    assert "3 messages left in the last seven days, 130 KiB in all." in said
    assert "m.curie" in said


def test_no_patient_is_named_anywhere_and_no_key_is_shown(home: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.dumps(status(home)) + printed(home, capsys) + str(numbers(home))
    words = set(said.replace('"', " ").split())
    assert not words & set(PATIENTS)
    assert "PRIVATE" not in said


def test_metrics_name_neither_the_hospital_nor_a_data_set_nor_a_person(home: Hospital) -> None:
    labels = {label for name, *found in numbers(home) for label in found}
    assert labels == {"1", "2", "3", "train", "validation", "test", "authority"}


def test_looking_writes_nothing_not_even_into_the_audit_log(home: Hospital) -> None:
    status(home)
    before = {
        path: path.read_bytes() for path in home.site.path.rglob("*") if path.is_file() and "ledger" not in path.name
    }
    status(home)
    after = {
        path: path.read_bytes() for path in home.site.path.rglob("*") if path.is_file() and "ledger" not in path.name
    }
    assert after == before
