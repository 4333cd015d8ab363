"""``consilium-site approve``, ``withdraw``, ``approvals`` and ``audit export`` as people at a hospital type them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deciding_hospital import DATASET, PILOT, PRIVATE, Hospital, plan_of
from small_hospitals import Said
from small_site import site

from client.governance import approvals

Capsys = pytest.CaptureFixture[str]
COMMANDS = (["approve"], ["withdraw"], ["approvals"], ["audit"], ["audit", "export"])


class Desk:
    """A hospital, and what is typed there."""

    def __init__(self, capsys: Capsys, folder: Path) -> None:
        self.capsys, self.hospital = capsys, Hospital(folder)

    def says(self, *words: object) -> Said:
        return site(self.capsys, *words, "--site", self.hospital.site.path)

    def approve(self, *more: object, **changes: Any) -> Said:
        path = self.hospital.write(plan_of(**changes))
        return self.says("approve", path, "--dataset", DATASET, *more)

    def events(self) -> list[str]:
        return [
            json.loads(line)["event"] for line in (self.hospital.site.path / "audit.jsonl").read_text().splitlines()
        ]


@pytest.fixture
def desk(capsys: Capsys, tmp_path: Path) -> Desk:
    return Desk(capsys, tmp_path)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_fits_on_one_screen(capsys: Capsys, command: list[str]) -> None:
    said = site(capsys, *command, "--help")
    lines = said.out.splitlines()
    assert (said.status, said.err) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "..." not in said.out.partition("Commands:")[2]


def test_the_custodian_is_a_command_that_nobody_has_to_see(capsys: Capsys) -> None:
    assert "custodian" not in site(capsys, "--help").out
    assert site(capsys, "custodian", "--help").status == 0


def test_help_needs_none_of_the_heavy_imports() -> None:
    script = "import sys, client.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "client.cli_decisions" in loaded
    assert not {"torch", "grpc", "flwr", "cryptography", "rich"} & set(loaded)


# --- approve ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_shown_and_approved_by_name(desk: Desk) -> None:
    said = desk.approve("--yes", "--by", "maria", "--runs", 2)
    assert said.status == 0, said.err
    assert plan_of().digest() in said.out
    assert "NO PROTECTION" in said.out
    assert f"approved by maria: plan {plan_of().digest()}, 2 runs in all" in said.err
    assert approvals.find(desk.hospital.site, plan_of().digest()).paper.by == "maria"


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("n\n", 1), ("", 1), ("maybe\n", 1)])
def test_without_yes_somebody_has_to_say_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, typed: str, status: int
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    said = desk.approve("--by", "maria")
    assert said.status == status
    assert "May this happen here?" in said.err
    assert ("approve" in desk.events()) == (status == 0)
    if status:
        assert "error: not confirmed" in said.err
        assert "ask whoever answers for these patients" in said.err


def test_json_says_what_the_table_says(desk: Desk) -> None:
    told = json.loads(desk.approve("--yes", "--json", "--by", "maria", **PRIVATE).out)
    assert told["plan"] == {
        "name": "squares",
        "digest": plan_of(**PRIVATE).digest(),
        "task": "classification",
        "rounds": 3,
    }
    assert told["sites"] == ["aachen", "bergen"]
    assert 0 < told["cost"]["after"] < told["cost"]["cap"] == 10.0
    assert told["leaves"]["release"] == "dp"


def test_a_refused_plan_is_one_sentence_and_leaves_no_line(desk: Desk) -> None:
    desk.hospital.policy("")
    before = desk.events()
    said = desk.approve("--yes", "--by", "maria")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: policy.toml [privacy]")
    assert "hint:" in said.err
    assert desk.events() == before


def test_a_file_that_is_no_signed_plan_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[plan]\n")
    said = desk.says("approve", tmp_path / "plan.toml", "--dataset", DATASET, "--yes")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: this is no plan")
    assert desk.says("approve", tmp_path / "none", "--dataset", DATASET).status == 1


def test_a_data_set_that_is_not_there_is_refused(desk: Desk) -> None:
    said = desk.says("approve", desk.hospital.write(plan_of()), "--dataset", "circles", "--yes")
    assert said.status == 1
    assert "there is no data set 'circles'" in said.err


@pytest.mark.parametrize("name", ["Maria Müller", "", "-maria", "x" * 60])
def test_who_decides_is_a_user_name(desk: Desk, name: str) -> None:
    said = desk.approve("--yes", "--by", name) if name else desk.approve("--yes", "--by", " ")
    assert said.status == 2
    assert "--by" in said.err
    assert "approve" not in desk.events()


def test_without_a_name_the_user_of_the_machine_decides(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "Jan")
    assert desk.approve("--yes").status == 0
    assert approvals.listed(desk.hospital.site)[0].by == "jan"


def test_auto_asks_nobody_where_the_policy_permits_it_and_refuses_elsewhere(desk: Desk) -> None:
    refused = desk.approve("--auto", **PRIVATE)
    assert refused.status == 1
    assert "auto_max_epsilon = 0 approves no plan by itself" in refused.err
    desk.hospital.policy(f"{PILOT}[approval]\nauto_max_epsilon = 9.0\n")
    assert desk.approve("--auto", **PRIVATE).status == 0
    assert approvals.listed(desk.hospital.site)[0].by == "policy"


# --- withdraw and approvals ------------------------------------------------------------------------------------------


def test_a_plan_is_withdrawn_by_the_beginning_of_its_digest(desk: Desk) -> None:
    desk.approve("--yes", "--by", "maria")
    digest = plan_of().digest()
    said = desk.says("withdraw", digest[:10], "--by", "jan")
    assert (said.status, said.out) == (0, f"withdrawn: plan {digest}\n")
    assert "cannot be taken back" in said.err
    assert desk.says("withdraw", digest, "--by", "jan").err.startswith("error: the approval of plan")
    assert desk.events()[-2:] == ["approve", "withdraw"]


def test_approvals_are_listed_with_what_became_of_them(desk: Desk) -> None:
    assert "Nothing was approved" in desk.says("approvals").out
    desk.approve("--yes", "--by", "maria", "--runs", 4)
    desk.approve("--yes", "--by", "maria", plan__rounds=2)
    desk.says("withdraw", plan_of().digest(), "--by", "jan")
    said = desk.says("approvals").out
    assert "0 of 4  withdrawn" in said
    assert "0 of 1  approved" in said
    told = json.loads(desk.says("approvals", "--json").out)
    assert {one["state"] for one in told} == {"approved", "withdrawn"}
    assert {one["by"] for one in told} == {"maria"}


# --- audit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "ending"), [((), "txt"), (("--csv",), "csv")])
def test_the_log_is_written_out_for_the_officer(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], ending: str
) -> None:
    desk.approve("--yes", "--by", "maria")
    monkeypatch.chdir(tmp_path)
    said = desk.says("audit", "export", *more)
    count = len(desk.events())
    assert (said.status, said.out) == (0, f"{count} of {count} lines: audit-aachen.{ending}\n")
    text = (tmp_path / f"audit-aachen.{ending}").read_text()
    assert f"verified: {count} lines" in text
    assert "by.maria=1" in text


def test_the_officer_chooses_day_and_file(desk: Desk, tmp_path: Path) -> None:
    said = desk.says("audit", "export", "--since", "2099-01-01", "--out", tmp_path / "out.txt")
    assert said.out.startswith("0 of ")
    assert "since 2099-01-01: 0 lines" in (tmp_path / "out.txt").read_text()
    assert desk.says("audit", "export", "--since", "yesterday").status == 2


def test_a_broken_log_is_written_out_with_its_fault_and_ends_with_status_1(desk: Desk, tmp_path: Path) -> None:
    log = desk.hospital.site.path / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"event":"doctor"', b'"event":"dactor"'))
    said = desk.says("audit", "export", "--out", tmp_path / "out.txt")
    assert said.status == 1
    assert "NOT VERIFIED: line 3 of the audit log was changed" in said.err
    assert "NOT VERIFIED" in (tmp_path / "out.txt").read_text()
    assert desk.says("audit", "verify").status == 1


@pytest.mark.slow
def test_a_plan_s_privacy_can_be_tested_before_it_is_approved(desk: Desk) -> None:
    said = desk.approve("--yes", "--by", "maria", "--self-test", **PRIVATE)
    assert said.status == 0, said.err
    assert desk.events()[-2:] == ["self-test", "approve"]
