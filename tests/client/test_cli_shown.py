"""What people and programs are shown: every number that there is, and the same in both."""

import io
import json

import pytest
from rich.console import Console

from client import shown
from client.commands.ingest import Ingested
from client.data.cohort.manifest import Cohort, Member, SplitRule
from client.data.doctor.findings import Diagnosis, Finding
from client.data.ingest.ingest import Intake
from client.machine.check import Check, Verdict
from shared.messages import Split

DONE = Ingested(
    Intake(7, 6, 5, 4, 3, 1, {"image-size": 2, "mask-shape": 1}, {"image": 25, "quarantined": 3, "not-an-image": 11}),
    cases=25,
    quarantined={"image-size": 4, "mask-shape": 1},
)
FOUND = Diagnosis(
    dataset="lesions",
    patients=12,
    cases=25,
    quarantined={"image-size": 4, "mask-shape": 1},
    files={},
    tables={},
    findings=(
        Finding("mask-empty", "error", ("ab" * 12, "cd" * 12), "2 masks are empty", "look at them"),
        Finding("one-class", "warning", (), "all labels are the same"),
    ),
)


def member(number: int, patient: str, split: Split) -> Member:
    return Member(f"{number:024x}", patient, split, "s", "c", (1, 4, 4), (1.0, 1.0), "other", False, None)


FROZEN = Cohort(
    site="north",
    dataset="lesions",
    rule=SplitRule(7, 0.6, 0.15),
    members=(member(1, "a", "train"), member(2, "a", "train"), member(3, "b", "train"), member(4, "c", "test")),
    excluded=(("by-name", 2), ("mask-empty", 1)),
    quarantined=(("image-size", 4),),
)


def printed(parts: object) -> str:
    out = io.StringIO()
    for part in parts:  # type: ignore[attr-defined]
        Console(file=out, width=100).print(part)
    return out.getvalue()


def row(text: str, name: str) -> list[str]:
    (found,) = [line.split() for line in text.splitlines() if line.split()[:1] == [name]]
    return found[1:]


def test_an_ingest_shows_files_cases_and_reasons() -> None:
    said = printed(shown.ingested(DONE))
    files = {"image": 25, "quarantined": 3, "not-an-image": 11}
    cases = {"stored": 7, "replaced": 6, "annotated": 5, "unchanged": 4, "kept": 3, "withdrawn": 1}
    for name, count in (files | cases | {"image-size": 2, "mask-shape": 1}).items():
        assert row(said, name) == [str(count)]
    assert "The data set holds 25 cases; 16.7% are quarantined." in said


def test_the_share_of_quarantined_cases_is_of_all_that_are_known() -> None:
    assert DONE.share_quarantined == pytest.approx(5 / 30)
    assert Ingested(DONE.intake, 0, {}).share_quarantined == 0


def test_an_ingest_s_document_holds_the_same_numbers_as_json() -> None:
    document = json.loads(json.dumps(shown.ingested_document(DONE)))
    assert document["ingest"]["stored"] == 7
    assert document["ingest"]["files"] == {"image": 25, "quarantined": 3, "not-an-image": 11}
    assert document["ingest"]["quarantined"] == {"image-size": 2, "mask-shape": 1}
    assert (document["cases"], document["quarantined"]) == (25, {"image-size": 4, "mask-shape": 1})
    assert document["share_quarantined"] == pytest.approx(5 / 30)


def test_a_diagnosis_shows_findings_with_their_cases_counted_and_what_to_do() -> None:
    said = printed(shown.diagnosis(FOUND))
    assert "25 cases of 12 patients; 5 quarantined" in said
    assert row(said, "error") == ["mask-empty", "2", *["2", "masks", "are", "empty"]]
    assert row(said, "warning") == ["one-class", "-", *["all", "labels", "are", "the", "same"]]
    assert row(said, "mask-empty") == ["look", "at", "them"]


def test_no_case_is_named_in_a_terminal_whose_scrollback_may_be_pasted_elsewhere() -> None:
    assert "ab" * 12 not in printed(shown.diagnosis(FOUND))


def test_a_diagnosis_without_findings_says_so() -> None:
    assert "Nothing was found." in printed(shown.diagnosis(Diagnosis("x", 1, 1, {}, {}, {}, ())))


def test_a_diagnosis_document_names_the_cases_for_programs_at_the_site() -> None:
    document = json.loads(json.dumps(shown.diagnosis_document(FOUND)))
    assert document["findings"][0]["cases"] == ["ab" * 12, "cd" * 12]
    assert document["patients"] == 12


def test_a_cohort_shows_its_digest_patients_and_cases_by_split_and_what_was_left_out() -> None:
    said = printed(shown.cohort(FROZEN))
    assert FROZEN.digest() in said
    assert row(said, "train") == ["2", "3"]
    assert row(said, "validation") == ["0", "0"]
    assert row(said, "test") == ["1", "1"]
    assert row(said, "by-name") == ["2"]
    assert row(said, "mask-empty") == ["1"]
    assert row(said, "image-size") == ["4"]


def test_a_cohort_s_document_holds_the_same() -> None:
    document = json.loads(json.dumps(shown.cohort_document(FROZEN)))
    assert document["digest"] == FROZEN.digest()
    assert document["splits"]["train"] == {"patients": 2, "cases": 3}
    assert document["excluded"] == {"by-name": 2, "mask-empty": 1}


CHECKS = (Check("disk", "ok", "plenty"), Check("tls", "error", "no handshake", "ask IT"))


def test_checks_show_their_verdicts_and_then_what_to_do() -> None:
    said = printed(shown.checks(CHECKS))
    assert row(said, "disk") == ["ok", "plenty"]
    assert ["tls", "error", "no", "handshake"] in [line.split() for line in said.splitlines()]
    assert ["tls", "ask", "IT"] in [line.split() for line in said.splitlines()]


@pytest.mark.parametrize("name", ["name", "connection", "tls", "interception"])
def test_the_firewall_is_asked_for_where_something_stands_in_the_way(name: str) -> None:
    assert shown.needs_firewall([Check("disk", "ok", ""), Check(name, "error", "")])


@pytest.mark.parametrize(("name", "verdict"), [("connection", "skipped"), ("tls", "warning"), ("disk", "error")])
def test_the_firewall_is_not_asked_for_what_it_cannot_mend(name: str, verdict: Verdict) -> None:
    assert not shown.needs_firewall([Check(name, verdict, "")])
