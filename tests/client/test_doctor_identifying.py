"""What may identify people: found, never repeated, never counted; and a clean data set is silent."""

import pytest
from doctored import Row, clean, found, names, table

from client.data.doctor.checks import identifying
from client.data.doctor.checks.identifying import owners, tables
from client.data.doctor.findings import Finding


def columns(rows: list[Row]) -> dict[str, Finding]:
    cases = table(rows)
    return {one.code: one for one in identifying.columns(cases, owners(cases))}


def shown(rows: list[Row]) -> dict[str, dict[str, int]]:
    cases = table(rows)
    return tables(cases, owners(cases))


def grouped(column: str, *values: str) -> list[Row]:
    """Patient by patient these values in turn, beside the sex."""
    return [row.but(subgroups=(("sex", "F"), (column, values[row.number // 2 % len(values)]))) for row in clean()]


def test_a_clean_data_set_is_silent_and_its_tables_count_patients() -> None:
    assert columns(clean()) == {}
    assert found(identifying.burned_in, clean()) == {}
    assert found(identifying.dropped, clean()) == {}
    assert shown(clean()) == {
        "label": {"benign": 6, "malignant": 6},
        "modality": {"ct": 12},
        "sex": {"F": 4, "M": 4, "unknown": 4},
        "vendor": {"aldermed": 12},
    }


def test_a_patient_with_two_values_counts_for_both() -> None:
    rows = clean()
    rows[0] = rows[0].but(label="malignant")
    assert shown(rows)["label"] == {"benign": 6, "malignant": 7}


def test_missing_labels_and_vendors_are_counted_as_unknown() -> None:
    rows = [row.but(label=None, acquisition=()) for row in clean()]
    assert (shown(rows)["label"], shown(rows)["vendor"]) == ({"unknown": 12}, {"unknown": 12})


def test_a_column_with_a_value_for_nearly_every_patient_identifies_and_is_not_counted() -> None:
    rows = grouped("ward", *(f"w{number}" for number in range(7)))
    (finding,) = columns(rows).values()
    assert (finding.code, finding.severity, finding.cases) == ("subgroup-identifies", "error", ())
    assert "'ward' has 7 different values among 12 patients" in finding.sentence
    assert set(shown(rows)) == {"label", "modality", "sex", "vendor"}


def test_half_as_many_values_as_patients_are_allowed() -> None:
    rows = grouped("ward", *(f"w{number}" for number in range(6)))
    assert columns(rows) == {}
    assert set(shown(rows)["ward"].values()) == {2}


@pytest.mark.parametrize(
    "value",
    ["12.03.1957", "1957-03-12", "3/12/57", "Doe^Jane", "Doe, Jane", "1234567", "PAT-0012345", "jane@doe.org",
     "1.2.840.113619.2.55", "Müller^Jürgen", "19570312"],
)  # fmt: skip
def test_a_value_that_looks_like_one_persons_is_found_and_not_repeated(value: str) -> None:
    rows = grouped("ward", "A", "B", "C", value)
    (finding,) = columns(rows).values()
    assert (finding.code, finding.severity) == ("subgroup-looks-like-identifier", "error")
    assert "1 of 4" in finding.sentence
    assert value not in finding.sentence + finding.hint
    assert "ward" not in shown(rows)


@pytest.mark.parametrize(
    "value", ["unknown", "F", "60-79", "0-17", "80+", "BI-RADS 4", "4a", "2019", "3 T", "GE Logiq 7 @10-14MHz", "1.5"]
)
def test_ordinary_values_do_not_look_like_a_persons(value: str) -> None:
    rows = grouped("group", "A", value)
    assert columns(rows) == {}
    assert shown(rows)["group"][value] == 6


def test_among_few_patients_every_value_may_be_one_of_a_kind() -> None:
    rows = grouped("ward", *(f"w{number}" for number in range(7)))[:16]
    assert columns(rows) == {}


def test_a_label_column_that_holds_names_is_found_and_not_counted() -> None:
    rows = [row.but(label=f"Doe^Jane {row.number // 2}") for row in clean()]
    findings = columns(rows)
    assert set(findings) == {"label-identifies", "label-looks-like-identifier"}
    assert not any("Doe" in one.sentence + one.hint for one in findings.values())
    assert "label" not in shown(rows)


def test_images_that_may_show_identifiers_are_named() -> None:
    rows = clean()
    rows[3] = rows[3].but(suspicions=("text", "declared"))
    (finding,) = found(identifying.burned_in, rows).values()
    assert (finding.code, finding.severity) == ("burned-in-suspected", "warning")
    assert finding.cases == names([rows[3]])


def test_what_headers_held_is_counted_in_cases_and_kinds() -> None:
    rows = clean()
    rows[3], rows[4] = rows[3].but(dropped=("name", "date")), rows[4].but(dropped=("date",))
    (finding,) = found(identifying.dropped, rows).values()
    assert (finding.code, finding.severity, finding.cases) == ("identifying-content-dropped", "note", ())
    assert "2 of 24 (of 2 kinds)" in finding.sentence
