"""Which errors of the doctor stop a freeze: those that are neither left out whole nor accepted by their code."""

import pytest

from client.commands.freeze import Terms, require_settled
from client.commands.quota import require_fit, share_quarantined
from client.data.cohort.manifest import SplitRule
from client.data.doctor.findings import Finding, Severity
from shared.errors import SiteDataError

RULE = SplitRule(0, 0.6, 0.15)
A, B, C = ("a" * 24, "b" * 24, "c" * 24)


def finding(code: str, cases: tuple[str, ...], severity: Severity = "error") -> Finding:
    return Finding(code, severity, cases, "x")


COPIES, EMPTY, WHOLE = finding("copies", (A, B)), finding("empty", (B,)), finding("one-class", ())


@pytest.mark.parametrize(
    ("findings", "exclude", "accept"),
    [
        ([], (), ()),
        ([finding("copies", (A, B), "warning"), finding("x", (), "note")], (), ()),
        ([COPIES], ("copies",), ()),
        ([COPIES], (A, B), ()),
        ([COPIES, EMPTY], ("copies",), ()),
        ([COPIES, EMPTY], ("empty", A), ()),
        ([COPIES], (), ("copies",)),
        ([WHOLE], (), ("one-class",)),
        ([COPIES, WHOLE], ("copies", C), ("one-class",)),
    ],
)
def test_what_is_left_out_or_accepted_stops_nothing(
    findings: list[Finding], exclude: tuple[str, ...], accept: tuple[str, ...]
) -> None:
    require_settled(findings, Terms(RULE, exclude, accept))


@pytest.mark.parametrize(
    ("findings", "exclude", "accept", "left"),
    [
        ([COPIES], (), (), "copies"),
        ([COPIES], (A,), (), "copies"),
        ([COPIES, EMPTY], ("empty",), (), "copies"),
        ([COPIES, EMPTY], (), ("copies",), "empty"),
        ([COPIES, EMPTY], (), (), "copies, empty"),
        ([WHOLE], ("one-class",), (), "one-class"),
        ([COPIES], (), ("copy",), "copies"),
    ],
)
def test_an_error_that_nobody_settled_stops_the_freeze_and_is_named(
    findings: list[Finding], exclude: tuple[str, ...], accept: tuple[str, ...], left: str
) -> None:
    with pytest.raises(SiteDataError) as caught:
        require_settled(findings, Terms(RULE, exclude, accept))
    assert caught.value.code == "doctor-errors"
    assert caught.value.sentence.endswith(f"neither left out nor accepted: {left}")
    assert f"--accept-findings {left.partition(',')[0]}" in caught.value.hint


@pytest.mark.parametrize(("cases", "quarantined", "share"), [(0, 0, 0.0), (0, 3, 1.0), (9, 1, 0.1), (5, 0, 0.0)])
def test_the_share_is_of_all_cases_that_are_known(cases: int, quarantined: int, share: float) -> None:
    assert share_quarantined(cases, quarantined) == pytest.approx(share)


def test_a_quota_may_be_reached_and_not_exceeded() -> None:
    require_fit(0.2, 0.2)
    with pytest.raises(
        SiteDataError, match=r"20\.1% of the cases are quarantined, the declared quota is 20\.0%"
    ) as caught:
        require_fit(0.201, 0.2)
    assert caught.value.code == "quota"
