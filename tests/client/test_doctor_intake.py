"""What could not be read: sorted by theme, counted, held against the quota."""

import pytest

from client.data.case_files import Quarantined
from client.data.doctor.checks import intake
from client.data.doctor.measuring import Unmeasured


def aside(*codes: str) -> list[Quarantined]:
    return [Quarantined(f"{place:024x}", code, "a sentence") for place, code in enumerate(codes)]


@pytest.mark.parametrize(
    ("code", "theme"),
    [
        ("slice-gap", "quarantined-series"),
        ("duplicate-slice", "quarantined-series"),
        ("mixed-orientation", "quarantined-series"),
        ("mask-grid", "quarantined-mask"),
        ("mask-values", "quarantined-mask"),
        ("not-a-segmentation", "quarantined-mask"),
        ("burned-in-text", "quarantined-burned-in"),
        ("unreadable-dicom", "quarantined-unreadable"),
        ("anything-new", "quarantined-unreadable"),
    ],
)
def test_a_reason_has_its_theme(code: str, theme: str) -> None:
    (finding,) = intake.reasons(aside(code, code))
    assert (finding.code, finding.severity) == (theme, "warning")
    assert finding.cases == tuple(one.case_id for one in aside(code, code))
    assert finding.sentence.endswith(": 2")


def test_every_quarantined_case_is_in_exactly_one_theme() -> None:
    everything = aside("slice-gap", "mask-shape", "burned-in-declared", "no-pixel-data", "file-unreadable")
    named = [case for finding in intake.reasons(everything) for case in finding.cases]
    assert sorted(named) == [one.case_id for one in everything]


def test_nothing_aside_is_nothing_to_say() -> None:
    assert list(intake.reasons([])) == []
    assert list(intake.quota([], 1, 0.0)) == []
    assert list(intake.unmeasured(Unmeasured((), ()), 5)) == []


def test_the_quota_is_a_share_of_all_cases_and_holds_up_to_its_own_value() -> None:
    assert list(intake.quota(aside(*["slice-gap"] * 29), 71, 0.29)) == []
    (finding,) = intake.quota(aside(*["slice-gap"] * 30), 70, 0.29)
    assert (finding.code, finding.severity) == ("quarantine-quota", "error")
    assert "30 of 100 cases could not be used; the site allows 29%" in finding.sentence


def test_an_empty_data_set_is_not_fit_for_use() -> None:
    (finding,) = intake.quota([], 0, 0.2)
    assert finding.code == "quarantine-quota"


def test_cases_without_a_measurement_are_errors_of_two_kinds() -> None:
    damaged, lost = intake.unmeasured(Unmeasured(("a" * 24,), ("b" * 24, "c" * 24)), 9)
    assert (damaged.code, damaged.severity, damaged.cases) == ("archive-damaged", "error", ("a" * 24,))
    assert (lost.code, lost.severity, len(lost.cases)) == ("not-measured", "error", 2)
