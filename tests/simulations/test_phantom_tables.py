"""Tables beside the images: every number again from the values it stands for."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulations.phantoms.anatomy import Population
from simulations.phantoms.cohort import Member, Scan, members, scans
from simulations.phantoms.files import Names
from simulations.phantoms.hospitals import Hospital
from simulations.phantoms.scanner import Scanner
from simulations.phantoms.tables import label_row, truth_row, write_table

HOSPITAL = Hospital(
    "small",
    "Testmed",
    patients=2,
    images=(1, 1),
    population=Population(lesion_prevalence=1.0, malignant_share=0.5),
    scanner=Scanner(phase="late", shape=(40, 48), spacing_mm=8.0),
    faults=("text",),
)


def everything(hospital: Hospital = HOSPITAL) -> list[tuple[Member, Scan, Names]]:
    return [
        (member, scan, Names(1, hospital.name, member.place, scan.place))
        for member in members(hospital, 1)
        for scan in scans(hospital, member, 1)
    ]


def numbers(text: object) -> list[float]:
    return [float(part) for part in str(text).split()]


def test_a_label_row_says_what_a_hospital_knows() -> None:
    for member, _, names in everything():
        row = label_row(member, names, "masks/1.dcm")
        assert row == {
            "patient_id": member.identity.patient_id,
            "series_uid": names.series,
            "mask": "masks/1.dcm",
            "label": member.person.label,
            "sex": member.identity.sex,
            "age": member.identity.age,
        }


def test_no_row_says_a_name_or_a_birth_date() -> None:
    """Names and dates stand in DICOM headers, where de-identification looks for them; tables travel too easily."""
    for member, scan, names in everything():
        said = " ".join(
            str(value)
            for row in (label_row(member, names, "m"), truth_row(HOSPITAL, member, scan, names))
            for value in row.values()
        )
        assert member.identity.family_name not in said
        assert f"{member.identity.born:%Y%m%d}" not in said


def test_a_truth_row_has_the_geometry_of_its_scan() -> None:
    for member, scan, names in everything():
        row = truth_row(HOSPITAL, member, scan, names)
        assert numbers(row["shape"]) == [1, 40, 48]
        assert numbers(row["spacing_mm"]) == [5, 8, 8]
        assert numbers(row["origin_mm"]) == pytest.approx(scan.grid.origin_mm)
        assert row["phase"] == "late"
        assert row["fault"] == (scan.fault or "")


def test_a_truth_row_has_every_lesion_with_centre_and_radius() -> None:
    for member, scan, names in everything():
        row = truth_row(HOSPITAL, member, scan, names)
        centres = [numbers(one) for one in str(row["centres_mm"]).split(";")]
        assert row["lesions"] == len(centres) == len(member.person.lesions)
        for found, lesion in zip(centres, member.person.lesions, strict=True):
            assert found == pytest.approx(lesion.centre_mm)
        assert numbers(row["radii_mm"]) == pytest.approx([lesion.radius_mm for lesion in member.person.lesions])


def test_a_truth_row_counts_every_voxel_once() -> None:
    for member, scan, names in everything():
        row = truth_row(HOSPITAL, member, scan, names)
        background = int((scan.truth.mask == 0).sum())
        assert background + int(str(row["organ_voxels"])) + int(str(row["lesion_voxels"])) == 40 * 48
        liver = scan.truth.hu[scan.truth.mask == 1]
        assert float(str(row["organ_hu"])) == pytest.approx(np.sum(liver) / len(liver), abs=5e-4)


def test_without_lesions_their_columns_are_empty_and_not_zero() -> None:
    member, scan, names = everything(replace(HOSPITAL, population=Population(lesion_prevalence=0.0)))[0]
    row = truth_row(HOSPITAL, member, scan, names)
    assert (row["lesions"], row["lesion_voxels"]) == (0, 0)
    assert (row["lesion_hu"], row["centres_mm"], row["radii_mm"]) == ("", "", "")


def test_a_table_survives_commas_quotes_and_diacritics(tmp_path: Path) -> None:
    rows = [{"name": 'Dvo\u0159\u00e1k, "A."', "age": 7}, {"name": "", "age": 8}]
    write_table(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{"name": rows[0]["name"], "age": "7"}, {"name": "", "age": "8"}]


def test_a_table_has_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", [{"a": 1, "b": 2}])
    assert (tmp_path / "table.csv").read_bytes() == b"a,b\n1,2\n"
